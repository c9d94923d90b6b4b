#ifndef COUNT_H
#define COUNT_H

#include <stddef.h>

/* Words and letters of a text. */
struct count {
    size_t words;
    size_t letters;
};

void count_text(struct count *count, const char *text);

#endif
