"""The plan and the scheduler over fakes: order, hits, misses, failures, records."""

from __future__ import annotations

import threading
import time

import pytest

from builder.errors import SandboxError, SolveError
from builder.progress import events
from builder.solver.output import TreeOutput
from builder.solver.plan import Plan
from builder.solver.scheduler import Policy, Solver
from builder.solver.steplog import ReportedLog
from cache.keys import CacheKey
from cache.spec import oci
from cache.spec.digest import Digest
from cache.spec.oci import Descriptor, Layer
from frontend.graph import CopyOp, ExecOp, GraphBuilder, LinkOp, Ref, ScratchOp


class Recorder:
    """A Reporter that keeps what it is told."""

    def __init__(self):
        self.events = []
        self._lock = threading.Lock()

    def emit(self, event, /):
        with self._lock:
            self.events.append(event)

    def close(self):
        pass

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


class MemoryRecords:
    """A LayerCache in a dict."""

    def __init__(self):
        self.records = {}

    def get(self, key):
        return self.records.get(key.digest)

    def put(self, record):
        self.records[record.key.digest] = record

    def latest(self, slot):
        found = [record for record in self.records.values() if record.slot == slot]
        return found[-1] if found else None

    def forget(self, key):
        self.records.pop(key.digest, None)


def layer_of(text):
    digest = Digest.of(text.encode())
    return Layer(Descriptor(oci.OCI_LAYER, digest, len(text)), digest)


class Handler:
    """Runs `argv` as a layer named by it; `fail` and `wait` steer steps by their first word."""

    def __init__(self, output=None):
        self.ran = []
        self.output = output or "".join
        self.fail = set()
        self.waits = {}

    def key(self, op, inputs):
        return CacheKey.of(("op", "x"), ("parent", str(inputs[0].chain)), ("argv", repr(op.argv)))

    def run(self, op, inputs, log):
        self.ran.append(op.argv[0])
        if op.argv[0] in self.waits:
            self.waits[op.argv[0]].wait(20)
        if op.argv[0] in self.fail:
            log.output(1, b"about to fail\n")
            message = "it failed"
            raise SandboxError(message)
        return layer_of(self.output(op.argv))


def solve(graph, result, handler, records, *, cancel=lambda: None, **policy):
    reporter = Recorder()
    solver = Solver(
        graph,
        result,
        {ExecOp: handler},
        records,
        reporter,
        Policy(now=lambda: "2020-01-01T00:00:00Z", is_present=lambda _: True, **policy),
        slots={Ref(index): f"slot {index}" for index in range(len(graph.vertices))},
        step_log=lambda ref: ReportedLog(ref, reporter),
        given=lambda _: None,
    )
    solver.probe()
    solver.run(cancel)
    return solver, reporter


def chain(*words):
    """A graph of RUN steps one after the other."""
    builder = GraphBuilder()
    ref = builder.add(ScratchOp())
    for word in words:
        ref = builder.add(ExecOp((word,)), ref, name=f"RUN {word}")
    return builder.build(), ref


def test_plan_yields_inputs_before_users_and_skips_the_unreachable():
    """A vertex is ready only when its inputs are done; others are never taken."""
    builder = GraphBuilder()
    scratch = builder.add(ScratchOp())
    a = builder.add(ExecOp(("a",)), scratch)
    builder.add(ExecOp(("unused",)), scratch)
    b = builder.add(ExecOp(("b",)), a)
    plan = Plan(builder.build(), b)
    order = []
    while (ref := plan.take()) is not None:
        order.append(ref)
        plan.finish(ref)
    assert order == [scratch, a, b]
    assert plan.pending == ()
    assert repr(plan) == "<Plan 3 vertices: 3 done, 0 running, 0 waiting>"


def test_second_solve_hits_every_step():
    """What ran once is answered from records; nothing runs again."""
    graph, result = chain("a", "b")
    records, handler = MemoryRecords(), Handler()
    first, _ = solve(graph, result, handler, records)
    second, reporter = solve(graph, result, handler, records)
    assert (first.ran, second.ran, second.cached) == (2, 0, 2)
    assert first.outputs[result] == second.outputs[result]
    assert len(reporter.of(events.VertexCached)) == 2


def test_what_can_be_done_while_steps_run_is_done_once():
    """A step that takes some time leaves the loop idle; short ones do not (W2, W5)."""
    idle = threading.Event()
    calls = []

    def be_idle():
        calls.append(1)
        idle.set()

    graph, result = chain("a", "b")
    handler = Handler()
    solve(graph, result, handler, MemoryRecords(), idle=be_idle)
    assert calls == []
    handler.waits = {"a": idle, "b": idle}
    solver, _ = solve(graph, result, handler, MemoryRecords(), idle=be_idle)
    assert (calls, solver.ran) == ([1], 2)


def test_no_cache_runs_again_and_still_records():
    """--no-cache looks nothing up (K30)."""
    graph, result = chain("a")
    records, handler = MemoryRecords(), Handler()
    solve(graph, result, handler, records)
    solver, _ = solve(graph, result, handler, records, use_cache=False)
    assert solver.ran == 1
    assert len(records.records) == 1


def test_rebuilt_parent_with_equal_output_lets_children_hit():
    """Keys stand on the parent's output digest (early cutoff)."""
    records = MemoryRecords()
    graph, result = chain("a", "child")
    solve(graph, result, Handler(lambda _: "same"), records)
    graph, result = chain("changed", "child")
    solver, _ = solve(graph, result, Handler(lambda _: "same"), records)
    assert (solver.ran, solver.cached) == (1, 1)


def test_lost_content_is_a_miss_and_the_record_goes():
    """A record whose layer is gone is not believed (R37)."""
    graph, result = chain("a")
    records, handler = MemoryRecords(), Handler()
    solve(graph, result, handler, records)
    reporter = Recorder()
    solver = Solver(
        graph, result, {ExecOp: handler}, records, reporter,
        Policy(now=lambda: "t", is_present=lambda _: False),
        slots={}, step_log=lambda ref: ReportedLog(ref, reporter), given=lambda _: None,
    )  # fmt: skip
    solver.probe()
    assert records.records == {}
    solver.run(lambda: None)
    assert solver.ran == 1


def test_independent_steps_run_at_the_same_time():
    """Two stages that do not need each other overlap (S04)."""
    builder = GraphBuilder()
    scratch = builder.add(ScratchOp())
    a = builder.add(ExecOp(("a",)), scratch)
    b = builder.add(ExecOp(("b",)), scratch)
    both = builder.add(LinkOp(), a, b)
    handler = Handler()
    barrier = threading.Barrier(2, timeout=20)
    handler.waits = {"a": _Meeting(barrier), "b": _Meeting(barrier)}
    solver, _ = solve(builder.build(), both, handler, MemoryRecords())
    assert isinstance(solver.outputs[both], TreeOutput)
    assert len(solver.outputs[both].layers) == 2


class _Meeting:
    def __init__(self, barrier):
        self._barrier = barrier

    def wait(self, _seconds):
        self._barrier.wait()


def test_failure_cancels_the_rest_and_names_the_vertex():
    """One failing step stops the others, whose end is reported as cancelled."""
    builder = GraphBuilder()
    scratch = builder.add(ScratchOp())
    slow = builder.add(ExecOp(("slow",)), scratch, name="RUN slow")
    bad = builder.add(ExecOp(("bad",)), scratch, name="RUN bad")
    result = builder.add(LinkOp(), slow, bad)
    handler, stopped = Handler(), threading.Event()
    handler.waits = {"slow": stopped}
    handler.fail = {"bad", "slow"}
    with pytest.raises(SolveError) as caught:
        solve(builder.build(), result, handler, MemoryRecords(), cancel=stopped.set)
    assert caught.value.vertex.name == "RUN bad"
    assert caught.value.log_tail == ("about to fail",)
    assert stopped.is_set()


def test_failed_step_is_never_recorded():
    """Only successes are remembered (K33)."""
    graph, result = chain("bad")
    handler, records = Handler(), MemoryRecords()
    handler.fail = {"bad"}
    with pytest.raises(SolveError):
        solve(graph, result, handler, records)
    assert records.records == {}


def test_every_started_step_ends_exactly_once():
    """Each start is followed by one end."""
    graph, result = chain("a", "b", "c")
    _, reporter = solve(graph, result, Handler(), MemoryRecords())
    started = [event.id for event in reporter.of(events.VertexStarted)]
    assert sorted(started) == sorted(event.id for event in reporter.of(events.VertexDone))


def test_explanation_names_what_changed():
    """A miss is explained by the first part that differs from the last key of its slot."""
    records = MemoryRecords()
    graph, result = chain("a")
    solve(graph, result, Handler(), records, explain=True)
    graph, result = chain("b")
    solver, _ = solve(graph, result, Handler(), records, explain=True)
    explained = solver.explained[result]
    assert not explained.hit
    assert explained.difference is not None
    assert (explained.difference.name, explained.difference.new) == ("argv", "('b',)")


def test_equal_vertices_are_one():
    """Interning makes equal steps run once."""
    builder = GraphBuilder()
    scratch = builder.add(ScratchOp())
    assert builder.add(CopyOp((), "/a"), scratch) == builder.add(CopyOp((), "/a"), scratch)


def test_a_fresh_step_runs_though_it_is_known():
    """K30: a vertex marked fresh is never looked up, nor one equal to it; others still hit."""
    records, handler = MemoryRecords(), Handler()
    graph, result = chain("a", "b", "c")
    solve(graph, result, handler, records)
    builder = GraphBuilder()
    a = builder.add(ExecOp(("a",)), builder.add(ScratchOp()))
    b = builder.add(ExecOp(("b",)), a)
    assert builder.add(ExecOp(("b",)), a, fresh=True) == b
    result = builder.add(ExecOp(("c",)), b)
    handler.ran.clear()
    solver, _ = solve(builder.build(), result, handler, records)
    assert handler.ran == ["b"]
    assert (solver.ran, solver.cached) == (1, 2)


def test_log_masks_secrets_even_across_pieces():
    """A secret's bytes never reach the reporter, however output is cut (SEC-8)."""
    reporter = Recorder()
    log = ReportedLog(0, reporter, [b"sekret-value"])
    for piece in (b"x sek", b"ret-va", b"lue y\nsekret-value", b"\nsek"):
        log.output(1, piece)
    log.flush()
    text = b"".join(event.data for event in reporter.of(events.VertexLog))
    assert text == b"x **** y\n****\nsek"
    assert log.tail()[0] == "x **** y"


def test_long_secrets_do_not_slow_output_down():
    """Output is not compared with every beginning of a long secret, byte for byte (SEC-8)."""
    log = ReportedLog(0, Recorder(), [bytes(range(256)) * 1000])
    before = time.process_time()
    for _ in range(32):
        log.output(1, b"x" * (1 << 16))
    assert time.process_time() - before < 5  # looking everywhere takes 14 seconds
