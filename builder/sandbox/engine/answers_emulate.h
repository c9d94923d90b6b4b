/* A step where every name is answered: status, access, opening and renaming of what is in its tree.
 *
 * The twin of view.py, opening.py, metadata.py and files.py for root's calls on names that lie in
 * no place. A name is opened by the kernel inside the tree (openat2, RESOLVE_IN_ROOT).
 */
#ifndef ANSWERS_EMULATE_H
#define ANSWERS_EMULATE_H

#include "answers_step.h"
#include "answers_chroot.h"

#define UNSURE INT32_MIN /* beside fds and errnos as negative numbers */
#define EXISTING (O_ACCMODE | O_CLOEXEC | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_APPEND | O_NOCTTY | LARGE)
#define STATUS_FLAGS (AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | 0x6000u)
#define EFFECTIVE 0x200u /* AT_EACCESS */
#define ANY_EXECUTE 0111u

/* A status is put into the memory of a step as it is here. */
#if defined(__x86_64__)
_Static_assert(sizeof(struct stat) == 144, "as the kernel has it");
#else
_Static_assert(sizeof(struct stat) == 128, "as the kernel has it");
#endif

static enum outcome answer(const struct answers *step, const struct notice *notice, int64_t value,
                           int error)
{
    struct reply reply = {.id = notice->id, .value = error ? 0 : value, .error = -error};
    (void)ioctl(step->listener, SEND, &reply); /* who asked may be dead */
    return ANSWERED;
}

/* Whether what an fd refers to is seen at a name of the tree that no place covers. */
static bool is_seen(const struct answers *step, int fd)
{
    char name[PAGE];
    if (name_of(fd, name) < 0 || !is_in(step->root_name, name))
        return false;
    const char *seen = name + strlen(step->root_name);
    for (size_t at = 0; at < step->place_count; at++)
        if (is_in(step->places[at], seen))
            return false;
    return true;
}

/* Open an absolute path of the step; an fd, an errno that is the answer, or UNSURE. */
static int open_absolute(const struct answers *step, const char *path, uint64_t flags)
{
    bool is_apart = lies_in_none(step, path);
    if (is_apart && !strstr(path, "/..")) { /* nearly everything: no link on the way */
        int fd = open_below(step->root, path, flags, NO_LINKS | IN_ROOT);
        if (fd >= 0 || fd == -ENOENT)
            return fd;
        if (fd != -ELOOP && fd != -EAGAIN && fd != -EINVAL)
            return fd == -ENOTDIR || fd == -EACCES ? fd : UNSURE;
    }
    if (!is_apart)
        return UNSURE;
    int fd = open_below(step->root, path, flags, IN_ROOT);
    if (fd < 0)
        return UNSURE; /* what is not there may lie beyond a link into a place */
    if (is_seen(step, fd))
        return fd;
    close(fd);
    return UNSURE;
}

/* A path of a task, from the root: itself, or written to `whole`; NULL where that is unsure. */
static const char *absolute(const struct answers *step, uint32_t task, int32_t directory,
                            const char *path, char whole[ROOM])
{
    char link[48];
    if (path[0] == '/')
        return path;
    name_descriptor(link, sizeof link, task, directory);
    ssize_t length = read_link(link, whole);
    if (length < 0 || !is_in(step->root_name, whole))
        return NULL;
    snprintf(whole + length, ROOM - (size_t)length, "/%s", path);
    return whole + strlen(step->root_name);
}

/* Open what a call of root's names by a path; `flags` are those of an open. */
static int open_path(const struct answers *step, uint32_t task, int32_t directory, const char *path,
                     uint64_t flags)
{
    char whole[ROOM];
    if (step->facts.roots_differ)
        return UNSURE;
    const char *name = absolute(step, task, directory, path, whole);
    return name ? open_absolute(step, name, flags) : UNSURE;
}

/* Show a status as it is recorded. */
static void patch(const struct answers *step, struct stat *status)
{
    const struct entry *record = find(&step->records, status->st_dev, status->st_ino);
    if (status->st_uid == step->own_uid)
        status->st_uid = 0;
    if (status->st_gid == step->own_gid)
        status->st_gid = 0;
    if (!record)
        return;
    if (record->uid >= 0)
        status->st_uid = (uid_t)record->uid;
    if (record->gid >= 0)
        status->st_gid = (gid_t)record->gid;
    if (record->mode >= 0) {
        status->st_mode = (mode_t)record->mode;
        status->st_rdev = record->device;
    }
}

/* The status of what a call names by a path; 0, an errno that is the answer, or UNSURE. */
static int status_of(const struct answers *step, uint32_t task, struct named named,
                     const char *path, struct stat *status)
{
    uint64_t flags = O_PATH | (named.flags & AT_SYMLINK_NOFOLLOW ? O_NOFOLLOW : 0);
    int fd = open_path(step, task, named.directory, path, flags);
    if (fd < 0)
        return fd == UNSURE ? UNSURE : -fd;
    int failed = fstat(fd, status) ? UNSURE : 0;
    close(fd);
    return failed;
}

static enum outcome emulate_status(const struct answers *step, const struct notice *notice,
                                   const struct call *call)
{
    char path[PAGE], link[48];
    struct stat status;
    struct named named = named_by(call, notice);
    uint32_t task = notice->task;
    if (named.flags & ~STATUS_FLAGS || !is_root(step, task) || step->facts.unsure)
        return ASK;
    if (!named.address)
        path[0] = 0;
    else if (read_path(task, named.address, path) < 0)
        return ASK;
    if (path[0]) {
        int failed = status_of(step, task, named, path, &status);
        if (failed)
            return failed == UNSURE ? ASK : answer(step, notice, 0, failed);
    } else {
        name_descriptor(link, sizeof link, task, named.directory);
        if (!(named.flags & AT_EMPTY_PATH) || stat(link, &status))
            return ASK;
    }
    patch(step, &status);
    struct iovec here = {&status, sizeof status};
    struct iovec there = {(void *)(uintptr_t)notice->arguments[call->at], sizeof status};
    ssize_t written = process_vm_writev((pid_t)task, &here, 1, &there, 1, 0);
    return answer(step, notice, 0, written == (ssize_t)sizeof status ? 0 : EFAULT);
}

/* Root may do everything but execute what nobody may. */
static enum outcome emulate_access(const struct answers *step, const struct notice *notice,
                                   const struct call *call)
{
    char path[PAGE];
    struct stat status;
    struct named named = named_by(call, notice);
    uint32_t wanted = (uint32_t)notice->arguments[call->at];
    if (named.flags & ~(STATUS_FLAGS | EFFECTIVE) || wanted & ~7u ||
        !is_really_root(step, notice->task) ||
        read_path(notice->task, named.address, path) < 1)
        return ASK;
    int failed = status_of(step, notice->task, named, path, &status);
    if (failed)
        return failed == UNSURE ? ASK : answer(step, notice, 0, failed);
    patch(step, &status);
    bool none = wanted & X_OK && !S_ISDIR(status.st_mode) && !(status.st_mode & ANY_EXECUTE);
    return answer(step, notice, 0, none ? EACCES : 0);
}

/* Open again what a reference is to, without waiting. */
static int open_again(int reference, uint32_t flags)
{
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", reference);
    return open(link, (int)flags | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
}

/* Open a file or directory that is there: others may make us wait, or notice that we came. */
static int open_existing(const struct answers *step, const struct notice *notice,
                         struct named named, const char *path)
{
    struct stat status;
    uint32_t flags = named.flags, how = flags & (uint32_t)(O_NOFOLLOW | O_DIRECTORY);
    int reference = open_path(step, notice->task, named.directory, path, O_PATH | how);
    if (reference < 0)
        return reference;
    int fd = UNSURE;
    bool is_known =
        !fstat(reference, &status) && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode));
    if (is_known && flags & O_NOFOLLOW) /* which the file keeps among its flags */
        fd = open_path(step, notice->task, named.directory, path, flags | O_NOCTTY | O_NONBLOCK);
    else if (is_known)
        fd = open_again(reference, flags);
    close(reference);
    return fd < 0 ? UNSURE : fd;
}

static enum outcome give(const struct answers *step, const struct notice *notice, int fd,
                         uint32_t flags)
{
    struct gift gift = {notice->id, ADD_AND_SEND, (uint32_t)fd, 0, flags & O_CLOEXEC};
    int error = ioctl(step->listener, ADD_FD, &gift) < 0 ? errno : 0;
    close(fd);
    return error && error != ENOENT ? answer(step, notice, 0, error) : ANSWERED;
}

/* Give what was opened to who asked, with the flags that were asked for; it is closed here. */
static enum outcome hand_over(const struct answers *step, const struct notice *notice, int fd,
                              uint32_t flags)
{
    if (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, (int)(flags & O_APPEND)) < 0) {
        close(fd);
        return ASK;
    }
    return give(step, notice, fd, flags);
}

static enum outcome open_and_give(const struct answers *step, const struct notice *notice,
                                  struct named named, uint32_t flags)
{
    char path[PAGE];
    if (read_path(notice->task, named.address, path) < 1)
        return ASK;
    named.flags = flags;
    int fd = open_existing(step, notice, named, path);
    if (fd == UNSURE)
        return ASK;
    return fd < 0 ? answer(step, notice, 0, -fd) : hand_over(step, notice, fd, flags);
}

static enum outcome emulate_open(const struct answers *step, const struct notice *notice,
                                 const struct call *call)
{
    struct named named = named_by(call, notice);
    uint32_t flags = named.flags;
    if (flags & ~(uint32_t)EXISTING || (flags & O_ACCMODE) == O_ACCMODE ||
        !is_root(step, notice->task))
        return ASK;
    return open_and_give(step, notice, named, flags);
}

#endif
