/* What is known of a step here, as Python told it, and who its tasks are. */
#ifndef ANSWERS_STEP_H
#define ANSWERS_STEP_H

#include "answers_border.h"
#include "answers_tables.h"

#define NUMBERS 512 /* of system calls */
#define MOST_PLACES 256
#define MOST_CHANGES 256 /* told to Python at once */
#define BEGINNING 3 /* characters by which most paths are told from those of places */

/* What is done with a call; Python's answered.py has the same numbers. */
enum kind {
    TO_PYTHON,
    LIMITS,
    ONE_LIMIT,
    RIGHTS,
    SINGLE_STATUS,
    SINGLE_MAKE,
    SINGLE_OPEN,
    SINGLE_REMOVE,
    SINGLE_RENAME,
    SINGLE_LINK,
    SINGLE_OWN,
    SINGLE_EXECUTE,
    CHROOT_LOOK,
    CHROOT_RECORD,
    CHROOT_PAIR,
    CHROOT_LIMITS,
    EMULATE_LIMITS,
    EMULATE_STATUS,
    EMULATE_ACCESS,
    EMULATE_OPEN,
    EMULATE_CREATE,
    EMULATE_MKDIR,
    EMULATE_SYMLINK,
    EMULATE_LINK,
    EMULATE_REMOVE,
    EMULATE_RENAME,
    EMULATE_MODE,
    EMULATE_OWN,
    EMULATE_TIMES,
};

/* What Python has to do to its records. */
enum change_kind { CHANGE_FORGET, CHANGE_OWN, CHANGE_MODE };

struct change {
    uint64_t kind, device, inode;
    int64_t uid, gid, mode; /* -1 to keep */
};

struct call { /* positions of arguments, -1 for none */
    uint8_t kind;
    int8_t directory, path, flags;
    int8_t other_directory, other_path;
    int8_t at; /* of a buffer, ids, a mode */
    uint32_t fixed; /* flags that it always has */
};

struct facts { /* written by Python before each wait */
    uint32_t restricted; /* whether anybody ever was not root */
    uint32_t roots_differ;
    uint32_t unsure; /* whether a task may hold what is not the step's */
    uint32_t has_links; /* lowers' files with several names, of which something is recorded */
    uint32_t can_return; /* numbers of recorded inodes may come back */
    uint32_t gives_groups; /* some directories do */
    uint32_t is_bound; /* something is recorded of mounted trees */
    uint32_t has_records;
    uint32_t roams; /* a task may work, or hold a directory, outside of the tree */
};

struct identity {
    uint32_t ruid, euid, egid, umask;
    bool settled; /* nothing changes when a program is executed that is not set-id */
};

struct answers {
    struct facts facts;
    int listener, signals, root;
    bool broken; /* out of memory once: only Python knows everything */
    struct call calls[NUMBERS];
    uint32_t own_uid, own_gid; /* ours, shown as root's */
    uint64_t device; /* of the root */
    int64_t started; /* a change time in nanoseconds: nothing in the lowers is after it */
    uint64_t limit; /* less a task's limit it is its identity */
    struct identity *identities;
    size_t identity_count;
    struct table records, seeds;
    struct table links, hot; /* names of links that may lead to places, and these places' parts */
    char *root_name; /* what the kernel calls the root */
    char *places[MOST_PLACES]; /* where what would be mounts is seen: absolute paths */
    size_t place_count;
    struct change changes[MOST_CHANGES];
    size_t change_count;
};

struct named { /* what a call names */
    int32_t directory;
    uint64_t address;
    uint32_t flags;
};

/* Outcomes: what Python would say of itself, or that it is to be asked. */
enum outcome { ASK, CONTINUE, ANSWERED };

static struct named named_by(const struct call *call, const struct notice *notice)
{
    const uint64_t *given = notice->arguments;
    return (struct named){
        .directory = call->directory < 0 ? AT_FDCWD : (int32_t)given[call->directory],
        .address = call->path < 0 ? 0 : given[call->path],
        .flags = call->fixed | (call->flags < 0 ? 0 : (uint32_t)given[call->flags]),
    };
}

static struct named other_named_by(const struct call *call, const struct notice *notice)
{
    struct call other = *call;
    other.directory = call->other_directory;
    other.path = call->other_path;
    return named_by(&other, notice);
}

/* Who a task is; NULL where it is gone. */
static const struct identity *identity_of(const struct answers *step, uint32_t task)
{
    struct rlimit limit;
    if (step->identity_count <= 1)
        return step->identities;
    if (prlimit((pid_t)task, RLIMIT_MSGQUEUE, NULL, &limit) < 0)
        return NULL;
    uint64_t number = step->limit - limit.rlim_cur;
    return &step->identities[limit.rlim_cur <= step->limit && number < step->identity_count ? number : 0];
}

/* Whether a task is root, who is asked for no rights. */
static bool is_root(const struct answers *step, uint32_t task)
{
    if (!step->facts.restricted)
        return true;
    const struct identity *who = identity_of(step, task);
    return who && !who->euid;
}

/* The same for who is asked by real ids. */
static bool is_really_root(const struct answers *step, uint32_t task)
{
    if (!step->facts.restricted)
        return true;
    const struct identity *who = identity_of(step, task);
    return who && !who->euid && !who->ruid;
}

/* The limit that carries identities stays as it is; the kernel reads half of its register. */
static enum outcome limits(const struct notice *notice)
{
    bool is_ours = (uint32_t)notice->arguments[1] == RLIMIT_MSGQUEUE;
    return notice->arguments[2] && is_ours ? ASK : CONTINUE;
}

static enum outcome one_limit(const struct notice *notice)
{
    return (uint32_t)notice->arguments[0] == RLIMIT_MSGQUEUE ? ASK : CONTINUE;
}

#endif
