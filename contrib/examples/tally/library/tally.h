/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Statistics of a text: how many lines, words and bytes, and which words occur how often. */

#ifndef TALLY_H
#define TALLY_H

#include <stddef.h>

/* The longest word that is counted as one; a longer one is cut. */
#define TALLY_WORD_MAX 63

struct tally_word {
    char text[TALLY_WORD_MAX + 1]; /* in lower case */
    size_t count;
};

struct tally;

/* Returns NULL when there is no memory. */
struct tally *tally_new(void);
void tally_free(struct tally *tally);

/* Takes the next bytes of the text; a word may go on from one call to the next.
   Returns 0, or -1 when there is no memory. */
int tally_feed(struct tally *tally, const char *bytes, size_t length);

/* Ends the text: a word that is under way is counted. Returns as tally_feed does. */
int tally_finish(struct tally *tally);

size_t tally_lines(const struct tally *tally);
size_t tally_words(const struct tally *tally);
size_t tally_bytes(const struct tally *tally);
size_t tally_distinct(const struct tally *tally);

/* Copies the most frequent words, at most `limit`, to `words`: the most frequent
   first, equally frequent ones in alphabetical order. Returns how many. */
size_t tally_top(const struct tally *tally, struct tally_word *words, size_t limit);

#endif
