"""Progress as lines for logs and pipes (O73): nothing is redrawn, nothing is cut.

What is printed is a function of the events alone, their times included.
"""

from __future__ import annotations

import threading

from builder.progress import events
from builder.progress.sink import Sink
from builder.progress.text import LineSplitter, harmless, human_size
from cache.hints import TYPE_CHECKING
from cache.value import field, state

if TYPE_CHECKING:
    from typing import TextIO

    from builder.progress.events import Event, StepEvent

# Seconds a step's lines wait for the step that has the floor, so that parallel steps do not
# alternate line by line.
PATIENCE = 3.0
# Lines one waiting step may hold back; a flood takes the floor at once instead of filling memory.
MAX_WAITING = 1000
_PROGRESS_EVERY = 5.0  # seconds between lines of one unfinished transfer


@state
class _Step:
    number: int
    name: str
    started: float
    waiting: list[str] = field(default_factory=list)
    waiting_since: float = 0.0
    announced: bool = False
    ended: bool = False
    splitters: dict[int, LineSplitter] = field(default_factory=dict)
    transfers: dict[str, tuple[float, float]] = field(default_factory=dict)

    def log(self, time: float, text: str) -> str:
        """A line of output with the seconds since the step began."""
        return f"#{self.number} {max(time - self.started, 0.0):.3f} {text}".rstrip()

    def unfinished(self, time: float) -> list[str]:
        """Lines the step ended in the middle of."""
        splitters = [splitter for _, splitter in sorted(self.splitters.items())]
        return [self.log(time, text) for splitter in splitters for text in splitter.finish()]


class PlainReporter:
    """A Reporter that prints `#N` lines; one step at a time has the floor."""

    def __init__(self, stream: TextIO) -> None:
        """Print to a text stream."""
        self._sink = Sink(stream)
        self._lock = threading.Lock()
        self._numbers = 0
        self._running: dict[int, _Step] = {}
        self._open: list[_Step] = []  # running, or ended with lines still to print
        self._floor: _Step | None = None
        self._first = True

    def emit(self, event: Event, /) -> None:
        """Turn one event into lines, printed now or when their step gets the floor."""
        with self._lock:
            if isinstance(event, events.Warned):
                out = [f"WARN: {_one_line(event.message)}"]
            else:
                self._take(event)
                out = self._give_floor(event.time)
            self._print(out)

    def close(self) -> None:
        """Print what still waits; idempotent."""
        with self._lock:
            self._print(self._give_floor(float("inf")))

    def _print(self, lines: list[str]) -> None:
        if lines:
            self._sink.write("\n".join(lines) + "\n")

    def _take(self, event: StepEvent) -> None:
        step = self._running.get(event.id)
        if step is None:
            self._numbers += 1
            step = _Step(self._numbers, _one_line(getattr(event, "name", "")), event.time)
            self._running[event.id] = step
            self._open.append(step)
        lines = _lines(step, event)
        if lines and not step.waiting:
            step.waiting_since = event.time
        step.waiting += lines
        if step.ended:
            del self._running[event.id]

    def _give_floor(self, time: float) -> list[str]:
        """Print for the step that has the floor; pass it on when it ended or others waited long."""
        out: list[str] = []
        while True:
            if self._floor is not None:
                out += self._floor.waiting
                self._floor.waiting = []
                if self._floor.ended:
                    self._open.remove(self._floor)
                    self._floor = None
            following = self._next(time)
            if following is None:
                return out
            if self._floor is not None:
                out.append(f"#{self._floor.number} ...")
            if not self._first:
                out.append("")
            self._first = False
            out.append(f"#{following.number} {following.name}".rstrip())
            following.announced = True
            self._floor = following

    def _next(self, time: float) -> _Step | None:
        """The step to give the floor to: with none to take it from, anyone who has not had it."""
        waiting = [step for step in self._open if step.waiting and step is not self._floor]
        if self._floor is None:
            fresh = (step for step in self._open if not step.announced)
            return min(waiting, key=_since, default=None) or next(fresh, None)
        late = (
            step
            for step in waiting
            if time - step.waiting_since > PATIENCE or len(step.waiting) > MAX_WAITING
        )
        return min(late, key=_since, default=None)


def _since(step: _Step) -> tuple[float, int]:
    return step.waiting_since, step.number


def _one_line(text: str) -> str:
    return harmless(" ".join(text.splitlines()) if "\n" in text or "\r" in text else text)


def _lines(step: _Step, event: StepEvent) -> list[str]:
    match event:
        case events.VertexStarted():
            return []
        case events.VertexLog():
            splitter = step.splitters.setdefault(event.stream, LineSplitter())
            return [step.log(event.time, text) for text in splitter.feed(event.data)]
        case events.VertexProgress():
            return _transfer(step, event)
        case events.VertexCached():
            return _ended(step, event.time, "CACHED")
        case events.VertexDone():
            return _ended(step, event.time, f"DONE {max(event.time - step.started, 0.0):.1f}s")
        case events.VertexFailed():
            end = "CANCELED" if event.cancelled else f"ERROR: {harmless(event.message)}"
            return _ended(step, event.time, end)


def _ended(step: _Step, time: float, end: str) -> list[str]:
    step.ended = True
    return [*step.unfinished(time), f"#{step.number} {end}"]


def _transfer(step: _Step, event: events.VertexProgress) -> list[str]:
    """A line when a transfer is complete, and one now and then before."""
    began, shown = step.transfers.get(event.item, (event.time, event.time))
    complete = 0 < event.total <= event.current
    if complete and began < 0:
        return []
    due = complete or event.time - shown >= _PROGRESS_EVERY
    # A completed transfer is remembered, so that it is said once.
    step.transfers[event.item] = (-1.0 if complete else began, event.time if due else shown)
    if not due:
        return []
    amount = human_size(event.current)
    if event.total:
        amount += f" / {human_size(event.total)}"
    end = f" {max(event.time - began, 0.0):.1f}s" + (" done" if complete else "")
    return [f"#{step.number} {_one_line(event.item)} {amount}{end}"]
