"""A group file system in memory, with the rules of version 2 that matter here.

A group whose children are limited holds no processes, children have the controllers that their
parent enables, and only groups below `writable` can be changed.
"""

from __future__ import annotations

import errno
import os
import posixpath


class FakeGroups:
    """Implements GroupFiles. `processes` are (group, pid) pairs; pid 0 is the caller."""

    def __init__(self, top, controllers, writable=None, processes=(), enabled=(), root=None):
        self.files = {}
        self.top = top
        self.root = root or top  # the one group that may hold processes beside limited children
        self.writable = writable or top
        self.where = {pid: group for group, pid in processes}
        self.groups = {top: set(controllers)}
        self.enabled = {top: set(enabled)}
        self.killed = []
        self.closed = set()  # groups we may make but not move processes to

    def add(self, path, enabled=()):
        self.groups[path] = set(self.enabled[posixpath.dirname(path)])
        self.enabled[path] = set(enabled)

    def _fail(self, number, path):
        raise OSError(number, os.strerror(number), path)

    def _check(self, path):
        if not (path == self.writable or path.startswith(f"{self.writable}/")):
            self._fail(errno.EACCES, path)

    def read(self, path):
        group, name = posixpath.split(path)
        if group not in self.groups:
            self._fail(errno.ENOENT, path)
        match name:
            case "cgroup.controllers":
                return " ".join(sorted(self.groups[group]))
            case "cgroup.subtree_control":
                return " ".join(sorted(self.enabled[group]))
            case "cgroup.procs":
                return "".join(f"{pid}\n" for pid, at in self.where.items() if at == group)
            case _:
                return self.files[path]

    def write(self, path, text):
        group, name = posixpath.split(path)
        self._check(path)
        if group not in self.groups:
            self._fail(errno.ENOENT, path)
        match name:
            case "cgroup.subtree_control":
                self._enable(group, text)
            case "cgroup.procs":
                if self.enabled[group]:
                    self._fail(errno.EBUSY, path)
                self.where[int(text)] = group
            case "cgroup.kill":
                self.killed.append(group)
            case _:
                if name.partition(".")[0] not in self.groups[group]:
                    self._fail(errno.ENOENT, path)
                self.files[path] = text

    def _enable(self, group, text):
        for word in text.split():
            if word[0] == "+":
                if group in self.where.values() and group != self.root:
                    self._fail(errno.EBUSY, group)
                if word[1:] not in self.groups[group]:
                    self._fail(errno.ENOENT, group)
                self.enabled[group].add(word[1:])
            else:
                self.enabled[group].discard(word[1:])

    def make(self, path):
        self._check(path)
        if path in self.groups:
            self._fail(errno.EEXIST, path)
        self.add(path)

    def can_hold(self, path):
        self._check(path)
        return path not in self.closed

    def remove(self, path):
        self._check(path)
        if path not in self.groups:
            self._fail(errno.ENOENT, path)
        if path in self.where.values():
            self._fail(errno.EBUSY, path)
        del self.groups[path], self.enabled[path]
