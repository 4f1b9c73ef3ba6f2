/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tally [-n COUNT] [FILE]: prints the statistics of a file, or of standard input. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tally.h>

#define TOP_MAX 100

static int fail(const char *what)
{
    fprintf(stderr, "tally: ");
    perror(what);
    return 1;
}

static int read_all(struct tally *tally, FILE *file)
{
    char buffer[1 << 16];
    size_t length;

    while ((length = fread(buffer, 1, sizeof buffer, file)) > 0)
        if (tally_feed(tally, buffer, length) < 0)
            return -1;
    return ferror(file) ? -1 : tally_finish(tally);
}

static void report(const struct tally *tally, size_t limit)
{
    struct tally_word words[TOP_MAX];
    size_t found = tally_top(tally, words, limit);

    printf("%zu lines, %zu words, %zu bytes, %zu distinct words\n", tally_lines(tally),
           tally_words(tally), tally_bytes(tally), tally_distinct(tally));
    for (size_t i = 0; i < found; i++)
        printf("%7zu %s\n", words[i].count, words[i].text);
}

int main(int argc, char **argv)
{
    const char *name = NULL;
    long limit = 5;
    FILE *file = stdin;
    struct tally *tally;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-n") == 0 && i + 1 < argc) {
            limit = strtol(argv[++i], NULL, 10);
        } else if (argv[i][0] != '-' && !name) {
            name = argv[i];
        } else {
            fprintf(stderr, "usage: tally [-n COUNT] [FILE]\n");
            return 2;
        }
    }
    if (limit < 0 || limit > TOP_MAX) {
        fprintf(stderr, "tally: the count must be from 0 to %d\n", TOP_MAX);
        return 2;
    }
    if (name && !(file = fopen(name, "rb")))
        return fail(name);
    if (!(tally = tally_new()) || read_all(tally, file) < 0)
        return fail(name ? name : "standard input");
    report(tally, (size_t)limit);
    tally_free(tally);
    return fflush(stdout) ? fail("standard output") : 0;
}
