"""Cases whose results were recorded from the reference: base images, contexts, flattened results.

A case is a directory with a Dockerfile, in which @PLAIN@, @RICH@ and @BARE@ stand for base images,
a case.json that says what lies in the context, and an expected.json with what came out.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import socket
import tarfile
from pathlib import Path

from support import peers
from support.differential_bases import LONG_AGO, base_layer, make_tar

_RECENT = 1_700_000_000  # what is later was made by the build itself
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_LINE = re.compile(r"^(?:\S*/)?[\w.]*[Dd]ockerfile:(\d+)(?::|$)", re.MULTILINE)
_STEP = re.compile(
    r"^#(\d+) \[[^]]*\] ((?!FROM |load |preparing |setting cache mount ).*)$", re.MULTILINE
)
_END = re.compile(r"^#(\d+) (CACHED|DONE|ERROR|CANCELED)", re.MULTILINE)


def make_context(directory, files):
    """Make what a case says about its context; later calls change what is there."""
    for path, item in files.items():
        _make(directory / path, item if isinstance(item, dict) or item is None else {"text": item})
    for parent, below, names in os.walk(directory, topdown=False):
        links = [name for name in below if (Path(parent) / name).is_symlink()]
        for name in [*names, *links, "."]:
            at = Path(parent) / name
            if at.lstat().st_mtime > _RECENT:
                os.utime(at, (LONG_AGO, LONG_AGO), follow_symlinks=False)


def _make(target, item):
    if item is None or not (item.get("dir") and target.is_dir()):
        peers.run("rm", "-rf", "--one-file-system", target)
    if item is None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if "link" in item:
        target.symlink_to(item["link"])
    elif "hard" in item:
        target.hardlink_to(target.parent / item["hard"])
    elif item.get("dir"):
        target.mkdir(exist_ok=True)
    elif item.get("fifo"):
        os.mkfifo(target)
    elif item.get("socket"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(target))
    else:
        target.write_bytes(_content(item))
    _adorn(target, item)


def _adorn(target, item):
    if "link" in item or "hard" in item:
        return
    if "owner" in item and os.geteuid() == 0:
        os.chown(target, *item["owner"])
    target.chmod(int(item.get("mode", "755" if item.get("dir") else "644"), 8))
    if "mtime" in item:
        os.utime(target, (item["mtime"], item["mtime"]))
    for name, value in item.get("xattrs", {}).items():
        os.setxattr(target, name, value.encode())


def _content(item):
    if "tar" in item:
        rows = [
            (name, kind, int(mode, 8), uid, gid, text)
            for name, kind, mode, uid, gid, text in item["tar"]
        ]
        return make_tar(rows, f"w:{item.get('compression', '')}")
    return bytes.fromhex(item["hex"]) if "hex" in item else item["text"].encode()


def agent_socket(directory):
    """The path of a socket like that of an ssh agent, which nobody listens to."""
    path = directory / "agent"
    if not path.exists():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    return path


def builds(directory, names, dockerfile, case):
    """Each build of a case, in order: its context is changed, then its options are given."""
    directory.mkdir()
    rounds = [{"dockerfile": dockerfile, **case}, *case.get("then", [])]
    options = {}
    for number in rounds:
        options = number.get("options", options)
        text = number.get("dockerfile", "")
        if text:
            for placeholder, name in names.items():
                text = text.replace(placeholder, name)
            (directory / options.get("file", "Dockerfile")).write_text(text)
        make_context(directory, number.get("files", {}))
        yield options


def flatten(path):
    """An image of an OCI archive: its entries by path with all layers applied, and its config."""
    with tarfile.open(path) as outer:
        index = json.load(outer.extractfile("index.json"))
        manifest = _blob(outer, index["manifests"][0]["digest"])
        config = json.loads(_blob(outer, json.loads(manifest)["config"]["digest"]))
        layers = [one["digest"] for one in json.loads(manifest)["layers"] or []]
        ours = f"sha256:{hashlib.sha256(base_layer()).hexdigest()}"
        entries = dict(base_entries()) if (config["rootfs"]["diff_ids"] or [])[:1] == [ours] else {}
        for digest in layers[1 if entries else 0 :]:
            _apply(entries, io.BytesIO(_blob(outer, digest)))
    return entries, config, len(layers)


def _blob(archive, digest):
    algorithm, _, text = digest.partition(":")
    return archive.extractfile(f"blobs/{algorithm}/{text}").read()


def _apply(entries, stream):
    with tarfile.open(fileobj=stream) as layer:
        members = layer.getmembers()
        for member in members:
            parent, _, name = member.name.strip("/").rpartition("/")
            if name == _OPAQUE:
                _drop(entries, parent, keep=True)
            elif name.startswith(_WHITEOUT):
                _drop(entries, f"{parent}/{name.removeprefix(_WHITEOUT)}".strip("/"), keep=False)
        for member in members:
            name = member.name.strip("/")
            if name.rpartition("/")[2].startswith(_WHITEOUT):
                continue
            if not member.isdir() or entries.get(name, {}).get("type") != "dir":
                _drop(entries, name, keep=False)
            entries[name or "."] = _entry(layer, member, entries)


def _drop(entries, name, *, keep):
    for path in [
        path for path in entries if path.startswith(f"{name}/") or (path == name and not keep)
    ]:
        del entries[path]


def _entry(layer, member, entries):
    if member.islnk():
        return entries[member.linkname.strip("/")] | {"links": True}
    kinds = {tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "link", tarfile.FIFOTYPE: "fifo"}
    kinds |= {tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block"}
    found = {
        "type": kinds.get(member.type, "file"),
        "mode": f"{member.mode & 0o7777:o}",
        "owner": f"{member.uid}:{member.gid}",
        "mtime": "now" if member.mtime > _RECENT else int(member.mtime),
    }
    if member.issym():
        found["to"] = member.linkname
    if member.isreg():
        data = layer.extractfile(member).read()
        found["content"] = _shown(data)
    if member.isdev():
        found["device"] = f"{member.devmajor}:{member.devminor}"
    prefix = "SCHILY.xattr."
    xattrs = {
        k.removeprefix(prefix): v for k, v in member.pax_headers.items() if k.startswith(prefix)
    }
    return found | ({"xattrs": xattrs} if xattrs else {})


def _shown(data):
    with contextlib.suppress(UnicodeDecodeError):
        if len(data) < 300:
            return data.decode()
    return f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}"


def observed(path):
    """What a case compares of an image: what its tree adds to the base's, and its config."""
    entries, config, layers = flatten(path)
    base = base_entries() if _is_base(entries) else {}
    removed = sorted(set(base) - set(entries))
    entries = {path: found for path, found in entries.items() if not _same(base.get(path), found)}
    entries.pop(".", None)
    for name, entry in entries.items():
        if name.endswith("ockerfile"):
            entry.pop("content", None)  # it names a registry
    return {
        "entries": {path: _told(entries[path]) for path in sorted(entries)},
        "removed": removed,
        "layers": layers,
        "config": _comparable(config),
    }


@functools.cache
def base_entries():
    """The tree of the base images."""
    base = {}
    _apply(base, io.BytesIO(base_layer()))
    return base


def _is_base(entries):
    return entries.get("bin/busybox") == base_entries()["bin/busybox"]


def _same(base, found):
    # When something was last made or removed in a directory is not part of a result.
    if base and base["type"] == found["type"] == "dir":
        return {**base, "mtime": 0} == {**found, "mtime": 0}
    return base == found


def differences(expected, found, path=""):
    """Where two results differ, as paths into them; times of directories and lines where told."""
    if isinstance(expected, dict) and isinstance(found, dict):
        names = sorted(set(expected) | set(found))
        if expected.get("type") == "dir" == found.get("type") and "mtime" not in expected:
            names = [name for name in names if name != "mtime"]
        if expected.get("failed") and found.get("failed") and "line" not in expected:
            names = [name for name in names if name != "line"]
        for name in names:
            yield from differences(expected.get(name), found.get(name), f"{path}/{name}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, pair in enumerate(zip(expected, found, strict=True)):
            yield from differences(*pair, f"{path}/{number}")
    elif expected != found:
        yield path


def _told(entry):
    if entry["type"] == "dir" and entry.get("mtime") == "now":
        return {key: value for key, value in entry.items() if key != "mtime"}
    return entry


def _comparable(config):
    config = {key: value for key, value in config.items() if key != "created"}
    config["rootfs"] = config["rootfs"]["type"]
    inner = dict(config["config"])
    if inner.get("WorkingDir") == "/":  # the same as none
        del inner["WorkingDir"]
    config["config"] = inner
    config["history"] = [
        {key: value for key, value in line.items() if key != "created"}
        for line in config.get("history") or []
    ]
    return config


def failure_line(text):
    """The line of the Dockerfile a failed build points at, first if there are several."""
    found = _LINE.findall(text)
    return int(found[0]) if found else None


def step_ends(text):
    """How each step of plain progress ended; what builders do for themselves is left out."""
    names = dict(_STEP.findall(text))
    return {names[number]: end for number, end in _END.findall(text) if number in names}


def result(code, text, output, names, *, steps):
    """What is compared of one build."""
    line = failure_line(text)
    failed = {"failed": True} if line is None else {"failed": True, "line": line}
    found = failed if code else observed(output)
    shown = json.dumps(found)
    for placeholder, name in names.items():
        shown = shown.replace(name, placeholder)
    found = json.loads(shown)
    return found | ({"steps": step_ends(text)} if steps else {})
