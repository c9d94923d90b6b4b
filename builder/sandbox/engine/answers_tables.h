/* Tables by two numbers: records by inode, and sets of texts by their hash.
 *
 * Of a text only hash and length are kept. Two that are taken for one send a call to Python, which
 * knows better: so nothing may be let go on because a text is in a set, only because it is not.
 */
#ifndef ANSWERS_TABLES_H
#define ANSWERS_TABLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define SMALLEST 64u /* a power of two */

struct entry {
    uint64_t key[2];
    int64_t uid, gid, mode; /* -1 where it is the kernel's */
    uint64_t device;
    bool used;
};

struct table { /* open addressing; at most half full */
    struct entry *entries;
    size_t size, count;
};

static size_t place_of(const struct table *table, const uint64_t key[2])
{
    uint64_t mixed = (key[0] * 0x9E3779B97F4A7C15u) ^ (key[1] * 0xC2B2AE3D27D4EB4Fu);
    mixed ^= mixed >> 32;
    return (size_t)mixed & (table->size - 1);
}

/* The entry of a key, or the free one where it would be. */
static struct entry *slot_of(const struct table *table, const uint64_t key[2])
{
    size_t at = place_of(table, key);
    while (table->entries[at].used) {
        struct entry *entry = &table->entries[at];
        if (entry->key[0] == key[0] && entry->key[1] == key[1])
            break;
        at = (at + 1) & (table->size - 1);
    }
    return &table->entries[at];
}

static struct entry *find(const struct table *table, uint64_t first, uint64_t second)
{
    if (!table->count)
        return NULL;
    struct entry *entry = slot_of(table, (uint64_t[]){first, second});
    return entry->used ? entry : NULL;
}

static bool grow(struct table *table)
{
    size_t size = table->size ? table->size * 2 : SMALLEST;
    struct table larger = {calloc(size, sizeof(struct entry)), size, table->count};
    if (!larger.entries)
        return false;
    for (size_t at = 0; at < table->size; at++)
        if (table->entries[at].used)
            *slot_of(&larger, table->entries[at].key) = table->entries[at];
    free(table->entries);
    *table = larger;
    return true;
}

/* False where there is no memory for it. */
static bool put(struct table *table, const struct entry *wanted)
{
    if (table->count * 2 >= table->size && !grow(table))
        return false;
    struct entry *entry = slot_of(table, wanted->key);
    table->count += !entry->used;
    *entry = *wanted;
    entry->used = true;
    return true;
}

static void drop(struct table *table, uint64_t first, uint64_t second)
{
    struct entry *entry = find(table, first, second);
    if (!entry)
        return;
    entry->used = false;
    table->count--;
    size_t at = (size_t)(entry - table->entries);
    for (;;) { /* those behind it may have been kept from its place */
        at = (at + 1) & (table->size - 1);
        if (!table->entries[at].used)
            return;
        struct entry moved = table->entries[at];
        table->entries[at].used = false;
        *slot_of(table, moved.key) = moved;
    }
}

static uint64_t hash_of(const char *text, size_t length)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t at = 0; at < length; at++)
        hash = (hash ^ (unsigned char)text[at]) * 0x100000001B3u;
    return hash;
}

static bool has_text(const struct table *table, const char *text, size_t length)
{
    return table->count && find(table, hash_of(text, length), length);
}

static bool put_text(struct table *table, const char *text, size_t length)
{
    return put(table, &(struct entry){.key = {hash_of(text, length), length}});
}

#endif
