/* A step in a changed root: lets go on what is written so that it leads to no place.
 *
 * The twin of Passthrough._is_plain in passthrough.py, for calls that nothing else is asked of.
 */
#ifndef ANSWERS_CHROOT_H
#define ANSWERS_CHROOT_H

#include "answers_step.h"

/* Whether one of the parts of a path is in a set. */
static bool has_part(const struct table *set, const char *path)
{
    for (;;) {
        size_t length = strcspn(path, "/");
        if (has_text(set, path, length))
            return true;
        if (!path[length])
            return false;
        path += length + 1;
    }
}

/* Whether an absolute path without dots and double slashes is a place's, or of what is in it. */
static bool is_in(const char *place, const char *path)
{
    size_t length = strlen(place);
    return !strncmp(path, place, length) && (!path[length] || path[length] == '/');
}

/* Whether an absolute path, as it is written, surely lies in no place. */
static bool lies_in_none(const struct answers *step, const char *path)
{
    if (path[1] == '/' || path[1] == '.')
        return false;
    bool maybe = false;
    for (size_t at = 0; at < step->place_count; at++) {
        if (is_in(step->places[at], path))
            return false;
        maybe |= !strncmp(path, step->places[at], BEGINNING);
    }
    return !maybe || (!strstr(path, "//") && !strstr(path, "/."));
}

/* The same of a path from a directory that a task has open or works in, which may be anywhere. */
static bool leads_nowhere_from(const struct answers *step, uint32_t task, int32_t directory,
                               const char *path)
{
    char link[48], whole[ROOM];
    if (step->facts.roots_differ)
        return false;
    name_descriptor(link, sizeof link, task, directory);
    ssize_t length = read_link(link, whole);
    if (length < 0)
        return false;
    if (!is_in(step->root_name, whole))
        return !path[0]; /* what is open already is found by nobody else */
    snprintf(whole + length, sizeof whole - (size_t)length, "/%s", path);
    const char *seen = whole + strlen(step->root_name);
    return lies_in_none(step, seen) && !has_part(&step->links, seen);
}

static bool leads_nowhere_else(const struct answers *step, uint32_t task, int32_t directory,
                               const char *path)
{
    if (path[0] == '/')
        return !step->facts.roots_differ && lies_in_none(step, path) &&
               !has_part(&step->links, path);
    return (!step->facts.roams && !has_part(&step->hot, path)) ||
           leads_nowhere_from(step, task, directory, path);
}

/* A path that a call names. The kernel knows what to say of one that is none. */
static enum outcome chroot_look(const struct answers *step, const struct notice *notice,
                                int directory, int at)
{
    char path[PAGE];
    const uint64_t *given = notice->arguments;
    if (!given[at])
        return CONTINUE;
    return read_path(notice->task, given[at], path) >= 0 &&
                   leads_nowhere_else(step, notice->task,
                                      directory < 0 ? AT_FDCWD : (int32_t)given[directory], path)
               ? CONTINUE
               : ASK;
}

/* Whether the last part of a path is the name of a link that leads to a place. */
static bool ends_as_link(const struct answers *step, const char *path)
{
    size_t length = strlen(path);
    while (length && path[length - 1] == '/')
        length--;
    size_t start = length;
    while (start && path[start - 1] != '/')
        start--;
    return has_text(&step->links, path + start, length - start);
}

/* What such a link is called from now on has to be remembered. */
static enum outcome chroot_pair(const struct answers *step, const struct notice *notice,
                                const struct call *call)
{
    char path[PAGE];
    if (step->facts.has_records || read_path(notice->task, notice->arguments[call->path], path) < 0 ||
        ends_as_link(step, path))
        return ASK;
    enum outcome old = chroot_look(step, notice, call->directory, call->path);
    return old == ASK ? ASK : chroot_look(step, notice, call->other_directory, call->other_path);
}

/* The limits of other processes are the step's own business only. */
static enum outcome chroot_limits(const struct notice *notice)
{
    return (uint32_t)notice->arguments[0] ? ASK : CONTINUE;
}

#endif
