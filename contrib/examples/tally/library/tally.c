/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tally.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 64 /* a power of two, so that a mask replaces the division */

/* Words lie in an open hash table that is never more than half full; an unused
   place has a count of 0. */
struct tally {
    size_t lines, words, bytes;
    size_t distinct, capacity;
    struct tally_word *table;
    struct tally_word current;
    size_t current_length;
};

static size_t hash_of(const char *text)
{
    size_t hash = 1469598103934665603u; /* FNV-1a */
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 1099511628211u;
    return hash;
}

static struct tally_word *place_of(struct tally_word *table, size_t capacity, const char *text)
{
    size_t i = hash_of(text) & (capacity - 1);
    while (table[i].count && strcmp(table[i].text, text) != 0)
        i = (i + 1) & (capacity - 1);
    return &table[i];
}

static int grow(struct tally *tally)
{
    size_t capacity = tally->capacity * 2;
    struct tally_word *table = calloc(capacity, sizeof *table);
    if (!table)
        return -1;
    for (size_t i = 0; i < tally->capacity; i++)
        if (tally->table[i].count)
            *place_of(table, capacity, tally->table[i].text) = tally->table[i];
    free(tally->table);
    tally->table = table;
    tally->capacity = capacity;
    return 0;
}

static int count_current(struct tally *tally)
{
    struct tally_word *place;

    if (!tally->current_length)
        return 0;
    if (2 * (tally->distinct + 1) > tally->capacity && grow(tally) < 0)
        return -1;
    tally->current.text[tally->current_length] = '\0';
    tally->current_length = 0;
    tally->words++;
    place = place_of(tally->table, tally->capacity, tally->current.text);
    if (!place->count) {
        strcpy(place->text, tally->current.text);
        tally->distinct++;
    }
    place->count++;
    return 0;
}

struct tally *tally_new(void)
{
    struct tally *tally = calloc(1, sizeof *tally);
    if (!tally)
        return NULL;
    tally->capacity = FIRST_CAPACITY;
    tally->table = calloc(tally->capacity, sizeof *tally->table);
    if (!tally->table) {
        free(tally);
        return NULL;
    }
    return tally;
}

void tally_free(struct tally *tally)
{
    if (tally)
        free(tally->table);
    free(tally);
}

/* Bytes beyond ASCII belong to words, so that UTF-8 stays in one piece. */
static int is_word_byte(unsigned char byte)
{
    return byte >= 128 || isalnum(byte) || byte == '\'';
}

int tally_feed(struct tally *tally, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)bytes[i];
        tally->bytes++;
        tally->lines += byte == '\n';
        if (!is_word_byte(byte)) {
            if (count_current(tally) < 0)
                return -1;
        } else if (tally->current_length < TALLY_WORD_MAX) {
            tally->current.text[tally->current_length++] = (char)tolower(byte);
        }
    }
    return 0;
}

int tally_finish(struct tally *tally)
{
    return count_current(tally);
}

size_t tally_lines(const struct tally *tally) { return tally->lines; }
size_t tally_words(const struct tally *tally) { return tally->words; }
size_t tally_bytes(const struct tally *tally) { return tally->bytes; }
size_t tally_distinct(const struct tally *tally) { return tally->distinct; }

static int comes_before(const struct tally_word *a, const struct tally_word *b)
{
    if (a->count != b->count)
        return a->count > b->count;
    return strcmp(a->text, b->text) < 0;
}

size_t tally_top(const struct tally *tally, struct tally_word *words, size_t limit)
{
    size_t found = 0;

    if (!limit)
        return 0;
    for (size_t i = 0; i < tally->capacity; i++) {
        size_t at;
        if (!tally->table[i].count)
            continue;
        if (found == limit && !comes_before(&tally->table[i], &words[found - 1]))
            continue;
        at = found < limit ? found++ : limit - 1;
        for (; at > 0 && comes_before(&tally->table[i], &words[at - 1]); at--)
            words[at] = words[at - 1];
        words[at] = tally->table[i];
    }
    return found;
}
