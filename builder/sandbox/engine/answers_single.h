/* A step with mounts of its own but a single id: lets go on what nothing is recorded of.
 *
 * The twin of owners.py, names.py and located.py, for their most frequent outcome.
 */
#ifndef ANSWERS_SINGLE_H
#define ANSWERS_SINGLE_H

#include "answers_step.h"

#define UNKNOWN (-1)
#define MISSING (-2)
#define TEMPORARY 020000000u /* the bit O_TMPFILE has beside O_DIRECTORY */
#define SET_IDS (S_ISUID | S_ISGID)

/* Errors of ours that do not tell whether a name is there. */
static bool is_own_trouble(int error)
{
    return error == EACCES || error == EPERM || error == EAGAIN || error == EMFILE ||
           error == ENFILE || error == ENOMEM || error == EINTR;
}

static int opened_or(int result)
{
    if (result >= 0)
        return result;
    return is_own_trouble(-result) ? UNKNOWN : MISSING;
}

/* An O_PATH fd of a descriptor of a task, UNKNOWN or MISSING. */
static int find_descriptor(const struct answers *step, uint32_t task, int32_t number)
{
    char link[48];
    if (step->facts.unsure)
        return UNKNOWN;
    name_descriptor(link, sizeof link, task, number);
    int fd = open(link, O_PATH | O_CLOEXEC);
    return opened_or(fd < 0 ? -errno : fd);
}

/* An O_PATH fd of a path of a task that is root, UNKNOWN or MISSING. */
static int find_path(const struct answers *step, uint32_t task, int32_t directory,
                     const char *path, bool follow)
{
    char whole[ROOM], link[48];
    if (step->facts.roots_differ)
        return UNKNOWN;
    if (path[0] != '/') {
        name_descriptor(link, sizeof link, task, directory);
        ssize_t length = read_link(link, whole);
        if (length < 0)
            return UNKNOWN;
        size_t start = length == 1 && whole[0] == '/' ? 0 : (size_t)length;
        snprintf(whole + start, sizeof whole - start, "/%s", path);
        path = whole;
    }
    return opened_or(open_below(step->root, path, O_PATH | (follow ? 0 : O_NOFOLLOW), IN_ROOT));
}

/* An O_PATH fd of what a call of root's names, UNKNOWN or MISSING. */
static int find_named(const struct answers *step, uint32_t task, struct named named)
{
    char path[PAGE];
    if (!named.address)
        path[0] = 0;
    else if (read_path(task, named.address, path) < 0)
        return UNKNOWN;
    if (path[0])
        return find_path(step, task, named.directory, path, !(named.flags & AT_SYMLINK_NOFOLLOW));
    return named.flags & AT_EMPTY_PATH ? find_descriptor(step, task, named.directory) : MISSING;
}

/* Whether surely nothing is recorded of a file with this status. */
static bool is_plain(const struct answers *step, int fd, const struct stat *status)
{
    char name[PAGE];
    if (find(&step->records, status->st_dev, status->st_ino))
        return false;
    if (step->facts.is_bound && status->st_dev != step->device)
        return false;
    int64_t changed = (int64_t)status->st_ctim.tv_sec * 1000000000 + status->st_ctim.tv_nsec;
    if (changed < step->started || !step->seeds.count)
        return true;
    ssize_t length = name_of(fd, name); /* what was seeded may have got another number */
    if (length < 1)
        return false;
    return length == 1 ? !has_text(&step->seeds, ".", 1)
                       : !has_text(&step->seeds, name + 1, (size_t)length - 1);
}

/* Whether surely nothing is recorded of what a call names, or it is not there. */
static bool names_plain(const struct answers *step, uint32_t task, struct named named)
{
    struct stat status;
    int fd = find_named(step, task, named);
    if (fd < 0)
        return fd == MISSING;
    bool plain = !fstat(fd, &status) && is_plain(step, fd, &status);
    close(fd);
    return plain;
}

static enum outcome single_status(const struct answers *step, const struct notice *notice,
                                  const struct call *call)
{
    return is_root(step, notice->task) && names_plain(step, notice->task, named_by(call, notice))
               ? CONTINUE
               : ASK;
}

/* The directory that a name is made in: whether it surely gives its group to nothing. */
static bool gives_none(const struct answers *step, uint32_t task, struct named named)
{
    char path[PAGE];
    struct stat status;
    ssize_t length = read_path(task, named.address, path);
    if (length < 1)
        return false;
    while (length > 1 && path[length - 1] == '/')
        path[--length] = 0;
    if (length == 1 && path[0] == '/')
        return false;
    char *slash = strrchr(path, '/');
    int fd;
    if (!slash)
        fd = find_descriptor(step, task, named.directory);
    else {
        slash[slash == path] = 0; /* the root keeps its slash */
        fd = find_path(step, task, named.directory, path, true);
    }
    if (fd < 0)
        return fd == MISSING;
    bool none = !fstat(fd, &status) && !(status.st_mode & S_ISGID);
    close(fd);
    return none;
}

/* What root makes is root's, but where the directory says whose group it gets. */
static enum outcome single_make(const struct answers *step, const struct notice *notice,
                                const struct call *call)
{
    const struct identity *who = identity_of(step, notice->task);
    if (!who || who->euid || who->egid)
        return ASK;
    if (!step->facts.gives_groups)
        return CONTINUE;
    return gives_none(step, notice->task, named_by(call, notice)) ? CONTINUE : ASK;
}

static enum outcome single_open(const struct answers *step, const struct notice *notice,
                                const struct call *call)
{
    uint32_t flags = call->flags < 0 ? O_CREAT : (uint32_t)notice->arguments[call->flags];
    if (flags & O_CREAT || (flags & TEMPORARY) == TEMPORARY)
        return single_make(step, notice, call);
    return is_root(step, notice->task) ? CONTINUE : ASK;
}

static enum outcome single_remove(const struct answers *step, const struct notice *notice,
                                  const struct call *call)
{
    if (step->facts.has_links || !is_root(step, notice->task))
        return ASK;
    if (!step->facts.can_return)
        return CONTINUE;
    return names_plain(step, notice->task, named_by(call, notice)) ? CONTINUE : ASK;
}

static enum outcome single_rename(const struct answers *step, const struct notice *notice,
                                  const struct call *call)
{
    uint32_t task = notice->task;
    if (step->facts.has_links || !is_root(step, task))
        return ASK;
    return names_plain(step, task, named_by(call, notice)) &&
                   names_plain(step, task, other_named_by(call, notice))
               ? CONTINUE
               : ASK;
}

/* Ids are kept or root's: whoever asks for others is Python's. */
static enum outcome single_own(const struct answers *step, const struct notice *notice,
                               const struct call *call)
{
    for (int at = call->at; at < call->at + 2; at++) {
        uint32_t id = (uint32_t)notice->arguments[at];
        if (id && id != UINT32_MAX)
            return ASK;
    }
    return single_status(step, notice, call);
}

static enum outcome single_execute(const struct answers *step, const struct notice *notice,
                                   const struct call *call)
{
    struct stat status;
    const struct identity *who = identity_of(step, notice->task);
    if (!who || who->euid || !who->settled)
        return ASK;
    int fd = find_named(step, notice->task, named_by(call, notice));
    if (fd < 0)
        return fd == MISSING ? CONTINUE : ASK;
    bool plain = !fstat(fd, &status) && !(status.st_mode & SET_IDS) && is_plain(step, fd, &status);
    close(fd);
    return plain ? CONTINUE : ASK;
}

#endif
