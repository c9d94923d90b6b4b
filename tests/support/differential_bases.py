"""The base images of the differential cases: busybox by hand, with odd modes, owners and links."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tarfile
from pathlib import Path

from support import peers

LONG_AGO = 1_500_000_000  # the mtime of all in base images

_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
bob:x:1000:1001:Bob:/home/bob:/bin/sh
eve:x:1005:1005::/:/bin/sh
"""
_GROUP = "root:x:0:root\nwheel:x:10:root,bob\nbob:x:1001:\nextra:x:20:bob,eve\neve:x:1005:\n"
# Each has a path, a kind, a mode, an owner, and a content or target.
_TREE = [
    ("bin", "d", 0o755, 0, 0, ""),
    ("etc", "d", 0o755, 0, 0, ""),
    ("etc/passwd", "f", 0o644, 0, 0, _PASSWD),
    ("etc/group", "f", 0o644, 0, 0, _GROUP),
    ("root", "d", 0o700, 0, 0, ""),
    ("tmp", "d", 0o1777, 0, 0, ""),
    ("proc", "d", 0o755, 0, 0, ""),
    ("sys", "d", 0o755, 0, 0, ""),
    ("dev", "d", 0o755, 0, 0, ""),
    ("usr", "d", 0o755, 0, 0, ""),
    ("usr/bin", "d", 0o755, 0, 0, ""),
    ("usr/bin/env", "l", 0o777, 0, 0, "../../bin/busybox"),
    ("usr/lib", "d", 0o755, 0, 0, ""),
    ("lib", "l", 0o777, 0, 0, "usr/lib"),
    ("home", "d", 0o755, 0, 0, ""),
    ("home/bob", "d", 0o750, 1000, 1001, ""),
    ("data", "d", 0o700, 7, 8, ""),
    ("data/a", "f", 0o600, 7, 8, "a of base\n"),
    ("data/l", "l", 0o777, 7, 8, "a"),
    ("data/sub", "d", 0o2750, 9, 9, ""),
    ("data/sub/b", "f", 0o4755, 9, 9, "b of base\n"),
    ("data/sub/c", "h", 0o4755, 9, 9, "data/sub/b"),
    ("lnk", "l", 0o777, 0, 0, "/etc"),
    ("abs", "l", 0o777, 0, 0, "/data"),
    ("rel", "l", 0o777, 0, 0, "data"),
    ("up", "l", 0o777, 0, 0, "../../../data/sub"),
    ("loop", "l", 0o777, 0, 0, "loop"),
    ("dangling", "l", 0o777, 0, 0, "/nowhere/x"),
    ("file", "f", 0o640, 3, 4, "file of base\n"),
]
_HISTORY = [{"created": "2017-07-14T02:40:00Z", "created_by": "base", "comment": "by hand"}]
_CONFIGS = {
    "plain": {
        "Env": ["PATH=/bin:/usr/bin", "BASEVAR=base value"],
        "Cmd": ["/bin/sh"],
        "Labels": {"base": "one"},
    },
    "rich": {
        "Env": ["PATH=/bin", "Z=z", "A=a"],
        "User": "bob",
        "WorkingDir": "/home/bob",
        "Entrypoint": ["/bin/env"],
        "Cmd": ["x"],
        "Shell": ["/bin/sh", "-ec"],
        "ExposedPorts": {"9/tcp": {}},
        "Volumes": {"/vol": {}},
        "StopSignal": "SIGUSR1",
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5000000000},
        "OnBuild": ["ENV TRIGGERED=yes", "RUN echo $TRIGGERED > /tmp/triggered"],
        "Labels": {"base": "two"},
    },
    "bare": {},
}


def _member(name, kind, mode, ids, content):
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = mode, LONG_AGO
    info.uid, info.gid = ids
    kinds = {"d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE, "f": tarfile.REGTYPE}
    info.type = {**kinds, "p": tarfile.FIFOTYPE}[kind]
    data = content.encode() if kind == "f" else b""
    if kind in "lh":
        info.linkname = content
    info.size = len(data)
    return info, io.BytesIO(data)


def make_tar(rows, mode="w"):
    """A tar of rows like those of the base tree."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.PAX_FORMAT) as archive:
        for name, kind, bits, uid, gid, content in rows:
            archive.addfile(*_member(name, kind, bits, (uid, gid), content))
    return buffer.getvalue()


@functools.cache
def base_layer():
    """The one layer of each base image."""
    program = Path("/bin/busybox")
    names = peers.run(program, "--list").stdout.split()
    links = [(f"bin/{name}", "l", 0o777, 0, 0, "busybox") for name in names if name != "busybox"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for row in [*_TREE, *links]:
            name, kind, bits, uid, gid, content = row
            archive.addfile(*_member(name, kind, bits, (uid, gid), content))
        info = tarfile.TarInfo("bin/busybox")
        info.mode, info.mtime, info.size = 0o755, LONG_AGO, program.stat().st_size
        with program.open("rb") as content:
            archive.addfile(info, content)
    return buffer.getvalue()


def push_bases(directory, host):
    """Push the base images to a registry; gives what stands for each name in Dockerfiles."""
    layer = base_layer()
    names = {}
    for name, config in _CONFIGS.items():
        layout = directory / name
        _write_layout(layout, layer, config)
        names[f"@{name.upper()}@"] = f"{host}/differential:{name}"
        peers.copy(f"oci:{layout}:x", f"docker://{host}/differential:{name}")
    return names


def _write_layout(layout, layer, config):
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data, kind):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        kind = f"application/vnd.oci.image.{kind}"
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    described = put(layer, "layer.v1.tar")
    image = {
        "architecture": "amd64",
        "os": "linux",
        "author": "somebody",
        "created": "2017-07-14T02:40:00Z",
        "config": config,
        "history": _HISTORY,
        "rootfs": {"type": "layers", "diff_ids": [described["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(image).encode(), "config.v1+json"),
        "layers": [described],
    }
    top = put(json.dumps(manifest).encode(), "manifest.v1+json")
    top["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
