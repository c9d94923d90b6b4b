#include "count.h"

#include <ctype.h>

void count_text(struct count *count, const char *text)
{
    int inside = 0;
    for (; *text; text++) {
        int letter = isalnum((unsigned char)*text) != 0;
        count->words += (size_t)(letter && !inside);
        count->letters += (size_t)letter;
        inside = letter;
    }
}
