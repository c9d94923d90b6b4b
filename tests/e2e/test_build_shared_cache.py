"""What steps gave, kept in a registry or a directory and used by a machine that has nothing."""

from __future__ import annotations

import json

import pytest

TEXT = """\
FROM {base} AS build
RUN echo built > /made; date +%s%N > /when
FROM {base}
WORKDIR /app
COPY file /app/
COPY --from=build /made /when /app/
RUN cat made file > both
"""


@pytest.fixture
def context(pybuild, busybox):
    """Two stages over a small base."""
    context = pybuild.context("shared", TEXT.format(base=busybox))
    (context / "file").write_text("one\n")
    return context


def _id(pybuild, name):
    return json.loads(pybuild.good("inspect", name).out)[0]["Id"]


def _blobs(pybuild):
    return [path for path in pybuild.state.rglob("*") if path.is_file() and "blobs" in path.parts]


@pytest.mark.parametrize("place", ["registry", "local"])
def test_a_fresh_machine_finds_everything(pybuild, context, registry, place):
    """Mode=max: no step runs again, and the image is the one that was built."""
    if place == "registry":
        name = registry.name(f"cache-{pybuild.uid}")
        to, source = f"type=registry,ref={name},mode=max", name
    else:
        directory = pybuild.home / "cache"
        to, source = f"type=local,dest={directory},mode=max", f"type=local,src={directory}"
    first = pybuild.good("-t", "shared", "--cache-to", to, context)
    assert "exporting cache to" in first.err
    fresh = pybuild.with_state("fresh")
    done = fresh.good("-t", "shared", "--cache-from", source, context)
    assert "(0 steps run" in done.err
    assert _id(fresh, "shared") == _id(pybuild, "shared")
    assert fresh.good("run", "--rm", "shared", "cat", "/app/both").out == "built\none\n"


def test_only_what_changed_is_done_again(pybuild, context, registry):
    """Layers below a change come from the cache; what depends on it is built on them."""
    name = registry.name(f"cache-changed-{pybuild.uid}")
    pybuild.good("-t", "shared", "--cache-to", f"{name}", context)
    (context / "file").write_text("two\n")
    fresh = pybuild.with_state("fresh")
    done = fresh.good("-t", "shared", "--cache-from", f"type=registry,ref={name}", context)
    assert "importing cache from" in done.err
    assert "CACHED" in done.err
    assert fresh.good("run", "--rm", "shared", "cat", "/app/both").out == "built\ntwo\n"


def test_a_push_of_what_is_cached_fetches_nothing(pybuild, context, registry):
    """Layers stay where they are: the registry is told that it has them."""
    name = registry.name(f"cache-push-{pybuild.uid}")
    to = f"type=registry,ref={name}:cache,mode=max"
    pybuild.good("-t", f"{name}:first", "--push", "--cache-to", to, context)
    fresh = pybuild.with_state("fresh")
    fresh.good("-t", f"{name}:again", "--push", "--cache-from", f"{name}:cache", context)
    assert sum(path.stat().st_size for path in _blobs(fresh)) < 100_000


def test_a_cache_that_cannot_be_had_is_no_failure(pybuild, context, registry, busybox):
    """It is told of; one that cannot be written is a failure unless that is said to be none."""
    missing = registry.name("nothing-there:1")
    done = pybuild.good("--cache-from", missing, "--cache-from", busybox, context)
    assert f"warning: no cache from {missing}" in done.err
    assert "holds no cache" in done.err
    nowhere = "type=registry,ref=127.0.0.1:1/x"
    assert pybuild.run("--cache-to", nowhere, context).code == 1
    done = pybuild.good("--cache-to", f"{nowhere},ignore-error=true", context)
    assert "no cache was written" in done.err
