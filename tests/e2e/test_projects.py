"""Real projects built on a real Debian, checked with other programs.

All on one worker: they share the Debian images, which pybuild itself makes with apt.
"""

from __future__ import annotations

import http.client
import json
import shutil
import time

import pytest
from support import bases, peers
from support.layout_files import Layout
from support.pybuild_cli import REPOSITORY, end
from support.registry_process import free_port

pytestmark = [pytest.mark.xdist_group("projects"), pytest.mark.timeout(900)]
# The large ones are built once, the harder way; their base images are built by root anyway.
UNPRIVILEGED = pytest.mark.parametrize("pybuild", ["user"], indirect=True)
PROJECTS = REPOSITORY / "testdata" / "projects"


@pytest.fixture(scope="module")
def python_base(workspace, registry, root_pybuild, debian):
    """Debian with Python, installed by a RUN."""
    name = registry.name("python:1")
    context = bases.install_context(workspace / "python", debian, "python3-venv")
    root_pybuild.good("-t", name, "--push", context, timeout=600)
    return name


@pytest.fixture(scope="module")
def gcc_base(workspace, registry, root_pybuild, debian):
    """Debian with a C compiler, installed by a RUN."""
    name = registry.name("gcc:1")
    context = bases.install_context(workspace / "gcc", debian, "gcc", "libc6-dev")
    root_pybuild.good("-t", name, "--push", context, timeout=600)
    return name


def _project(pybuild, name):
    shutil.copytree(PROJECTS / name, pybuild.home / name)
    return pybuild.own(pybuild.home / name)


def _cold_and_cached(pybuild, context, tag, base):
    """Build cold, build again, push; the repeat must run nothing and give the same image."""
    words = ["-t", tag, "--build-arg", f"BASE={base}", *bases.index_arguments(), context]
    ids = [pybuild.home / "id-cold", pybuild.home / "id-cached"]
    first = pybuild.good("--push", "--iidfile", ids[0], *words, timeout=600)
    assert first.ending("CACHED") == []
    second = pybuild.good("--iidfile", ids[1], *words)
    assert second.ending("DONE") == []
    assert ids[0].read_text() == ids[1].read_text()
    return words


def _pull(tag, directory):
    """Fetch a pushed image with skopeo into a layout, check it, unpack it with umoci."""
    peers.copy(f"docker://{tag}", f"oci:{directory / 'layout'}:it")
    layout = Layout(directory / "layout").check()
    shown = peers.inspect(f"docker://{tag}")
    assert shown["Layers"] == [layer["digest"] for layer in layout.manifest["layers"]]
    peers.unpack(directory / "layout", "it", directory / "bundle")
    return layout, directory / "bundle"


def _get(port, path="/", method="GET", body=None, patience=30.0):
    """Ask a service on loopback, waiting for it to come up."""
    deadline = time.monotonic() + patience
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request(method, path, body)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        finally:
            connection.close()


def test_c_program_on_scratch(pybuild, gcc_base, registry, tmp_path):
    """A static program is compiled in one stage and shipped alone; crun, runc and we run it."""
    context = _project(pybuild, "c-scratch")
    tag = registry.name(f"c-{pybuild.uid}:1")
    words = _cold_and_cached(pybuild, context, tag, gcc_base)
    layout, bundle = _pull(tag, tmp_path)
    assert list(layout.entries()) == ["wordcount"]
    assert len(layout.manifest["layers"]) == 1
    assert layout.config["config"]["User"] == "65534:65534"
    for runtime in ("runc", "crun"):
        assert peers.run_bundle(runtime, bundle).stdout == "5 words, 18 letters\n"
    assert pybuild.good("run", tag, "one", "two").out == "2 words, 6 letters\n"

    main = context / "main.c"
    main.write_text(main.read_text().replace("%zu letters", "%zu signs"))
    changed = pybuild.good(*words)
    ran = changed.ending("DONE")
    assert [name.split()[:2] for name in ran] == [
        ["COPY", "main.c"],
        ["RUN", "gcc"],
        ["COPY", "--from=build"],
    ]
    assert pybuild.good("run", tag).out == "5 words, 18 signs\n"


@UNPRIVILEGED
def test_python_web_service(pybuild, python_base, registry, tmp_path):
    """A web service gets its packages with pip and answers over HTTP, under us and under crun."""
    context = _project(pybuild, "python-web")
    tag = registry.name(f"web-{pybuild.uid}:1")
    words = _cold_and_cached(pybuild, context, tag, python_base)
    port = free_port()
    process = pybuild.start("run", "-e", f"PORT={port}", "-e", "HOST=127.0.0.1", tag)
    try:
        assert _get(port) == (200, '{"service": "notes", "count": 0}')
        assert _get(port, "/notes/a", "PUT", "text")[0] == 201
        assert json.loads(_get(port, "/notes/a")[1]) == {"name": "a", "text": "text"}
        assert _get(port, "/notes/b")[0] == 404
    finally:
        end(process)

    app = context / "notes" / "app.py"
    app.write_text(app.read_text().replace('"notes", "count"', '"notebook", "count"'))
    changed = pybuild.good("--push", *words)
    # What follows the copied source runs again; pip before it does not.
    assert [name.split()[0] for name in changed.ending("DONE")] == ["COPY", "RUN"]
    layout, bundle = _pull(tag, tmp_path)
    assert layout.config["config"]["ExposedPorts"] == {"8080/tcp": {}}
    assert layout.config["config"]["Healthcheck"]["Interval"] == 30_000_000_000
    for runtime in ("crun", "runc"):
        port = free_port()
        environ = ["/usr/bin/env", f"PORT={port}", "HOST=127.0.0.1"]
        started, name = peers.start_bundle(
            runtime, bundle, *environ, *layout.config["config"]["Cmd"]
        )
        try:
            assert _get(port) == (200, '{"service": "notebook", "count": 0}')
        finally:
            peers.stop_bundle(runtime, started, name)


@UNPRIVILEGED
def test_node_app_in_two_stages(pybuild, node_base, registry, tmp_path):
    """Npm ci runs in the first stage; the second has no development dependency and serves."""
    context = _project(pybuild, "node-app")
    tag = registry.name(f"node-{pybuild.uid}:1")
    words = _cold_and_cached(pybuild, context, tag, node_base)
    assert pybuild.good("run", tag, "node", "src/server.js", "--list").out == "/about\n/index\n"
    assert pybuild.good("run", tag, "ls", "node_modules").out.split() == [
        "@arr", "@polka", "matchit", "polka", "trouter",
    ]  # fmt: skip
    port = free_port()
    process = pybuild.start("run", "-e", f"PORT={port}", "-e", "HOST=127.0.0.1", tag)
    try:
        status, text = _get(port, "/index")
    finally:
        end(process)
    assert (status, text) == (
        200,
        "<h1>Welcome</h1>\n<p>This page was <em>built</em> in the first stage.</p>\n",
    )

    (context / "pages" / "new.md").write_text("# New\n")
    changed = pybuild.good("--push", *words)
    assert not [name for name in changed.ending("DONE") if "npm ci" in name]
    assert (
        len(changed.ending("DONE")) == 4
    )  # the pages, the build, what was taken from it, what follows
    layout, bundle = _pull(tag, tmp_path)
    assert layout.config["config"]["User"] == "nobody"
    for runtime in ("crun", "runc"):
        listed = peers.run_bundle(runtime, bundle, "/usr/bin/node", "src/server.js", "--list")
        assert listed.stdout == "/about\n/index\n/new\n"


def test_hello_project(pybuild, tmp_path):
    """The README's hello builds without a network and prints its line under crun."""
    context = pybuild.home / "hello"
    shutil.copytree(REPOSITORY / "testdata" / "hello", context)
    shutil.copy(shutil.which("busybox"), context / "busybox")
    pybuild.own(context)
    layout = pybuild.home / "layout"
    pybuild.good("-t", "hello", "-o", f"type=oci,dest={layout},tar=false", context)
    assert pybuild.good("run", "hello").out == "hello, world\n"
    Layout(layout).check()
    peers.unpack(layout, "latest", tmp_path / "bundle")
    assert peers.run_bundle("crun", tmp_path / "bundle").stdout == "hello, world\n"
