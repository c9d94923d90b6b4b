/* Answers the calls of a step that are frequent and simple; whatever else goes to Python.
 *
 * The twin of the loop in supervisor.py, loaded by answered.py, which tells what of the step has to
 * be known here. Every decision is one that Python would take, too; where that is not certain,
 * Python is asked. One thread at a time.
 */
#include "answers_border.h"
#include "answers_changes.h"
#include "answers_chroot.h"
#include "answers_emulate.h"
#include "answers_step.h"
#include "answers_single.h"

#include <poll.h>

#define REVISION 5
#define EXPORTED __attribute__((visibility("default")))

#define MOST_OF_ONE 2 /* changes that one call makes */

/* What a wait ends with. */
enum { CALL, HAPPENED, AGAIN };
/* Sets of texts that Python fills. */
enum { SEEDS, LINKS, HOT };

EXPORTED int revision(void)
{
    return REVISION;
}

EXPORTED struct answers *answers_new(int listener, int signals)
{
    struct answers *step = calloc(1, sizeof *step);
    if (step) {
        step->listener = listener;
        step->signals = signals;
        step->root = -1;
    }
    return step;
}

EXPORTED void answers_free(struct answers *step)
{
    free(step->identities);
    free(step->records.entries);
    free(step->seeds.entries);
    free(step->links.entries);
    free(step->hot.entries);
    free(step->root_name);
    while (step->place_count)
        free(step->places[--step->place_count]);
    free(step);
}

EXPORTED int answers_call(struct answers *step, int number, const struct call *call)
{
    if (number < 0 || number >= NUMBERS)
        return -1;
    step->calls[number] = *call;
    return 0;
}

EXPORTED void answers_tree(struct answers *step, int root, uint64_t device, int64_t started)
{
    step->root = root;
    step->device = device;
    step->started = started;
}

EXPORTED void answers_own(struct answers *step, uint32_t uid, uint32_t gid)
{
    step->own_uid = uid;
    step->own_gid = gid;
}

/* Identities keep their numbers: this one is the next. */
EXPORTED void answers_identity(struct answers *step, uint64_t limit, uint32_t ruid, uint32_t euid,
                               uint32_t egid, uint32_t umask, int settled)
{
    size_t size = (step->identity_count + 1) * sizeof(struct identity);
    struct identity *larger = realloc(step->identities, size);
    if (!larger) {
        step->broken = true;
        return;
    }
    step->limit = limit;
    step->identities = larger;
    larger[step->identity_count++] = (struct identity){ruid, euid, egid, umask, settled != 0};
}

/* An id or mode is -1 where it is the kernel's. */
EXPORTED void answers_record(struct answers *step, uint64_t device, uint64_t inode, int64_t uid,
                             int64_t gid, int64_t mode, uint64_t shown_device)
{
    struct entry entry = {{device, inode}, uid, gid, mode, shown_device, true};
    if (!put(&step->records, &entry))
        step->broken = true;
}

EXPORTED void answers_forget(struct answers *step, uint64_t device, uint64_t inode)
{
    drop(&step->records, device, inode);
}

EXPORTED void answers_text(struct answers *step, int which, const char *text, size_t length)
{
    struct table *sets[] = {[SEEDS] = &step->seeds, [LINKS] = &step->links, [HOT] = &step->hot};
    if (which < 0 || which > HOT || !put_text(sets[which], text, length))
        step->broken = true;
}

EXPORTED void answers_root(struct answers *step, const char *name)
{
    step->root_name = strdup(name);
    step->broken |= !step->root_name;
}

EXPORTED void answers_place(struct answers *step, const char *path)
{
    char *kept = step->place_count < MOST_PLACES ? strdup(path) : NULL;
    if (kept)
        step->places[step->place_count++] = kept;
    else
        step->broken = true;
}

/* What Python has to do to its records since the last time, in order; how many there are. */
EXPORTED size_t answers_changes(struct answers *step, struct change changes[MOST_CHANGES])
{
    size_t count = step->change_count;
    memcpy(changes, step->changes, count * sizeof *changes);
    step->change_count = 0;
    return count;
}

/* Of a call: whether it goes on, was answered, or is Python's. */
static enum outcome decide(struct answers *step, const struct notice *notice)
{
    if (step->broken || notice->architecture != ARCHITECTURE || notice->number < 0 ||
        notice->number >= NUMBERS)
        return ASK;
    const struct call *call = &step->calls[notice->number];
    switch ((enum kind)call->kind) {
    case LIMITS:
        return limits(notice);
    case ONE_LIMIT:
        return one_limit(notice);
    case RIGHTS:
        return is_root(step, notice->task) ? CONTINUE : ASK;
    case SINGLE_STATUS:
        return single_status(step, notice, call);
    case SINGLE_MAKE:
        return single_make(step, notice, call);
    case SINGLE_OPEN:
        return single_open(step, notice, call);
    case SINGLE_REMOVE:
        return single_remove(step, notice, call);
    case SINGLE_RENAME:
        return single_rename(step, notice, call);
    case SINGLE_LINK: /* the new name takes nothing away */
        return single_status(step, notice, call);
    case SINGLE_OWN:
        return single_own(step, notice, call);
    case SINGLE_EXECUTE:
        return single_execute(step, notice, call);
    case CHROOT_LOOK:
        return chroot_look(step, notice, call->directory, call->path);
    case CHROOT_RECORD: /* matters to records, too, if there are any */
        return step->facts.has_records
                   ? ASK
                   : chroot_look(step, notice, call->directory, call->path);
    case CHROOT_PAIR:
        return chroot_pair(step, notice, call);
    case CHROOT_LIMITS:
        return chroot_limits(notice);
    case EMULATE_LIMITS:
        return chroot_limits(notice) == CONTINUE ? limits(notice) : ASK;
    case EMULATE_STATUS:
        return emulate_status(step, notice, call);
    case EMULATE_ACCESS:
        return emulate_access(step, notice, call);
    case EMULATE_OPEN:
        return notice->arguments[call->flags] & O_CREAT ? emulate_create(step, notice, call)
                                                        : emulate_open(step, notice, call);
    case EMULATE_CREATE:
        return emulate_create(step, notice, call);
    case EMULATE_MKDIR:
        return emulate_mkdir(step, notice, call);
    case EMULATE_SYMLINK:
        return emulate_symlink(step, notice, call);
    case EMULATE_LINK:
        return emulate_link(step, notice, call);
    case EMULATE_MODE:
        return emulate_mode(step, notice, call);
    case EMULATE_OWN:
        return emulate_own(step, notice, call);
    case EMULATE_TIMES:
        return emulate_times(step, notice, call);
    case EMULATE_REMOVE:
        return emulate_remove(step, notice, call);
    case EMULATE_RENAME:
        return emulate_rename(step, notice, call);
    case TO_PYTHON:
        break;
    }
    return ASK;
}

/* Wait until there is something for Python: a call, or something that happened to a task. */
EXPORTED int answers_wait(struct answers *step, struct notice *notice)
{
    struct pollfd waiting[] = {{step->signals, POLLIN, 0}, {step->listener, POLLIN, 0}};
    for (;;) {
        if (step->change_count + MOST_OF_ONE > MOST_CHANGES)
            return AGAIN;
        if (poll(waiting, 2, -1) < 0)
            return AGAIN; /* Python handles signals */
        if (waiting[0].revents)
            return HAPPENED;
        if (!(waiting[1].revents & POLLIN)) {
            waiting[1].fd = -1; /* nobody is left to ask */
            continue;
        }
        memset(notice, 0, sizeof *notice);
        if (ioctl(step->listener, RECEIVE, notice) < 0)
            continue; /* who asked is gone */
        enum outcome outcome = decide(step, notice);
        if (outcome == ASK)
            return CALL;
        if (outcome == CONTINUE)
            go_on(step->listener, notice->id);
    }
}
