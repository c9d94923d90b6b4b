/* Makes the files of ordinary tar entries by the window: the twin of what reader.py and extract.py
 * do for them one by one.
 *
 * Ordinary are regular files, directories and symbolic links whose names need no thought and whose
 * headers are written as every common writer does. Whatever is not ordinary, or is in the way, or
 * fails, ends the call before that entry with nothing of it left: Python takes it from there, and
 * says what is wrong. So nothing here reports an error, and no check is made here instead of there.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

enum {
    REVISION = 1,
    BLOCK = 512,
    LONGEST_PATH = 255,  /* longer ones may have a component that is too long */
    LONGEST_LINK = 100,  /* a header's field holds no more */
    TEXTS = LONGEST_PATH + LONGEST_LINK + 2, /* most bytes of an entry's texts, with their ends */
    PERMISSIONS = 07777,
    PRIVATE_FILE = 0600,
    PRIVATE_DIRECTORY = 0700,
};
enum kind { KIND_FILE, KIND_DIRECTORY, KIND_SYMLINK };
static const int64_t SECOND = 1000000000;
static const int64_t LAST_SECOND = 9223372035; /* whose nanoseconds fit 64 bits whatever follows */
static const uint64_t LARGEST_ID = 4294967294; /* the next number is chown's "leave as it is" */

/* What Python says once. */
struct rules {
    int32_t root_fd;
    uint32_t keep_owner;
    uint32_t has_own; /* new files belong to own_uid, own_gid */
    uint32_t own_uid;
    uint32_t own_gid;
    uint32_t plain_bits; /* permissions that a new file has if they are asked for */
};

/* An entry that was made; its path and link text stand in the texts. */
struct made {
    uint32_t kind;
    uint32_t mode;
    uint32_t uid;
    uint32_t gid;
    int64_t size;
    int64_t mtime;
    uint64_t payload; /* offset in the window */
};

struct entry {
    struct made made;
    char path[LONGEST_PATH + 1];
    char link[LONGEST_LINK + 1];
    size_t path_length;
    const uint8_t *payload;
    size_t whole; /* bytes with all headers, payload and padding */
};

/* The directory something was made in last. */
struct place {
    int fd;
    size_t length;
    char path[LONGEST_PATH + 1];
};

/* A field of octal digits, in blanks or NULs; 0 if it is written in any other way. */
static int octal(const uint8_t *field, size_t length, uint64_t *value)
{
    size_t at = 0;
    uint64_t found = 0;

    while (at < length && (field[at] == ' ' || field[at] == 0))
        at++;
    if (at == length)
        return 0;
    for (; at < length && field[at] >= '0' && field[at] <= '7'; at++)
        found = found << 3 | (uint64_t)(field[at] - '0');
    for (; at < length; at++)
        if (field[at] != ' ' && field[at] != 0)
            return 0;
    *value = found;
    return 1;
}

/* Whether the checksum is right and written as six digits, a NUL and a space. */
static int sound(const uint8_t *block)
{
    uint32_t sum = 0, claimed = 0;

    for (size_t at = 0; at < BLOCK; at++)
        sum += block[at];
    for (size_t at = 148; at < 156; at++)
        sum += ' ' - block[at];
    for (size_t at = 148; at < 154; at++) {
        if (block[at] < '0' || block[at] > '7')
            return 0;
        claimed = claimed << 3 | (uint32_t)(block[at] - '0');
    }
    return block[154] == 0 && block[155] == ' ' && sum == claimed;
}

/* Digits of seconds, with a fraction perhaps, that fill `length` bytes. */
static int seconds(const uint8_t *text, size_t length, int64_t *value)
{
    int64_t whole = 0, part = 0, unit = SECOND / 10;
    size_t at = 0;

    for (; at < length && text[at] >= '0' && text[at] <= '9'; at++) {
        whole = whole * 10 + (text[at] - '0');
        if (whole > LAST_SECOND)
            return 0;
    }
    if (at == 0)
        return 0;
    if (at < length) {
        if (text[at++] != '.' || at == length)
            return 0;
        for (; at < length && text[at] >= '0' && text[at] <= '9'; at++, unit /= 10)
            part += (text[at] - '0') * unit;
    }
    *value = whole * SECOND + part;
    return at == length;
}

/* An extended header that says times only: whether it is one, and the time if it says it. */
static int times_only(const uint8_t *data, size_t length, int64_t *mtime, int *has_mtime)
{
    size_t start = 0;

    while (start < length) {
        size_t size = 0, at = start;
        for (; at < length && at < start + 3 && data[at] >= '0' && data[at] <= '9'; at++)
            size = size * 10 + (size_t)(data[at] - '0');
        if (at == start || at == length || data[at] != ' ')
            return 0;
        at++;
        if (size > length - start || start + size < at + 8 || data[start + size - 1] != '\n')
            return 0;
        size_t left = start + size - 1 - at;
        if (left > 6 && memcmp(data + at, "mtime=", 6) == 0) {
            if (!seconds(data + at + 6, left - 6, mtime))
                return 0;
            *has_mtime = 1;
        } else if (memcmp(data + at, "atime=", 6) != 0 && memcmp(data + at, "ctime=", 6) != 0) {
            return 0;
        }
        start += size;
    }
    return 1;
}

/* The numbers that every header has. */
static int numbers(const uint8_t *block, struct made *made)
{
    uint64_t mode, uid, gid, size, mtime;

    if (!octal(block + 100, 8, &mode) || !octal(block + 108, 8, &uid) ||
        !octal(block + 116, 8, &gid) || !octal(block + 124, 12, &size) ||
        !octal(block + 136, 12, &mtime))
        return 0;
    if (uid > LARGEST_ID || gid > LARGEST_ID || mtime > (uint64_t)LAST_SECOND ||
        size > (uint64_t)INT64_MAX >> 2)
        return 0;
    made->mode = (uint32_t)(mode & PERMISSIONS);
    made->uid = (uint32_t)uid;
    made->gid = (uint32_t)gid;
    made->size = (int64_t)size;
    made->mtime = (int64_t)mtime * SECOND;
    return 1;
}

/* The name of a header without what may stand before and, of a directory, behind it. */
static int take_path(const uint8_t *block, struct entry *entry)
{
    size_t prefix = 0, name = strnlen((const char *)block, 100);
    const char *magic = (const char *)block + 257;
    char *path = entry->path;

    if (block[345] != 0 && memcmp(magic, "ustar\0", 6) == 0) {
        if (memcmp(block + 508, "tar\0", 4) == 0)
            return 0;
        prefix = strnlen((const char *)block + 345, 155);
    }
    size_t length = prefix ? prefix + 1 + name : name;
    if (length > LONGEST_PATH)
        return 0;
    if (prefix) {
        memcpy(path, block + 345, prefix);
        path[prefix] = '/';
        memcpy(path + prefix + 1, block, name);
    } else {
        memcpy(path, block, name);
    }
    if (length > 2 && path[0] == '.' && path[1] == '/') {
        length -= 2;
        memmove(path, path + 2, length);
    }
    if (entry->made.kind == KIND_DIRECTORY && length && path[length - 1] == '/')
        length--;
    path[length] = 0;
    entry->path_length = length;
    return 1;
}

/* Whether a path consists of names only, none of which means anything else. */
static int is_ordinary(const char *path, size_t length)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;

    if (length == 0 || path[0] == '/' || path[0] == '.' || path[length - 1] == '/')
        return 0;
    /* A name that begins with a dot is looked at by Python only if it may be a special one. */
    for (const char *dot = strstr(path, "/."); dot; dot = strstr(dot + 1, "/."))
        if (dot[2] == '/' || dot[2] == '.' || dot[2] == 0)
            return 0;
    return strstr(path, "//") == NULL && strncmp(name, ".wh.", 4) != 0;
}

/* Read the entry at the beginning of a window; 0 if it is not ordinary or not all there.
 *
 * `*wanted` is then how long the window must be to hold it, 0 if it is not ordinary.
 */
static int take_entry(const uint8_t *data, size_t length, struct entry *entry, size_t *wanted)
{
    const uint8_t *block = data;
    int64_t mtime = 0;
    int has_mtime = 0;
    struct made extended;

    *wanted = length < BLOCK ? BLOCK : 0;
    if (length < BLOCK || !sound(block))
        return 0;
    if (block[156] == 'x') {
        if (!numbers(block, &extended) || extended.size > BLOCK)
            return 0;
        *wanted = length < 3 * BLOCK ? 3 * BLOCK : 0;
        if (*wanted)
            return 0;
        if (!times_only(block + BLOCK, (size_t)extended.size, &mtime, &has_mtime))
            return 0;
        block += extended.size ? 2 * BLOCK : BLOCK;
        if (!sound(block))
            return 0;
    }
    uint8_t type = block[156];
    if (type != '0' && type != '2' && type != '5' && type != 0)
        return 0;
    entry->made.kind = type == '5' ? KIND_DIRECTORY : type == '2' ? KIND_SYMLINK : KIND_FILE;
    if (!numbers(block, &entry->made) || !take_path(block, entry))
        return 0;
    if (!is_ordinary(entry->path, entry->path_length))
        return 0;
    if (has_mtime)
        entry->made.mtime = mtime;
    size_t link = entry->made.kind == KIND_SYMLINK ? strnlen((const char *)block + 157, 100) : 0;
    if (entry->made.kind == KIND_SYMLINK && link == 0)
        return 0;
    memcpy(entry->link, block + 157, link);
    entry->link[link] = 0;
    entry->payload = block + BLOCK;
    if (entry->made.kind != KIND_FILE)
        entry->made.size = 0;
    size_t before = (size_t)(entry->payload - data), size = (size_t)entry->made.size;
    entry->made.payload = before;
    entry->whole = before + size + (BLOCK - size % BLOCK) % BLOCK;
    *wanted = entry->whole > length ? entry->whole : 0;
    return *wanted == 0;
}

/* The directory a path lies in, which this layer must have made: no link leads there. */
static int open_parent(const struct rules *rules, struct place *place, const struct entry *entry)
{
    struct { uint64_t flags, mode, resolve; } how = {
        /* as open_beneath of rooted.py: RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS */
        O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0, 0x08 | 0x04};
    const char *slash = strrchr(entry->path, '/');
    size_t length = slash ? (size_t)(slash - entry->path) : 0;

    if (place->fd >= 0 && place->length == length && memcmp(place->path, entry->path, length) == 0)
        return 1;
    if (place->fd >= 0)
        close(place->fd);
    memcpy(place->path, entry->path, length);
    place->path[length] = 0;
    place->length = length;
    const char *path = length ? place->path : ".";
    place->fd = (int)syscall(SYS_openat2, rules->root_fd, path, &how, sizeof how);
    return place->fd >= 0;
}

static int write_all(int fd, const uint8_t *data, size_t length)
{
    while (length) {
        ssize_t count = write(fd, data, length);
        if (count < 0) {
            if (errno == EINTR)
                continue;
            return 0;
        }
        data += count;
        length -= (size_t)count;
    }
    return 1;
}

static int needs_owner(const struct rules *rules, const struct made *made)
{
    int is_own = rules->has_own && made->uid == rules->own_uid && made->gid == rules->own_gid;
    return rules->keep_owner && !is_own;
}

static void times_of(const struct made *made, struct timespec times[2])
{
    times[0].tv_sec = (time_t)(made->mtime / SECOND);
    times[0].tv_nsec = (long)(made->mtime % SECOND);
    times[1] = times[0];
}

/* Make a file as Dresser of attributes.py has it: owner, then mode, then time. */
static int make_file(const struct rules *rules, int at, const char *name, const struct entry *entry)
{
    const struct made *made = &entry->made;
    int is_plain = !(made->mode & ~rules->plain_bits);
    int is_given = needs_owner(rules, made);
    struct timespec times[2];
    int fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                    is_plain ? made->mode : PRIVATE_FILE);

    if (fd < 0)
        return 0;
    times_of(made, times);
    int done = write_all(fd, entry->payload, (size_t)made->size);
    done = done && (!is_given || fchown(fd, made->uid, made->gid) == 0);
    done = done && ((is_plain && !is_given) || fchmod(fd, made->mode) == 0);
    done = done && futimens(fd, times) == 0;
    close(fd);
    if (!done)
        unlinkat(at, name, 0);
    return done;
}

static int make_link(const struct rules *rules, int at, const char *name, const struct entry *entry)
{
    const struct made *made = &entry->made;
    struct timespec times[2];

    if (symlinkat(entry->link, at, name) != 0)
        return 0;
    times_of(made, times);
    int done = !needs_owner(rules, made) ||
               fchownat(at, name, made->uid, made->gid, AT_SYMLINK_NOFOLLOW) == 0;
    done = done && utimensat(at, name, times, AT_SYMLINK_NOFOLLOW) == 0;
    if (!done)
        unlinkat(at, name, 0);
    return done;
}

static int make(const struct rules *rules, struct place *place, const struct entry *entry)
{
    if (!open_parent(rules, place, entry))
        return 0;
    const char *name = entry->path + (place->length ? place->length + 1 : 0);
    switch (entry->made.kind) {
    case KIND_DIRECTORY: /* gets its attributes when all is in it */
        return mkdirat(place->fd, name, PRIVATE_DIRECTORY) == 0;
    case KIND_SYMLINK:
        return make_link(rules, place->fd, name, entry);
    default:
        return make_file(rules, place->fd, name, entry);
    }
}

PUBLIC int revision(void)
{
    return REVISION;
}

/* Make the ordinary entries that a window of `length` bytes at `data + start` begins with.
 *
 * Gives how many were made, their records, their paths and link texts (each with a NUL at its end,
 * `*used` bytes in all), how much of the window they were, and how long a window the next one
 * wants: 0 if it is Python's.
 */
PUBLIC size_t bulk_unpack(const struct rules *rules, const uint8_t *data, size_t start,
                          size_t length, struct made *records, size_t room, char *texts,
                          size_t texts_room, size_t *used, size_t *consumed, size_t *wanted)
{
    struct place place = {.fd = -1};
    struct entry entry;
    size_t count = 0, at = 0, text = 0;

    data += start;
    *wanted = 1; /* whatever there is, when there is no more room */
    while (count < room && texts_room - text >= TEXTS) {
        if (!take_entry(data + at, length - at, &entry, wanted))
            break;
        if (!make(rules, &place, &entry))
            break;
        *wanted = 1;
        entry.made.payload += at;
        records[count++] = entry.made;
        at += entry.whole;
        size_t link = strlen(entry.link) + 1;
        memcpy(texts + text, entry.path, entry.path_length + 1);
        text += entry.path_length + 1;
        memcpy(texts + text, entry.link, link);
        text += link;
    }
    if (place.fd >= 0)
        close(place.fd);
    *used = text;
    *consumed = at;
    return count;
}
