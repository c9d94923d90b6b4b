"""Builds and a real registry: credentials, helpers, plain http, and skopeo's view of a push."""

from __future__ import annotations

import base64
import json

import pytest
from support import peers
from support.layout_files import Layout
from support.registry_process import registry as serve_registry

USER, PASSWORD = "ann", "pass:word with blanks"


@pytest.fixture(scope="module")
def locked_registry(workspace):
    """A registry that wants a name and a password."""
    with serve_registry(workspace / "locked", users={USER: PASSWORD}) as running:
        yield running


def _docker_config(pybuild, document):
    directory = pybuild.home / "docker"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(document))
    pybuild.own(directory)
    return pybuild.with_environ(DOCKER_CONFIG=str(directory))


def test_push_with_credentials_of_a_file(pybuild, busybox, locked_registry, tmp_path):
    """config.json's auth pushes and pulls; without it the registry's refusal is told."""
    name = locked_registry.name(f"file-{pybuild.uid}:1")
    context = pybuild.context("push", f"FROM {busybox}\nRUN echo x > /x\n")
    refused = pybuild.run("-t", name, "--push", context)
    assert refused.code == 1
    assert locked_registry.host in refused.err
    assert PASSWORD not in refused.err
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    known = _docker_config(pybuild, {"auths": {locked_registry.host: {"auth": auth}}})
    done = known.good("-t", name, "--push", context)
    assert f"  pushed   {name}@sha256:" in done.err
    peers.copy(f"docker://{name}", f"oci:{tmp_path / 'copy'}:it", f"--src-creds={USER}:{PASSWORD}")
    Layout(tmp_path / "copy").check()
    child = pybuild.context("child", f"FROM {name}\nRUN cat /x\n")
    known.with_state("other").good(child)
    assert pybuild.with_state("stranger").run(child).code == 1


def test_push_with_a_credential_helper(pybuild, busybox, locked_registry):
    """A helper program that config.json names gives the credentials, on standard output only."""
    directory = pybuild.home / "bin"
    directory.mkdir()
    helper = directory / "docker-credential-tests"
    answer = json.dumps({"ServerURL": locked_registry.host, "Username": USER, "Secret": PASSWORD})
    helper.write_text(
        f'#!/bin/sh\n[ "$1" = get ] || exit 1\nread -r host\n[ "$host" = {locked_registry.host} ] || exit 1\n'
        f"cat <<'EOF'\n{answer}\nEOF\n"
    )
    helper.chmod(0o755)
    pybuild.own(directory)
    known = _docker_config(pybuild, {"credHelpers": {locked_registry.host: "tests"}})
    path = f"{directory}:{pybuild.environ()['PATH']}"
    name = locked_registry.name(f"helper-{pybuild.uid}:1")
    context = pybuild.context("push", f"FROM {busybox}\n")
    known.good("-t", name, "--push", context, env={"PATH": path})
    assert peers.inspect(f"docker://{name}", f"--creds={USER}:{PASSWORD}")["Os"] == "linux"


def test_login_and_logout(pybuild, busybox, locked_registry):
    """`login` keeps what `push` needs in a file only its owner reads; `logout` drops it."""
    directory = pybuild.home / "docker"
    known = pybuild.with_environ(DOCKER_CONFIG=str(directory))
    host = locked_registry.host
    wrong = known.run("login", "-u", USER, "--password-stdin", host, stdin=b"wrong")
    assert wrong.code == 1
    known.good("login", "-u", USER, "--password-stdin", host, stdin=PASSWORD.encode())
    assert (directory / "config.json").stat().st_mode & 0o077 == 0
    name = locked_registry.name(f"login-{pybuild.uid}:1")
    context = pybuild.context("push", f"FROM {busybox}\n")
    known.good("-t", name, "--push", context)
    known.good("logout", host)
    assert host not in (directory / "config.json").read_text()
    assert known.run("push", name, locked_registry.name("again:1")).code == 1


def test_plain_http_for_loopback_only(pybuild, busybox, workspace):
    """Another address than loopback gets https unless --insecure-registry names it."""
    address = peers.run("hostname", "-I").stdout.split()[0]
    with serve_registry(workspace / f"outside-{pybuild.uid}", address=address) as running:
        name = running.name("plain:1")
        context = pybuild.context("push", f"FROM {busybox}\n")
        refused = pybuild.run("-t", name, "--push", context)
        assert refused.code == 1
        assert running.host in refused.err
        pybuild.good("-t", name, "--push", "--insecure-registry", running.host, context)
        assert peers.inspect(f"docker://{name}")["Os"] == "linux"


def test_pull_push_and_inspect(pybuild, busybox, registry, tmp_path):
    """A pulled image pushed under another name is the same manifest byte for byte."""
    pybuild.good("pull", busybox)
    name = registry.name(f"again-{pybuild.uid}:2")
    pushed = pybuild.good("push", busybox, name)
    digest = peers.inspect(f"docker://{busybox}")["Digest"]
    assert pushed.out.strip().endswith(digest)
    assert peers.inspect(f"docker://{name}")["Digest"] == digest
    peers.copy(f"docker://{name}", f"oci:{tmp_path / 'copy'}:it")
    Layout(tmp_path / "copy").check()
    assert busybox.rpartition(":")[0] in pybuild.good("images").out
    pybuild.good("rmi", busybox)
    assert busybox.rpartition(":")[0] not in pybuild.good("images").out


def test_image_of_skopeo_is_a_base(pybuild, busybox, registry, tmp_path):
    """A docker schema 2 image that skopeo pushed is built on and keeps its layers."""
    name = registry.name(f"schema2-{pybuild.uid}:1")
    peers.copy(f"docker://{busybox}", f"docker://{name}", "--format", "v2s2")
    layout = pybuild.home / "layout"
    context = pybuild.context("child", f"FROM {name}\nRUN echo x > /x\n")
    pybuild.good("-o", f"type=oci,dest={layout},tar=false,name=x:it", context)
    made = Layout(layout).check()
    base = peers.inspect(f"docker://{name}")["Layers"]
    assert [layer["digest"] for layer in made.manifest["layers"]][: len(base)] == base


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_layers_of_a_base_built_here_are_compressed(pybuild, busybox, registry, kind):
    """A child of an image of the local store is pushed with the base's new layers compressed."""
    pybuild.good(
        "-t", "base.test/base:1", pybuild.context("base", f"FROM {busybox}\nRUN echo x > /x\n")
    )
    name = registry.name(f"child-{pybuild.uid}-{kind}:1")
    output = f"type=registry,name={name},compression={kind}"
    context = pybuild.context("child", "FROM base.test/base:1\nRUN echo y > /y\n")
    pybuild.good("-o", output, context)
    layers = peers.inspect(f"docker://{name}", raw=True)["layers"]
    base = peers.inspect(f"docker://{busybox}", raw=True)["layers"]
    assert layers[: len(base)] == base
    types = [layer["mediaType"].rpartition("+")[2] for layer in layers[len(base) :]]
    assert types == [kind, kind]


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_large_layers_are_pushed_whole(pybuild, busybox, registry, tmp_path, kind):
    """R31: a layer that is sent while it is made is the layer; a build that fails has no image."""
    name = registry.name(f"large-{pybuild.uid}-{kind}:1")
    large = "RUN dd if=/dev/urandom of=/large bs=1M count=24\n"
    output = f"type=registry,name={name},compression={kind}"
    failing = pybuild.context("failing", f"FROM {busybox}\n{large}RUN false\n")
    assert pybuild.run("-o", output, failing).code == 1
    with pytest.raises(AssertionError):
        peers.inspect(f"docker://{name}")
    pybuild.good("-o", output, pybuild.context("large", f"FROM {busybox}\n{large}"))
    peers.copy(f"docker://{name}", f"oci:{tmp_path / 'copy'}:it")
    made = Layout(tmp_path / "copy").check()
    assert made.manifest["layers"][-1]["size"] > 24 << 20
