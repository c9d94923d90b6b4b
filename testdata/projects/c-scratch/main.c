#include <stdio.h>

#include "count.h"

int main(int argc, char **argv)
{
    struct count count = {0, 0};
    for (int i = 1; i < argc; i++)
        count_text(&count, argv[i]);
    printf("%zu words, %zu letters\n", count.words, count.letters);
    return 0;
}
