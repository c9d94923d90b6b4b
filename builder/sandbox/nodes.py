"""Devices that steps make where the kernel refuses them: an empty file each, and a record of it.

The filter that every step inherits hands over the calls that make devices, and costs nothing
where none is made. Whoever waits for a step of the build answers them. Owns which records belong
to which step; how a call is answered is the engine's, loaded with the first one.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from typing import TYPE_CHECKING

from builder.sandbox.spec import Overlay, Recorded
from cache.value import field, state

if TYPE_CHECKING:
    from builder.sandbox.engine.nodes import Node
    from builder.sandbox.spec import SandboxSpec


@state
class _Step:
    upper: str
    recorded: tuple[Recorded, ...]  # of the lowers
    nodes: list[Node] = field(default_factory=list)


class Nodes:
    """Records of devices by step; safe for threads."""

    def __init__(self, channel: socket.socket | None = None) -> None:
        """The listener comes through `channel`; without one nothing is ever handed over."""
        self._channel = channel
        self._lock = threading.Lock()
        self._listener = -1
        self._steps: dict[int, _Step] = {}
        self.fd = -1 if channel is None else channel.fileno()
        """What is to be polled, and attended to when it is ready; it changes."""

    def begin(self, number: int, spec: SandboxSpec) -> None:
        """A step is about to run."""
        if self._channel is not None and isinstance(spec.root, Overlay):
            with self._lock:
                self._steps[number] = _Step(spec.root.upper, spec.recorded)

    def end(self, number: int) -> tuple[Recorded, ...]:
        """What the step, which has ended, has among its changes."""
        with self._lock:
            step = self._steps.pop(number, None)
        if step is None or not (step.nodes or step.recorded):
            return ()
        from builder.sandbox.engine import nodes  # noqa: PLC0415 - few steps have any

        with self._lock:
            made = nodes.left(step.nodes)
            known = {record.name for record in made}
            copied = nodes.copied(step.upper, step.recorded)
            return (*made, *(record for record in copied if record.name not in known))

    def attend(self) -> None:
        """Take what the fd has for us, unless another thread was faster."""
        with self._lock:
            if self.fd < 0:
                return
            poll = select.poll()
            poll.register(self.fd, select.POLLIN)
            for _, events in poll.poll(0):
                if self._listener < 0:
                    self._take_listener()
                elif events & select.POLLIN:
                    self._answer()
                else:
                    self.fd = -1  # no step can call any more

    def close(self) -> None:
        """Give the listener back."""
        with self._lock:
            self.fd = -1
            if self._listener >= 0:
                os.close(self._listener)
                self._listener = -1

    def _take_listener(self) -> None:
        assert self._channel is not None  # noqa: S101 - there is no fd without one
        try:
            _, fds, _, _ = socket.recv_fds(self._channel, 1, 1)
        except OSError:
            fds = []
        self._listener = fds[0] if fds else -1
        self.fd = self._listener

    def _answer(self) -> None:
        from builder.sandbox.engine import nodes  # noqa: PLC0415 - few steps have any

        uppers = {
            number: step.upper
            for number, step in self._steps.items()
            if len(step.nodes) < nodes.MAX_DEVICES
        }
        found = nodes.answer(self._listener, uppers)
        if found is not None:
            number, node = found
            self._steps[number].nodes.append(node)
