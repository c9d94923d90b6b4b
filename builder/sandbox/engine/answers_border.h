/* The border to the kernel: notifications, another process's memory, names opened in a root.
 *
 * The twin of kernel.py. Knows numbers and structures, no policy.
 */
#ifndef ANSWERS_BORDER_H
#define ANSWERS_BORDER_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE 0xC000003Eu
#define LARGE 0100000u /* O_LARGEFILE as programs say it */
#elif defined(__aarch64__)
#define ARCHITECTURE 0xC00000B7u
#define LARGE 0400000u
#else
#error "no table of system calls for this machine"
#endif

#define PAGE 4096u
#define GUESS 256u /* most paths are shorter */
#define ROOM (2 * PAGE + 2) /* a directory's name, a slash, a path */
#define MOST_TRIES 16 /* a rename elsewhere makes the kernel ask for another one */

#define RECEIVE 0xC0502100ul
#define SEND 0xC0182101ul
#define ADD_FD 0x40182103ul
#define GO_ON 1u
#define ADD_AND_SEND 2u

#define OPENAT2 437
#define NO_LINKS 0x04u
#define IN_ROOT 0x10u

struct notice { /* struct seccomp_notif */
    uint64_t id;
    uint32_t task, flags;
    int32_t number;
    uint32_t architecture;
    uint64_t pointer, arguments[6];
};
_Static_assert(sizeof(struct notice) == 80, "as the kernel has it");

struct reply { /* struct seccomp_notif_resp */
    uint64_t id;
    int64_t value;
    int32_t error;
    uint32_t flags;
};

struct gift { /* struct seccomp_notif_addfd */
    uint64_t id;
    uint32_t flags, ours, theirs, theirs_flags;
};

struct how { /* struct open_how */
    uint64_t flags, mode, resolve;
};

/* Who asked may be dead: nobody waits for these then. */
static void go_on(int listener, uint64_t id)
{
    struct reply reply = {.id = id, .flags = GO_ON};
    (void)ioctl(listener, SEND, &reply);
}

/* Text of a task that ends within a page of room; its length, -1 for Python to say what is wrong. */
static ssize_t read_path(uint32_t task, uint64_t address, char text[PAGE])
{
    size_t got = 0;
    while (got < PAGE) {
        size_t size = PAGE - ((address + got) & (PAGE - 1)); /* the next page may not be there */
        if (got == 0 && size > GUESS)
            size = GUESS;
        if (size > PAGE - got)
            size = PAGE - got;
        struct iovec here = {text + got, size};
        struct iovec there = {(void *)(uintptr_t)(address + got), size};
        ssize_t part = process_vm_readv((pid_t)task, &here, 1, &there, 1, 0);
        if (part <= 0)
            return -1;
        const char *end = memchr(text + got, 0, (size_t)part);
        if (end)
            return end - text;
        got += (size_t)part;
    }
    return -1;
}

/* openat2 below a root; an fd, or an errno as a negative number. */
static int open_below(int root, const char *path, uint64_t flags, uint64_t resolve)
{
    struct how how = {.flags = flags | O_CLOEXEC, .resolve = resolve};
    for (int tries = 0; tries < MOST_TRIES; tries++) {
        long fd = syscall(OPENAT2, root, path, &how, sizeof how);
        if (fd >= 0)
            return (int)fd;
        if (errno != EAGAIN || resolve & NO_LINKS)
            return -errno;
    }
    return -EAGAIN;
}

/* The link in /proc to a descriptor of a task, or to its working directory. */
static void name_descriptor(char *name, size_t room, uint32_t task, int32_t number)
{
    if (number == AT_FDCWD)
        snprintf(name, room, "/proc/%u/cwd", task);
    else
        snprintf(name, room, "/proc/%u/fd/%d", task, number);
}

/* What a link says, ended by a zero; its length, -1 where there is none or it is too long. */
static ssize_t read_link(const char *name, char text[PAGE])
{
    ssize_t length = readlink(name, text, PAGE);
    if (length < 0 || length >= (ssize_t)PAGE)
        return -1;
    text[length] = 0;
    return length;
}

static ssize_t name_of(int fd, char text[PAGE])
{
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return read_link(link, text);
}

#endif
