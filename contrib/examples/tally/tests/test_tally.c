/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Tests of the library; prints one line a test in the form of the Test Anything Protocol. */

#include <stdio.h>
#include <string.h>

#include <tally.h>

static int number, failures;

static void check(int good, const char *what)
{
    failures += !good;
    printf("%s %d - %s\n", good ? "ok" : "not ok", ++number, what);
}

static struct tally *tally_of(const char *text)
{
    struct tally *tally = tally_new();
    if (tally && (tally_feed(tally, text, strlen(text)) < 0 || tally_finish(tally) < 0))
        return NULL;
    return tally;
}

static void counts(void)
{
    struct tally *tally = tally_of("One fish,\ntwo fish.\n");
    check(tally_lines(tally) == 2, "line ends are counted");
    check(tally_words(tally) == 4, "punctuation is no part of a word");
    check(tally_bytes(tally) == 20, "every byte is counted");
    check(tally_distinct(tally) == 3, "a word that occurs twice is one word");
    tally_free(tally);
}

static void order(void)
{
    struct tally_word words[2];
    struct tally *tally = tally_of("b a c A b a");
    check(tally_top(tally, words, 2) == 2, "no more words are given than asked for");
    check(strcmp(words[0].text, "a") == 0 && words[0].count == 3, "the most frequent comes first");
    check(strcmp(words[1].text, "b") == 0 && words[1].count == 2, "the next one follows");
    tally_free(tally);
}

static void pieces(void)
{
    struct tally *tally = tally_new();
    tally_feed(tally, "hel", 3);
    tally_feed(tally, "lo", 2);
    tally_finish(tally);
    check(tally_words(tally) == 1, "a word goes on from one piece to the next");
    tally_free(tally);
}

static void growth(void)
{
    char word[16];
    struct tally *tally = tally_new();
    for (int i = 0; i < 5000; i++)
        tally_feed(tally, word, (size_t)sprintf(word, "w%d ", i));
    check(tally_distinct(tally) == 5000, "the table grows");
    tally_free(tally);
}

static void extremes(void)
{
    char text[1000];
    struct tally_word word;
    struct tally *tally = tally_of("");
    check(tally_words(tally) == 0 && tally_top(tally, &word, 1) == 0, "an empty text has no words");
    tally_free(tally);
    memset(text, 'x', sizeof text);
    tally = tally_new();
    tally_feed(tally, text, sizeof text);
    tally_finish(tally);
    tally_top(tally, &word, 1);
    check(strlen(word.text) == TALLY_WORD_MAX, "a word that is too long is cut");
    tally_free(tally);
}

int main(void)
{
    counts();
    order();
    pieces();
    growth();
    extremes();
    printf("1..%d\n", number);
    return failures != 0;
}
