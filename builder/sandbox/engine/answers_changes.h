/* A step where every name is answered: names made, moved and removed, modes, owners and times.
 *
 * The twin of files.py, opening.py and metadata.py for what root asks for in the tree. Records that
 * come of it are noted here and told to Python, which has the same before it does anything else.
 */
#ifndef ANSWERS_CHANGES_H
#define ANSWERS_CHANGES_H

#include "answers_emulate.h"

#define REMOVE_DIRECTORY 0x200u /* AT_REMOVEDIR */
#define NEW_FILE (O_CREAT | O_EXCL | O_TRUNC)
#define PERMISSIONS 0777u

/* The last name of a path, and its directory opened. */
struct last {
    int parent; /* an fd, an errno that is the answer, or UNSURE */
    char name[NAME_MAX + 2]; /* with the slash that it was written with */
    size_t length; /* without */
    bool is_apart; /* no place lies there */
    struct stat status;
    int error; /* of the status */
};

/* Split a path of root's; what is no name, or too long, is UNSURE. */
static void open_parent(const struct answers *step, uint32_t task, struct named named,
                        struct last *last)
{
    char path[PAGE], whole[ROOM];
    last->parent = UNSURE;
    if (step->facts.roots_differ || read_path(task, named.address, path) < 1)
        return;
    const char *found = absolute(step, task, named.directory, path, whole);
    if (!found)
        return;
    last->is_apart = lies_in_none(step, found);
    size_t length = strlen(found), end = length;
    while (end && found[end - 1] == '/')
        end--;
    size_t start = end;
    while (start && found[start - 1] != '/')
        start--;
    last->length = end - start;
    if (!start || !last->length || last->length > NAME_MAX)
        return;
    memcpy(last->name, found + start, last->length);
    last->name[last->length] = 0;
    if (!strcmp(last->name, ".") || !strcmp(last->name, ".."))
        return;
    char above[ROOM];
    memcpy(above, found, start);
    above[start] = 0; /* ends with a slash: a directory, links to one followed */
    last->parent = open_absolute(step, above, O_PATH | O_DIRECTORY);
    if (last->parent < 0)
        return;
    last->error = fstatat(last->parent, last->name, &last->status, AT_SYMLINK_NOFOLLOW) ? errno : 0;
    if (end < length)
        strcpy(last->name + last->length, "/");
}

/* The same where root makes a name, which is its own: not in a directory that gives its group. */
static void open_maker(const struct answers *step, uint32_t task, struct named named,
                       struct last *last)
{
    struct stat status;
    const struct identity *who = identity_of(step, task);
    last->parent = UNSURE;
    if (!who || who->euid || who->egid)
        return;
    open_parent(step, task, named, last);
    if (last->parent < 0)
        return;
    bool failed = fstat(last->parent, &status);
    if (!failed)
        patch(step, &status);
    if (!failed && !(status.st_mode & S_ISGID))
        return;
    close(last->parent);
    last->parent = UNSURE;
}

/* Have Python do to its records what was done to ours. */
static void tell(struct answers *step, enum change_kind kind, const struct entry *entry)
{
    step->changes[step->change_count++] =
        (struct change){kind, entry->key[0], entry->key[1], entry->uid, entry->gid, entry->mode};
}

/* The record of an inode, or an empty one. */
static struct entry record_of(const struct answers *step, const struct stat *status)
{
    const struct entry *known = find(&step->records, status->st_dev, status->st_ino);
    return known ? *known
                 : (struct entry){{status->st_dev, status->st_ino}, -1, -1, -1, 0, true};
}

/* An inode is new: its number may have been another file's. */
static void note_new(struct answers *step, const struct stat *status)
{
    if (!find(&step->records, status->st_dev, status->st_ino))
        return;
    struct entry entry = record_of(step, status);
    drop(&step->records, status->st_dev, status->st_ino);
    tell(step, CHANGE_FORGET, &entry);
}

/* Ids are -1 where they stay. */
static void note_owner(struct answers *step, const struct stat *status, int64_t uid, int64_t gid)
{
    struct entry entry = record_of(step, status), change = entry;
    change.uid = uid;
    change.gid = gid;
    entry.uid = uid < 0 ? entry.uid : uid;
    entry.gid = gid < 0 ? entry.gid : gid;
    step->broken |= !put(&step->records, &entry);
    tell(step, CHANGE_OWN, &change);
}

/* A mode with the bits of the type. */
static void note_mode(struct answers *step, const struct stat *status, uint32_t mode)
{
    struct entry entry = record_of(step, status);
    entry.mode = mode;
    step->broken |= !put(&step->records, &entry);
    tell(step, CHANGE_MODE, &entry);
}

/* Take in a new inode, which is to have a mode that it may not have. */
static void note_made(struct answers *step, const struct stat *status, uint32_t wanted,
                      uint32_t real)
{
    note_new(step, status);
    if (wanted != real)
        note_mode(step, status, (status->st_mode & S_IFMT) | wanted);
}

static void note_made_in(struct answers *step, int parent, const char *name, uint32_t wanted,
                         uint32_t real)
{
    struct stat status;
    if (!fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW))
        note_made(step, &status, wanted, real);
}

/* The answer for a directory that was not opened: its error, or Python's. */
static enum outcome refuse(const struct answers *step, const struct notice *notice, int parent)
{
    return parent == UNSURE ? ASK : answer(step, notice, 0, -parent);
}

static enum outcome close_and_answer(const struct answers *step, const struct notice *notice,
                                     int fd, bool failed)
{
    int error = failed ? errno : 0;
    close(fd);
    return answer(step, notice, 0, error);
}

/* The mode that a task's umask leaves. */
static uint32_t masked(const struct answers *step, uint32_t task, uint64_t mode)
{
    const struct identity *who = identity_of(step, task);
    return (uint32_t)mode & 07777u & ~(who ? who->umask : 0);
}

/* The mode that a file gets from the kernel: one that lets us in. */
static uint32_t usable(uint32_t mode, uint32_t needed)
{
    return (mode & PERMISSIONS) | needed;
}

static enum outcome open_new(struct answers *step, const struct notice *notice,
                             const struct last *last, uint32_t flags, uint32_t mode)
{
    struct stat status;
    uint32_t real = usable(mode, 0600);
    struct how how = {(flags | NEW_FILE | O_NOCTTY | O_NONBLOCK | O_CLOEXEC) & ~(uint64_t)O_TRUNC,
                      real, NO_LINKS | IN_ROOT};
    int fd = (int)syscall(OPENAT2, last->parent, last->name, &how, sizeof how);
    if (fd < 0)
        return ASK;
    if (!fstat(fd, &status))
        note_made(step, &status, mode, real);
    return hand_over(step, notice, fd, flags);
}

/* Make a file, or open the one that is there. */
static enum outcome emulate_create(struct answers *step, const struct notice *notice,
                                   const struct call *call)
{
    struct last last;
    struct named named = named_by(call, notice);
    uint32_t flags = call->flags < 0 ? O_CREAT | O_WRONLY | O_TRUNC : named.flags;
    uint32_t mode = masked(step, notice->task, notice->arguments[call->at]);
    if (flags & ~(uint32_t)(EXISTING | NEW_FILE) || flags & O_DIRECTORY ||
        (flags & O_ACCMODE) == O_ACCMODE)
        return ASK;
    open_maker(step, notice->task, named, &last);
    if (last.parent < 0)
        return refuse(step, notice, last.parent);
    enum outcome outcome = ASK;
    if (last.name[last.length] || !last.is_apart)
        ; /* written as a directory, or what is opened lies elsewhere */
    else if (last.error == ENOENT)
        outcome = open_new(step, notice, &last, flags, mode);
    else if (!last.error && flags & O_EXCL)
        outcome = answer(step, notice, 0, EEXIST);
    else if (!last.error && S_ISREG(last.status.st_mode))
        outcome = open_and_give(step, notice, named, flags & ~(uint32_t)O_CREAT);
    close(last.parent);
    return outcome;
}

static enum outcome emulate_mkdir(struct answers *step, const struct notice *notice,
                                  const struct call *call)
{
    struct last last;
    uint32_t mode = masked(step, notice->task, notice->arguments[call->at]) & 01777u;
    uint32_t real = usable(mode, 0700);
    open_maker(step, notice->task, named_by(call, notice), &last);
    if (last.parent < 0)
        return refuse(step, notice, last.parent);
    last.name[last.length] = 0;
    bool failed = mkdirat(last.parent, last.name, real);
    int error = errno;
    if (!failed)
        note_made_in(step, last.parent, last.name, mode, real);
    errno = error;
    return close_and_answer(step, notice, last.parent, failed);
}

static enum outcome emulate_symlink(struct answers *step, const struct notice *notice,
                                    const struct call *call)
{
    struct last last;
    char text[PAGE];
    if (read_path(notice->task, notice->arguments[0], text) < 0)
        return ASK;
    open_maker(step, notice->task, named_by(call, notice), &last);
    if (last.parent < 0)
        return refuse(step, notice, last.parent);
    bool failed = symlinkat(text, last.parent, last.name);
    int error = errno;
    if (!failed)
        note_made_in(step, last.parent, last.name, 0, 0);
    errno = error;
    return close_and_answer(step, notice, last.parent, failed);
}

/* Give a file of the tree one more name there. */
static enum outcome emulate_link(const struct answers *step, const struct notice *notice,
                                 const struct call *call)
{
    struct last last;
    char path[PAGE], source[32];
    struct named named = named_by(call, notice);
    if (named.flags & ~(uint32_t)AT_SYMLINK_FOLLOW || !is_root(step, notice->task) ||
        read_path(notice->task, named.address, path) < 1)
        return ASK;
    uint64_t flags = O_PATH | (named.flags & AT_SYMLINK_FOLLOW ? 0 : O_NOFOLLOW);
    int fd = open_path(step, notice->task, named.directory, path, flags);
    if (fd < 0)
        return refuse(step, notice, fd);
    open_parent(step, notice->task, other_named_by(call, notice), &last);
    enum outcome outcome = ASK;
    if (last.parent >= 0) {
        snprintf(source, sizeof source, "/proc/self/fd/%d", fd);
        bool failed = linkat(AT_FDCWD, source, last.parent, last.name, AT_SYMLINK_FOLLOW);
        outcome = close_and_answer(step, notice, last.parent, failed);
    } else if (last.parent != UNSURE)
        outcome = answer(step, notice, 0, -last.parent);
    close(fd);
    return outcome;
}

/* Remove what is not recorded; the record of what is has to go with it. */
static enum outcome emulate_remove(const struct answers *step, const struct notice *notice,
                                   const struct call *call)
{
    struct last last;
    uint64_t flags = call->flags < 0 ? call->fixed : notice->arguments[call->flags];
    if (!is_root(step, notice->task) || flags & ~(uint64_t)REMOVE_DIRECTORY)
        return ASK;
    open_parent(step, notice->task, named_by(call, notice), &last);
    if (last.parent < 0)
        return refuse(step, notice, last.parent);
    if ((last.error && last.error != ENOENT) ||
        (!last.error && find(&step->records, last.status.st_dev, last.status.st_ino))) {
        close(last.parent);
        return ASK;
    }
    bool failed = unlinkat(last.parent, last.name, (int)flags);
    return close_and_answer(step, notice, last.parent, failed);
}

/* Rename where that changes nothing that is recorded. */
static enum outcome rename_opened(const struct answers *step, const struct notice *notice,
                                  const struct last *old, const struct last *new)
{
    if ((old->error && old->error != ENOENT) || (new->error && new->error != ENOENT))
        return ASK;
    if (old->error)
        return answer(step, notice, 0, ENOENT);
    if (!new->error && find(&step->records, new->status.st_dev, new->status.st_ino))
        return ASK;
    long failed = syscall(SYS_renameat2, old->parent, old->name, new->parent, new->name, 0);
    return answer(step, notice, 0, failed < 0 ? errno : 0);
}

static enum outcome emulate_rename(const struct answers *step, const struct notice *notice,
                                   const struct call *call)
{
    struct last old, new;
    if (!is_root(step, notice->task) || (call->flags >= 0 && notice->arguments[call->flags]))
        return ASK;
    open_parent(step, notice->task, named_by(call, notice), &old);
    if (old.parent < 0)
        return ASK;
    enum outcome outcome = ASK;
    open_parent(step, notice->task, other_named_by(call, notice), &new);
    if (new.parent >= 0) {
        outcome = rename_opened(step, notice, &old, &new);
        close(new.parent);
    }
    close(old.parent);
    return outcome;
}

/* An O_PATH fd of a file in the tree whose mode, owner or times root changes, as for open_path. */
static int open_changed(const struct answers *step, const struct notice *notice,
                        struct named named)
{
    char path[PAGE], link[48];
    uint32_t task = notice->task;
    if (named.flags & ~STATUS_FLAGS || !is_root(step, task) || step->facts.unsure ||
        step->facts.roots_differ)
        return UNSURE;
    if (!named.address)
        path[0] = 0;
    else if (read_path(task, named.address, path) < 0)
        return UNSURE;
    if (path[0])
        return open_path(step, task, named.directory, path,
                         O_PATH | (named.flags & AT_SYMLINK_NOFOLLOW ? O_NOFOLLOW : 0));
    name_descriptor(link, sizeof link, task, named.directory);
    int fd = named.flags & AT_EMPTY_PATH ? open(link, O_PATH | O_CLOEXEC) : -1;
    if (fd >= 0 && is_seen(step, fd))
        return fd;
    if (fd >= 0)
        close(fd);
    return UNSURE;
}

/* Change a mode; what it is to be is recorded where that differs, or did. */
static enum outcome emulate_mode(struct answers *step, const struct notice *notice,
                                 const struct call *call)
{
    struct stat status;
    char link[32];
    uint32_t wanted = (uint32_t)notice->arguments[call->at] & 07777u;
    int fd = open_changed(step, notice, named_by(call, notice));
    if (fd < 0)
        return refuse(step, notice, fd);
    if (fstat(fd, &status) || S_ISLNK(status.st_mode)) {
        close(fd);
        return ASK;
    }
    uint32_t real = usable(wanted, S_ISDIR(status.st_mode) ? 0700 : 0600);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    bool failed = chmod(link, real);
    int error = errno;
    patch(step, &status);
    if (!failed && (wanted != real || record_of(step, &status).mode >= 0))
        note_mode(step, &status, (status.st_mode & S_IFMT) | wanted);
    errno = error;
    return close_and_answer(step, notice, fd, failed);
}

static int64_t id_or_kept(uint32_t id)
{
    return id == UINT32_MAX ? -1 : (int64_t)id;
}

/* Record an owner. Set-id bits would go with it, which is Python's. */
static enum outcome emulate_own(struct answers *step, const struct notice *notice,
                                const struct call *call)
{
    struct stat status;
    char link[32];
    uint32_t uid = (uint32_t)notice->arguments[call->at];
    uint32_t gid = (uint32_t)notice->arguments[call->at + 1];
    int fd = open_changed(step, notice, named_by(call, notice));
    if (fd < 0)
        return refuse(step, notice, fd);
    bool is_known = !fstat(fd, &status);
    if (is_known)
        patch(step, &status);
    if (!is_known || (S_ISREG(status.st_mode) && status.st_mode & (S_ISUID | S_ISGID))) {
        close(fd);
        return ASK;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    bool failed = chown(link, (uid_t)-1, (gid_t)-1); /* so that the change time tells */
    int error = errno;
    if (!failed)
        note_owner(step, &status, id_or_kept(uid), id_or_kept(gid));
    errno = error;
    return close_and_answer(step, notice, fd, failed);
}

static enum outcome emulate_times(const struct answers *step, const struct notice *notice,
                                  const struct call *call)
{
    struct timespec times[2];
    uint64_t address = notice->arguments[call->at];
    struct named named = named_by(call, notice);
    if (!named.address)
        named.flags |= AT_EMPTY_PATH;
    struct iovec here = {times, sizeof times}, there = {(void *)(uintptr_t)address, sizeof times};
    if (address && process_vm_readv((pid_t)notice->task, &here, 1, &there, 1, 0) != sizeof times)
        return ASK;
    int fd = open_changed(step, notice, named);
    if (fd < 0)
        return refuse(step, notice, fd);
    bool failed = syscall(SYS_utimensat, fd, "", address ? times : NULL, AT_EMPTY_PATH) < 0;
    if (failed && (errno == EINVAL || errno == EBADF || errno == ENOENT)) {
        close(fd);
        return ASK; /* there is another way */
    }
    return close_and_answer(step, notice, fd, failed);
}

#endif
