"""What the terminal view shows: state folded from events, and the lines it makes of it.

Knows sizes and styles, but no terminal, thread or clock: the same state, time and size give the
same lines. The only module that words the terminal view; `live` only puts it on the screen.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, assert_never

from builder.progress import events
from builder.progress.text import LineSplitter, harmless, human_seconds, human_size
from cache.value import field, state, value

if TYPE_CHECKING:
    from builder.progress.events import Event, StepEvent

LOG_LINES = 6  # of each running step
_LOG_BYTES = 8 * 1024  # of one chunk of output; only its last lines can ever be seen
_TRANSFERS = 4  # bars of one step
_BAR = 24  # cells
_WARNINGS = 5


@value
class Span:
    """A piece of a line; `style` is a rich style."""

    text: str
    style: str = ""


@value
class Line:
    """A line: what stands left, and what is kept visible at the right end."""

    left: tuple[Span, ...]
    right: tuple[Span, ...] = ()


@value
class Marks:
    """The characters drawn with, so that terminals without UTF-8 get readable ones."""

    done: str
    failed: str
    stopped: str
    log: str
    transfer: str
    full: str
    empty: str
    dots: str
    spinner: str


UNICODE = Marks("✔", "✘", "■", "│", "↓", "━", "─", "…", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
ASCII = Marks("+", "x", "-", "|", ">", "=", ".", "...", "|/-\\")


@state
class _Step:
    name: str
    started: float
    ended: float | None = None
    outcome: str = ""  # "", "done", "cached", "failed", "cancelled"
    message: str = ""
    log: deque[str] = field(default_factory=deque)
    splitters: dict[int, LineSplitter] = field(default_factory=dict)
    transfers: dict[str, tuple[int, int]] = field(default_factory=dict)


class Picture:
    """The build as seen so far."""

    def __init__(self, *, marks: Marks = UNICODE, log_lines: int = LOG_LINES) -> None:
        """Begin with nothing."""
        self._marks = marks
        self._log_lines = log_lines
        self._steps: dict[int, _Step] = {}
        self._began: float | None = None
        self._warnings: list[str] = []

    def take(self, event: Event) -> None:
        """Fold one event in."""
        if isinstance(event, events.Warned):
            self._warnings.append(_one_line(event.message))
            return
        if self._began is None:
            self._began = event.time
        step = self._steps.get(event.id)
        if step is None:
            name = _one_line(getattr(event, "name", ""))
            step = _Step(name, event.time, log=deque(maxlen=self._log_lines))
            self._steps[event.id] = step
        _fold(step, event)

    def lines(self, now: float, height: int) -> list[Line]:
        """The view while building, at most `height` lines; running steps come before old ones."""
        frame = self._marks.spinner[int(now * 10) % len(self._marks.spinner)]
        head = self._header(now, "Building")
        steps = list(self._steps.values())
        active = [step for step in steps if step.ended is None]
        room = max(height - 1, 0)
        tail = self._warned(last=_WARNINGS)[: max(room - len(active), 0)]
        room -= len(tail)
        details = self._fitting(active, room, now, frame)
        room -= sum(len(lines) for lines in details.values())
        shown, hidden = self._recent(steps, room)
        body: list[Line] = []
        if hidden:
            body.append(Line((Span(f"   {self._marks.dots} {hidden} earlier steps", "dim"),)))
        for step in steps:
            if id(step) in details:
                body += details[id(step)]
            elif id(step) in shown:
                body += self._step(step, now, frame)[: 2 if room >= 2 * len(steps) else 1]
        return [head, *body, *tail][:height]

    def final(self, now: float) -> list[Line]:
        """Everything, once: what stays on the screen."""
        unfinished = any(
            step.ended is None or step.outcome == "cancelled" for step in self._steps.values()
        )
        lines = [self._header(now, "Stopped" if unfinished else "Built")]
        for step in self._steps.values():
            lines += self._step(step, now, " ")[: None if step.ended is not None else 1]
        return lines + self._warned(last=len(self._warnings))

    @property
    def is_moving(self) -> bool:
        """Whether the view changes with time alone."""
        return any(step.ended is None for step in self._steps.values())

    def _header(self, now: float, word: str) -> Line:
        total = len(self._steps)
        done = sum(step.ended is not None for step in self._steps.values())
        failed = any(step.outcome == "failed" for step in self._steps.values())
        style = (
            "bold red"
            if failed
            else "bold green"
            if done == total and word != "Stopped"
            else "bold"
        )
        elapsed = human_seconds(now - self._began if self._began is not None else 0.0)
        text = f"[+] {'Failed' if failed else word} {elapsed} ({done}/{total})"
        return Line((Span(text, style),))

    def _warned(self, *, last: int) -> list[Line]:
        return [Line((Span(f" ! {text}", "yellow"),)) for text in self._warnings[-last:] if last]

    def _fitting(
        self, active: list[_Step], room: int, now: float, frame: str
    ) -> dict[int, list[Line]]:
        """Lines of running steps: each gets its head line first, then details while they fit."""
        fitting: dict[int, list[Line]] = {}
        spare = max(room - len(active), 0)
        for index, step in enumerate(active[:room]):
            share = spare // max(len(active[:room]) - index, 1)
            head, *details = self._step(step, now, frame)
            kept = details[-share:] if share else []
            spare -= len(kept)
            fitting[id(step)] = [head, *kept]
        return fitting

    @staticmethod
    def _recent(steps: list[_Step], room: int) -> tuple[set[int], int]:
        """The finished steps to show (failed ones always first in line) and how many are left out."""
        finished = [step for step in steps if step.ended is not None]
        if len(finished) <= room:
            return {id(step) for step in finished}, 0
        room -= 1  # the line that says how many are hidden
        order = sorted(finished, key=lambda step: (step.outcome == "failed", step.ended or 0.0))
        kept = order[-room:] if room > 0 else []
        hidden = len(finished) - len(kept)
        return {id(step) for step in kept}, hidden if room >= 0 else 0

    def _step(self, step: _Step, now: float, frame: str) -> list[Line]:
        spent = human_seconds((now if step.ended is None else step.ended) - step.started)
        match step.outcome:
            case "":
                head = Line((Span(f" {frame} ", "cyan"), Span(step.name)), (Span(spent, "cyan"),))
                return [head, *self._details(step)]
            case "cached":
                name = Span(f" {self._marks.done} {step.name}", "dim")
                return [Line((name,), (Span("CACHED", "dim"),))]
            case "done":
                mark = Span(f" {self._marks.done} ", "green")
                return [Line((mark, Span(step.name)), (Span(spent, "dim"),))]
            case "cancelled":
                name = Span(f" {self._marks.stopped} {step.name}", "dim yellow")
                return [Line((name,), (Span("CANCELED", "dim yellow"),))]
            case _:
                name = Span(f" {self._marks.failed} {step.name}", "red")
                head = Line((name,), (Span(f"ERROR {spent}", "bold red"),))
                return [head, Line((Span(f"   {_one_line(step.message)}", "red"),))]

    def _details(self, step: _Step) -> list[Line]:
        open_ = [(k, v) for k, v in step.transfers.items() if not 0 < v[1] <= v[0]]
        bars = [self._bar(item, *amounts) for item, amounts in open_[-_TRANSFERS:]]
        complete = len(step.transfers) - len(open_)
        if complete and bars:
            text = f"   {self._marks.transfer} {complete} complete"
            bars.insert(0, Line((Span(text, "dim"),)))
        log = [
            Line((Span(f"   {self._marks.log} ", "dim cyan"), Span(text, "dim")))
            for text in step.log
        ]
        return [*log, *bars]

    def _bar(self, item: str, current: int, total: int) -> Line:
        left = Span(f"   {self._marks.transfer} {_one_line(item)}")
        if not total:
            return Line((left,), (Span(human_size(current), "cyan"),))
        full = min(_BAR * current // total, _BAR)
        amount = f" {human_size(current):>8} / {human_size(total):<8}{100 * current // total:>4}%"
        spans = (
            Span(self._marks.full * full, "cyan"),
            Span(self._marks.empty * (_BAR - full), "dim"),
            Span(amount, "cyan"),
        )
        return Line((left,), spans)


def _fold(step: _Step, event: StepEvent) -> None:
    match event:
        case events.VertexStarted():
            pass
        case events.VertexLog():
            splitter = step.splitters.setdefault(event.stream, LineSplitter())
            lines = splitter.feed(event.data[-_LOG_BYTES:])
            step.log.extend(line.expandtabs(4) for line in lines if line.strip())
        case events.VertexProgress():
            step.transfers[event.item] = (event.current, event.total)
        case events.VertexCached():
            _end(step, event.time, "cached")
        case events.VertexDone():
            _end(step, event.time, "done")
        case events.VertexFailed():
            step.message = event.message
            _end(step, event.time, "cancelled" if event.cancelled else "failed")
        case never:
            assert_never(never)


def _end(step: _Step, time: float, outcome: str) -> None:
    step.ended = time
    step.outcome = outcome
    step.log.clear()
    step.splitters.clear()
    step.transfers.clear()


def _one_line(text: str) -> str:
    return harmless(" ".join(text.split()))
