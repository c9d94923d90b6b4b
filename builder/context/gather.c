/* Reads small files of one directory, many in a call: the twin of SmallFiles._alone in
 * smallfiles.py. A file that cannot be opened, is not what was listed or does not fit ends the
 * call before it: Python looks at it again, and says what is wrong. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

enum { REVISION = 1, DIGEST = 32 };
static const int64_t SECOND = 1000000000;

/* What the listing said; smallfiles.py packs the same four numbers. */
struct listed {
    uint64_t inode;
    int64_t size;
    int64_t modified;
    int64_t changed;
};

/* OpenSSL's SHA256: gives `digest`, or NULL. */
typedef uint8_t *hash_function(const uint8_t *data, size_t length, uint8_t *digest);

static int64_t nanoseconds(struct timespec when)
{
    return (int64_t)when.tv_sec * SECOND + when.tv_nsec;
}

static int is_listed(const struct stat *now, const struct listed *then)
{
    return now->st_ino == then->inode && now->st_size == then->size &&
           nanoseconds(now->st_mtim) == then->modified &&
           nanoseconds(now->st_ctim) == then->changed;
}

/* Reads one file to `to`, where there is room for one byte more than it has; 1 if it is all there
 * and as it was listed afterwards. */
static int take(int directory, const char *name, const struct listed *then, uint8_t *to)
{
    struct stat now;
    int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, to, (size_t)then->size + 1);
    int fits = got == then->size && fstat(fd, &now) == 0 && is_listed(&now, then);
    close(fd);
    return fits;
}

PUBLIC int revision(void)
{
    return REVISION;
}

/* Reads `count` files, one behind the other, to the `room` bytes at `buffer`; `names` are as many
 * texts, each with its NUL, in `length` bytes. Digests are made where there is a `hash`. Returns
 * how many files were read. */
PUBLIC int gather(int directory, const char *names, size_t length, const struct listed *listed,
                  int count, uint8_t *buffer, size_t room, hash_function *hash, uint8_t *digests)
{
    size_t used = 0;
    int done = 0;
    for (; done < count; done++) {
        const struct listed *then = &listed[done];
        size_t name = strnlen(names, length);
        if (name == length || then->size < 0 || (uint64_t)then->size >= room - used)
            break;
        if (!take(directory, names, then, buffer + used))
            break;
        if (hash && !hash(buffer + used, (size_t)then->size, digests + (size_t)done * DIGEST))
            break;
        used += (size_t)then->size;
        names += name + 1;
        length -= name + 1;
    }
    return done;
}
