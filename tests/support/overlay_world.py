"""A real overlay snapshotter to be tried, inside a namespace where its trees can be mounted."""

from __future__ import annotations

import contextlib
import os
import shutil

from support.memory_layers import MemoryLayers, MemoryNames
from support.namespaces import mount_overlay, unmount

from builder.snapshot.overlay import OverlaySnapshotter


class OverlayWorld:
    """A snapshotter below a directory, and mounts to see through."""

    def __init__(self, who, root):
        self.layers = MemoryLayers()
        self.names = MemoryNames()
        self.root = root
        self.many_ids = who.ids > 1
        self.snapshotter = self.open()
        self._mounts = 0

    def open(self):
        return OverlaySnapshotter(self.root, self.layers, self.names, keep_owner=self.many_ids)

    @contextlib.contextmanager
    def mounted(self, active):
        self._mounts += 1
        target = os.path.join(self.root, f"m{self._mounts}")
        os.mkdir(target)
        # a mount that was volatile forbids the next one until this is gone
        shutil.rmtree(os.path.join(active.root.work, "work", "incompat"), ignore_errors=True)
        mount_overlay(active.root, target)
        try:
            yield os.fsencode(target)
        finally:
            unmount(target)

    def change(self, active, files):
        with self.mounted(active) as top:
            for path, data in files.items():
                place = os.path.join(top, os.fsencode(path))
                if data is None:
                    os.unlink(place)
                else:
                    with open(place, "wb") as out:
                        out.write(data)

    def look(self, active):
        with self.mounted(active) as top:
            return {
                os.fsdecode(os.path.relpath(os.path.join(here, name), top)): open(
                    os.path.join(here, name), "rb"
                ).read()
                for here, _, names in os.walk(top)
                for name in names
            }
