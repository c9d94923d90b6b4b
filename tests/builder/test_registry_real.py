"""Against the real docker-registry, read by a real peer; skipped where they are not installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support.remote_images import AMD64, MemoryContent, small_image

from builder.errors import RegistryError
from builder.registry.client import RegistryClient
from builder.registry.settings import RegistryConfig
from cache.spec import oci
from cache.spec.digest import Digest
from cache.spec.manifest import Index
from cache.spec.oci import Descriptor
from cache.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = shutil.which("docker-registry")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="docker-registry is not installed")


@contextmanager
def running(folder: Path, *, users: bool) -> Iterator[str]:
    """The real registry on a free loopback port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    document: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": host},
    }
    if users:
        path = folder / "users"
        subprocess.run(
            ["htpasswd", "-Bbc", str(path), "ann", "s3cret"], check=True, capture_output=True
        )
        document["auth"] = {"htpasswd": {"realm": "real", "path": str(path)}}
    (folder / "config.yml").write_text(json.dumps(document))  # JSON is YAML
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(PROGRAM), "serve", str(folder / "config.yml")], stdout=log, stderr=log
        )
    try:
        _wait_for(host)
        yield host
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _wait_for(host: str) -> None:
    name, _, port = host.partition(":")
    for _ in range(100):
        try:
            socket.create_connection((name, int(port)), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("docker-registry did not start")


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Iterator[str]:
    """A registry open to all."""
    with running(tmp_path_factory.mktemp("registry"), users=False) as name:
        yield name


def peer(*arguments: str) -> str:
    """Run skopeo."""
    program = shutil.which("skopeo")
    if program is None:
        pytest.skip("skopeo is not installed")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def push(client: RegistryClient, reference: Reference, layers: tuple[bytes, ...]) -> Descriptor:
    """Push a small image."""
    image = small_image(layers)
    return client.push_image(
        reference, image.manifest, oci.OCI_MANIFEST, image.blobs, image.content
    )


def test_what_we_push_a_peer_reads(host, tmp_path):
    """An image of several layers, one empty and one large, is read and copied by skopeo."""
    reference = Reference.parse(f"{host}/team/app:v1")
    with RegistryClient(RegistryConfig()) as client:
        pushed = push(client, reference, (b"one", b"", os.urandom(5_000_000)))
    shown = json.loads(peer("inspect", "--tls-verify=false", f"docker://{reference}"))
    assert shown["Digest"] == str(pushed.digest)
    assert len(shown["Layers"]) == 3
    peer("copy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{tmp_path}/out:v1")


def test_what_a_peer_pushes_we_read(host, tmp_path):
    """An image skopeo converted to docker's types is resolved and its layers are read."""
    source = Reference.parse(f"{host}/team/src:v1")
    copy = Reference.parse(f"{host}/team/copy:v2")
    with RegistryClient(RegistryConfig()) as client:
        push(client, source, (b"",))
        both = ("--src-tls-verify=false", "--dest-tls-verify=false", "--format", "v2s2")
        peer("copy", *both, f"docker://{source}", f"docker://{copy}")
        found = client.resolve(copy, AMD64)
        assert found.image.manifest.media_type == oci.DOCKER_MANIFEST
        layer = found.image.layers[0]
        with client.fetch_blob(copy, layer.blob) as stream:
            assert Digest.of(stream.read()) == layer.blob.digest


def test_mounts_indexes_and_chunks_work(host):
    """A blob is mounted between repositories; an index is pushed and resolved; chunks add up."""
    data = os.urandom(3_000_000)
    with RegistryClient(RegistryConfig(chunk=1_000_000)) as client:
        first = Reference.parse(f"{host}/team/first:v1")
        pushed = push(client, first, (data,))
        other = Reference.parse(f"{host}/team/other:v1")
        image = small_image((data,))
        content = MemoryContent({image.blobs[0].digest: image.content.blobs[image.blobs[0].digest]})
        client.push_image(
            other,
            image.manifest,
            oci.OCI_MANIFEST,
            image.blobs,
            content,  # has no layer: it must be mounted
            {image.blobs[1].digest: first},
        )
        entry = Descriptor(oci.OCI_MANIFEST, pushed.digest, pushed.size, platform=AMD64)
        pusher = client.pusher(first, image.content)
        top = pusher.manifest(Index((entry,)).to_json(), oci.OCI_INDEX, "all")
        found = client.resolve(Reference.parse(f"{host}/team/first:all"), AMD64)
        assert (found.reference.digest, found.image.manifest.digest) == (top.digest, pushed.digest)
        assert client.digest(first).digest == pushed.digest


def test_a_missing_blob_is_refused_by_name(host):
    """A manifest whose blobs are not there gives the registry's codes."""
    with RegistryClient(RegistryConfig(attempts=1)) as client:
        pusher = client.pusher(Reference.parse(f"{host}/team/none:v1"), MemoryContent())
        with pytest.raises(RegistryError) as caught:
            pusher.manifest(small_image().manifest, oci.OCI_MANIFEST, "v1")
    assert caught.value.status in {400, 404}


def test_passwords(tmp_path):
    """Login against htpasswd: wrong ones are refused, right ones kept, used, and read by skopeo."""
    if shutil.which("htpasswd") is None:
        pytest.skip("htpasswd is not installed")
    config = RegistryConfig(config_dir=str(tmp_path / "docker"))
    with running(tmp_path, users=True) as host:
        reference = Reference.parse(f"{host}/team/app:v1")
        with RegistryClient(config) as client:
            with pytest.raises(RegistryError) as caught:
                client.check_push(reference)
            assert caught.value.status == 401
            assert f"pybuild login {host}" in (caught.value.hint or "")
            with pytest.raises(RegistryError):
                client.login(host, "ann", "wrong")
            client.login(host, "ann", "s3cret")
        with RegistryClient(config) as client:
            client.check_push(reference)
            pushed = push(client, reference, (b"one", b"two"))
            assert client.resolve(reference, AMD64).image.manifest == pushed
        file = f"--authfile={tmp_path}/docker/config.json"
        shown = json.loads(peer("inspect", file, "--tls-verify=false", f"docker://{reference}"))
        assert shown["Digest"] == str(pushed.digest)
