"""Specifications and reports across the process border."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox import wire
from builder.sandbox.spec import (
    Bind,
    BindOverlay,
    MemoryFile,
    NetworkMode,
    Overlay,
    Process,
    Recorded,
    SandboxSpec,
    Tmpfs,
)

names = st.binary(max_size=12).map(lambda data: data.decode("utf-8", "surrogateescape"))
records = st.builds(
    Recorded,
    names,
    st.integers(-1, 70000),
    st.integers(-1, 70000),
    st.integers(-1, 0o177777),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.lists(st.tuples(names, st.binary()), max_size=2).map(tuple),
)
mounts = st.one_of(
    st.builds(Bind, names, names, names, st.booleans()),
    st.builds(
        BindOverlay, names, st.tuples(names), names, names, st.booleans(), st.tuples(records)
    ),
    st.builds(Tmpfs, names, st.integers(0, 2**40)),
    st.builds(MemoryFile, names, st.binary(), st.integers(0, 0o7777)),
)
specs = st.builds(
    SandboxSpec,
    st.builds(Overlay, names, st.tuples(names, names), names, names),
    st.builds(Process, st.tuples(names), st.tuples(st.tuples(names, names)), names, names),
    st.lists(mounts, max_size=3).map(tuple),
    st.sampled_from(NetworkMode),
    names,
    st.binary(),
    st.binary(),
)


@given(specs)
def test_a_specification_survives_the_border(spec):
    """Every field comes back, undecodable names and binary data included."""
    assert wire.decode_spec(wire.encode_spec(spec)) == spec


def test_reports_survive_the_border():
    """Stubs, either error with its hint, and silence are told apart."""
    report = wire.Report(stubs=(("/a/\udcff", 5), ("/a", 4)))
    assert wire.decode_report(wire.encode_report(report)) == report
    assert wire.decode_report(b"") is None
    for kind in (SandboxError, HostUnsupportedError):
        told = wire.decode_report(wire.encode_report(wire.Report(error=kind("m", hint="h"))))
        assert (type(told.error), told.error.message, told.error.hint) == (kind, "m", "h")
