"""What is ready next: pure bookkeeping over a graph; no threads, no clock, no I/O."""

from __future__ import annotations

from cache.hints import TYPE_CHECKING
from frontend.graph import Ref

if TYPE_CHECKING:
    from frontend.graph import Graph


class Plan:
    """The vertices results need, and which of them can start."""

    def __init__(self, graph: Graph, *results: Ref) -> None:
        """Keep what the results reach, in topological order."""
        needed = set(results)
        for index in range(max(results), -1, -1):
            if index in needed:
                needed.update(graph[Ref(index)].inputs)
        self._inputs = {ref: set(graph[ref].inputs) for ref in sorted(needed)}
        self._users: dict[Ref, list[Ref]] = {ref: [] for ref in self._inputs}
        for ref, inputs in self._inputs.items():
            for source in inputs:
                self._users[source].append(ref)
        self._running: set[Ref] = set()
        self._done: set[Ref] = set()
        self._ready = [ref for ref, inputs in self._inputs.items() if not inputs]

    def __repr__(self) -> str:
        """Count the states."""
        waiting = len(self._inputs) - len(self._done) - len(self._running)
        return (
            f"<Plan {len(self._inputs)} vertices: {len(self._done)} done, "
            f"{len(self._running)} running, {waiting} waiting>"
        )

    def take(self) -> Ref | None:
        """Give the first ready vertex and count it as running; None when none is ready."""
        if not self._ready:
            return None
        ref = self._ready.pop(0)
        self._running.add(ref)
        return ref

    def put_back(self, ref: Ref) -> None:
        """Undo a take: the vertex cannot run in this phase."""
        self._running.remove(ref)
        self._ready.append(ref)

    def finish(self, ref: Ref) -> None:
        """Count a taken vertex as done; its users may become ready."""
        self._running.remove(ref)
        self._done.add(ref)
        for user in self._users[ref]:
            self._inputs[user].discard(ref)
            if not self._inputs[user]:
                self._ready.append(user)
        self._ready.sort()

    @property
    def pending(self) -> tuple[Ref, ...]:
        """Vertices that are not done, in order."""
        return tuple(ref for ref in self._inputs if ref not in self._done)

    @property
    def running(self) -> int:
        """How many are taken and not finished."""
        return len(self._running)
