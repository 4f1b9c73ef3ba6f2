/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The builder of the benchmarks: static, so that it runs where there is nothing else.
 *
 * It writes to $out: $unique, $mention, if any, and $size bytes, if any, that nothing
 * compresses. Where it writes many it tells how long that took: "took N ns". Without $out, as
 * in a bare container, it does nothing.
 */

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t block[128 * 1024];

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void fill(void)
{
    static uint64_t state = 88172645463325252u;
    for (size_t at = 0; at < sizeof block / sizeof *block; at++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block[at] = state;
    }
}

static void put(int file, const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        ssize_t written = write(file, at, size);
        if (written < 0)
            exit(1);
        at += written;
        size -= (size_t)written;
    }
}

static void put_random(int file, uint64_t size)
{
    fill();
    while (size > 0) {
        size_t part = size < sizeof block ? (size_t)size : sizeof block;
        block[0]++;
        put(file, block, part);
        size -= part;
    }
}

int main(void)
{
    const char *out = getenv("out"), *unique = getenv("unique"), *mention = getenv("mention"), *size = getenv("size");
    if (out == NULL)
        return 0;
    if (unique == NULL)
        return 1;
    uint64_t start = now();
    int file = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file < 0)
        return 1;
    put(file, unique, strlen(unique));
    if (mention != NULL)
        put(file, mention, strlen(mention));
    if (size != NULL)
        put_random(file, strtoull(size, NULL, 10));
    close(file);
    if (size != NULL)
        printf("took %llu ns\n", (unsigned long long)(now() - start));
    return 0;
}
