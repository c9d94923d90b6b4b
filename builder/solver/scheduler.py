"""The loop: key, look up, run, record. Sole owner of the solve's mutable state."""

from __future__ import annotations

import contextlib
import queue
import threading
import time

from builder.errors import SolveError
from builder.progress.events import (
    VertexCached,
    VertexDone,
    VertexFailed,
    VertexStarted,
)
from builder.solver.output import Output, TreeOutput
from builder.solver.plan import Plan
from cache.errors import PybuildError, StoreError, advice_on, reason_of
from cache.hints import TYPE_CHECKING, Protocol
from cache.keys import CacheKey, Difference, difference
from cache.records import Record
from cache.spec.oci import Layer
from cache.value import value
from frontend.graph import ExecOp, ImageOp, LinkOp, ScratchOp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from builder.progress.events import Reporter
    from cache.records import LayerCache
    from frontend.graph import Graph, Op, Ref, Vertex


_SOON = 0.1  # seconds; most steps have begun by then, and what is idle disturbs none


class StepLog(Protocol):
    """Where a running step's output and transfers go."""

    def output(self, stream: int, data: bytes) -> None:
        """Take raw output."""

    def flush(self) -> None:
        """Show everything taken so far."""

    def progress(self, item: str, current: int, total: int) -> None:
        """Take a transfer's state."""

    def tail(self) -> tuple[str, ...]:
        """The last lines, for the error."""


class OpHandler(Protocol):
    """Answers for one kind of op. `key` runs nothing; None means the result is no layer."""

    def key(self, op: Op, inputs: Sequence[Output]) -> CacheKey | None:
        """The identity of the step."""

    def run(self, op: Op, inputs: Sequence[Output], log: StepLog) -> Output | Layer:
        """Do it: a layer on top of inputs[0], or another output."""


def _nothing() -> None:
    """Have nothing to do."""


@value
class Explained:
    """How a step was answered: from the cache, or why not (None: it never ran before)."""

    name: str
    hit: bool
    difference: Difference | None


@value
class Policy:
    """What the cache may answer. `now` gives RFC 3339 text for new layers.

    `idle` is called once if steps take some time and nothing else is to be done meanwhile.
    """

    now: Callable[[], str]
    is_present: Callable[[Layer], bool]
    use_cache: bool = True
    explain: bool = False
    workers: int = 8
    idle: Callable[[], None] = _nothing


class Solver:
    """One solve of one graph."""

    def __init__(
        self,
        graph: Graph,
        result: Ref,
        handlers: Mapping[type, OpHandler],
        cache: LayerCache,
        reporter: Reporter,
        policy: Policy,
        *,
        more: Sequence[Ref] = (),
        slots: Mapping[Ref, str],
        step_log: Callable[[Ref], StepLog],
        given: Callable[[Op], Output | None],
    ) -> None:
        """Take everything a solve needs; nothing happens yet. `more` are further results."""
        self._graph = graph
        self._handlers = handlers
        self._cache = cache
        self._reporter = reporter
        self._policy = policy
        self._slots = slots
        self._step_log = step_log
        self._given = given
        self._cancelling = False
        self._plan = Plan(graph, result, *more)
        self._keys: dict[Ref, CacheKey] = {}
        self.outputs: dict[Ref, Output] = {}
        self.explained: dict[Ref, Explained] = {}
        self.cached = 0
        self.ran = 0

    def probe(self) -> None:
        """Answer what needs no doing, in this thread, until only misses are left."""
        missed: list[Ref] = []
        while (ref := self._plan.take()) is not None:
            output = self._answer(ref)
            if output is None:
                missed.append(ref)
            else:
                self.outputs[ref] = output
                self._plan.finish(ref)
        for ref in missed:
            self._plan.put_back(ref)

    @property
    def pending(self) -> tuple[Vertex, ...]:
        """What the probe could not answer."""
        return tuple(self._graph[ref] for ref in self._plan.pending)

    @property
    def needs_sandbox(self) -> bool:
        """Whether a RUN is left to do."""
        return any(isinstance(vertex.op, ExecOp) for vertex in self.pending)

    def run(self, cancel: Callable[[], None]) -> None:
        """Do the rest in worker threads; `cancel` stops running steps when one fails.

        Raises:
            SolveError: a step failed; the others were cancelled first.
        """
        if not self._plan.pending:
            return
        workers = _Workers(self._policy.workers, self._work, self._policy.idle)
        failure: BaseException | None = None
        try:
            while failure is None and (self._start_ready(workers) or self._plan.running):
                failure = self._reap(workers)
        except BaseException as error:
            failure = error
            raise
        finally:
            if failure is not None:
                self._cancelling = True
                cancel()
            workers.stop()
        if failure is not None:
            raise failure

    def records(self, results: Sequence[Ref] | None = None) -> list[Record]:
        """What steps gave, from the cache or not; with `results`, only what those lie on."""
        kept = self._keys if results is None else self._below(results)
        found = []
        for ref in kept:
            key, output = self._keys.get(ref), self.outputs.get(ref)
            if key is not None and isinstance(output, TreeOutput) and output.layers:
                slot = self._slots.get(ref, "")
                found.append(Record(key, output.chain, output.layers[-1], output.created, slot))
        return found

    def _below(self, results: Sequence[Ref]) -> set[Ref]:
        """The vertices whose layers are those of some results."""
        found: set[Ref] = set()
        pending = list(results)
        while pending:
            ref = pending.pop()
            if ref not in found:
                found.add(ref)
                vertex = self._graph[ref]
                linked = isinstance(vertex.op, LinkOp)
                pending.extend(vertex.inputs if linked else vertex.inputs[:1])
        return found

    def _start_ready(self, workers: _Workers) -> bool:
        started = False
        while (ref := self._plan.take()) is not None:
            workers.start(ref)
            started = True
        return started

    def _reap(self, workers: _Workers) -> BaseException | None:
        ref, result = workers.take()
        if isinstance(result, BaseException):
            return result
        self.outputs[ref] = result
        self._plan.finish(ref)
        return None

    def _inputs(self, ref: Ref) -> list[Output]:
        return [self.outputs[source] for source in self._graph[ref].inputs]

    def _answer(self, ref: Ref) -> Output | None:
        """Answer from structure or cache; None is a miss."""
        vertex = self._graph[ref]
        inputs = self._inputs(ref)
        match vertex.op:
            case ScratchOp():
                return TreeOutput(())
            case LinkOp():
                base, link = inputs
                if isinstance(base, TreeOutput) and isinstance(link, TreeOutput):
                    return TreeOutput(base.layers + link.layers, link.created)
            case _:
                given = self._given(vertex.op)
                if given is not None:
                    if isinstance(vertex.op, ImageOp):
                        self._reporter.emit(VertexCached(ref, vertex.name, time.monotonic()))
                    return given
        key = self._key(ref, vertex, inputs)
        if key is None:
            return None
        self._keys[ref] = key
        record = None if vertex.fresh else self._lookup(key)
        self._explain(ref, key, record)
        if record is None or record.layer is None:
            return None
        base = inputs[0] if inputs else TreeOutput(())
        if not isinstance(base, TreeOutput):
            return None
        self.cached += 1
        self._reporter.emit(VertexCached(ref, vertex.name, time.monotonic()))
        return base.with_layer(record.layer, record.created)

    def _key(self, ref: Ref, vertex: Vertex, inputs: Sequence[Output]) -> CacheKey | None:
        try:
            return self._handlers[type(vertex.op)].key(vertex.op, inputs)
        except PybuildError as error:
            self._reporter.emit(VertexStarted(ref, vertex.name, time.monotonic()))
            self._failed(ref, error.message)
            raise SolveError(vertex, error) from error

    def _lookup(self, key: CacheKey) -> Record | None:
        if not self._policy.use_cache:
            return None
        record = self._cache.get(key)
        if record is None or record.layer is None:
            return None
        if not self._policy.is_present(record.layer):
            self._cache.forget(key)
            return None
        return record

    def _explain(self, ref: Ref, key: CacheKey, record: Record | None) -> None:
        if not self._policy.explain:
            return
        changed: Difference | None = None
        if record is None:
            last = self._cache.latest(self._slots.get(ref, ""))
            changed = difference(last.key, key) if last is not None else None
        self.explained[ref] = Explained(self._graph[ref].name, record is not None, changed)

    def _work(self, ref: Ref) -> Output:
        """Do one vertex, in a worker thread."""
        vertex = self._graph[ref]
        if ref not in self._keys:
            answer = self._answer(ref)
            if answer is not None:
                return answer
        log = self._step_log(ref)
        self._reporter.emit(VertexStarted(ref, vertex.name, time.monotonic()))
        try:
            output = self._do(ref, vertex, log)
        except PybuildError as error:
            self._failed(ref, error.message)
            raise SolveError(vertex, error, log.tail()) from error
        except OSError as error:
            cause = StoreError(reason_of(error), hint=advice_on(error))
            self._failed(ref, cause.message)
            raise SolveError(vertex, cause, log.tail()) from error
        self._reporter.emit(VertexDone(ref, time.monotonic()))
        return output

    def _do(self, ref: Ref, vertex: Vertex, log: StepLog) -> Output:
        inputs = self._inputs(ref)
        result = self._handlers[type(vertex.op)].run(vertex.op, inputs, log)
        base = inputs[0] if inputs else TreeOutput(())
        if not isinstance(result, Layer):
            return result
        self.ran += 1
        created = self._policy.now()
        tree = base if isinstance(base, TreeOutput) else TreeOutput(())
        output = tree.with_layer(result, created)
        key, slot = self._keys[ref], self._slots.get(ref, "")
        self._cache.put(Record(key, output.chain, result, created, slot))
        return output

    def _failed(self, ref: Ref, message: str) -> None:
        cancelled = self._cancelling
        self._reporter.emit(VertexFailed(ref, message, cancelled=cancelled, time=time.monotonic()))


class _Workers:
    """Threads started on demand, at most `limit`; results come back on one queue.

    A thread takes one vertex after the other: starting one costs as much as a small step.
    """

    def __init__(self, limit: int, work: Callable[[Ref], Output], idle: Callable[[], None]) -> None:
        self._limit = limit
        self._idle: Callable[[], None] | None = idle
        self._work = work
        self._threads: list[threading.Thread] = []
        self._stopped = False
        self._unfinished = 0  # vertices started whose results were not taken yet
        self._waiting: queue.SimpleQueue[Ref | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[Ref, Output | BaseException]] = queue.SimpleQueue()

    def start(self, ref: Ref) -> None:
        self._unfinished += 1
        self._waiting.put(ref)
        if len(self._threads) < min(self._unfinished, self._limit):
            thread = threading.Thread(target=self._run, name=f"worker-{len(self._threads)}")
            self._threads.append(thread)
            thread.start()

    def take(self) -> tuple[Ref, Output | BaseException]:
        """Wait for a result."""
        result = self._first() if self._idle else self._results.get()
        self._unfinished -= 1
        return result

    def _first(self) -> tuple[Ref, Output | BaseException]:
        """Wait for a result; be idle if there is none soon."""
        with contextlib.suppress(queue.Empty):
            return self._results.get(timeout=_SOON)
        idle, self._idle = self._idle, None
        if idle is not None:
            idle()
        return self._results.get()

    def _run(self) -> None:
        while (ref := self._waiting.get()) is not None and not self._stopped:
            try:
                self._results.put((ref, self._work(ref)))
            except BaseException as error:  # noqa: BLE001 - every end must reach the loop
                self._results.put((ref, error))

    def stop(self) -> None:
        self._stopped = True
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
