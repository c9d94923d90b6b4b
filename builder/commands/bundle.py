"""`pybuild bundle`: an image as an OCI runtime bundle, which runc and crun start."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from builder import state as states
from builder.arguments import parser
from builder.base_images import BaseImages
from builder.commands.run import program_of
from builder.errors import HostUnsupportedError, UsageError
from builder.options import parse_platform
from builder.remote import Network
from builder.request import parse_pairs
from builder.sandbox import credentials, host, system, targets
from builder.sandbox.oci_config import Confinement, HostBind, config
from builder.solver.trees import Trees
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.sandbox.host import Extent
    from cache.spec.manifest import Image

_MAX_ACCOUNT_FILE = 10 * 1024 * 1024  # of /etc/passwd and /etc/group (E11)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GIVING = 1 << 0 | 1 << 1 | 1 << 3  # CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER
_SHM_SIZE = 64 << 20
_NAMES = "/etc/resolv.conf"
_ANNOTATION = "org.opencontainers.image"


@value
class Owners:
    """Whose the files are: real ids where `uids` is empty, else by the maps of a namespace."""

    uids: tuple[Extent, ...] = ()
    gids: tuple[Extent, ...] = ()
    kept: bool = True


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Write the bundle; the directory is made, or must be empty."""
    chosen = _parse(argv)
    network = Network(environ, tuple(chosen.insecure_registry))
    with states.opened(states.locate(environ, chosen.root), network) as state:
        network.origin = state.layers.origin
        platform = parse_platform(chosen.platform, environ)
        images = BaseImages(state, network, pull=False, platform=platform, notice=_notice)
        image = images.resolve(chosen.image, platform)
        argv = program_of(image.config, chosen)
        _make(chosen.directory)
        owners = _owners()
        rootfs = os.open(f"{chosen.directory}/rootfs", _DIRECTORY)
        try:
            from builder.snapshot.materialize import materialize  # noqa: PLC0415 - only here

            tree = Trees({}, state.layers).merged(image.layers)
            materialize(rootfs, tree, image.layers, state.layers, keep_owner=owners.kept)
            document = _document(image, chosen, rootfs, owners)
        finally:
            os.close(rootfs)
        path = f"{chosen.directory}/config.json"
        with open(path, "x", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(document, file, indent=2, ensure_ascii=False)
            file.write("\n")
    _explain(chosen.directory, owners)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    options = parser("bundle")
    options.add_argument("-e", "--env", action="append", default=[])
    options.add_argument("-w", "--workdir", default="")
    options.add_argument("-u", "--user", default="")
    options.add_argument("-t", "--tty", action="store_true")
    options.add_argument("--entrypoint", default=None)
    options.add_argument("--platform", default="")
    options.add_argument("--insecure-registry", action="append", default=[])
    options.add_argument("image")
    options.add_argument("directory")
    # not required, as argparse would say otherwise
    options.add_argument("command", nargs=argparse.REMAINDER).required = False
    return options.parse_args(list(argv))


def _make(directory: str) -> None:
    os.makedirs(directory, exist_ok=True)
    if os.listdir(directory):
        raise UsageError(f"{directory} is not empty", hint="name a directory that is not there yet")
    os.mkdir(f"{directory}/rootfs", 0o755)


def _owners() -> Owners:
    """Enter where the owners of an image can be given, unless we are root and they can be here."""
    facts = host.probe()
    has_ids = len(facts.uid_map) == 1 and facts.uid_map[0].count >= host.NEEDED_IDS
    if facts.uid == 0 and has_ids and facts.capabilities & _GIVING == _GIVING:
        return Owners()
    try:
        mapping = host.choose(facts)
        from builder.sandbox.namespace import enter_namespace  # noqa: PLC0415 - not for root

        enter_namespace()
    except HostUnsupportedError as error:
        _notice(f"warning: every file is made yours, for {error.message}")
        mine = (host.Extent(0, facts.uid, 1),)
        return Owners(mine, (host.Extent(0, facts.gid, 1),), kept=False)
    return Owners(mapping.uids, mapping.gids)


def _document(
    image: Image, chosen: argparse.Namespace, rootfs: int, owners: Owners
) -> dict[str, Any]:
    """The image's config as that of a runtime, by the rules of the image specification."""
    wanted = image.config
    root = targets.Root(rootfs)
    owner = credentials.resolve(
        chosen.user or wanted.user,
        targets.read_file(root, "etc/passwd", _MAX_ACCOUNT_FILE),
        targets.read_file(root, "etc/group", _MAX_ACCOUNT_FILE),
    )
    if owner.groups[1:] and owners.uids:
        _notice("warning: supplementary groups are left out, which only root can give")
    env = {**dict(wanted.env), **dict(parse_pairs("--env", chosen.env, dict(os.environ)))}
    env.setdefault("HOME", owner.home)
    binds = [
        HostBind(path, path, readonly=True, noexec=system.is_noexec(path))
        for path in ("/sys", _NAMES)
        if os.path.exists(path)
    ]
    kept = Confinement(
        hostname=image.config_blob.digest.hex[:12],
        machine=os.uname().machine,
        shm_size=_SHM_SIZE,
        mounts_sys=False,
        binds=tuple(binds),
        uids=owners.uids,
        gids=owners.gids,
    )
    cwd = chosen.workdir or wanted.working_dir or "/"
    document = config("rootfs", program_of(wanted, chosen), tuple(env.items()), cwd, owner, kept)
    document["process"]["terminal"] = chosen.tty
    document["annotations"] = _annotations(image)
    return document


def _annotations(image: Image) -> dict[str, str]:
    wanted = image.config
    found = {
        f"{_ANNOTATION}.os": wanted.platform.os,
        f"{_ANNOTATION}.architecture": wanted.platform.architecture,
        f"{_ANNOTATION}.variant": wanted.platform.variant,
        f"{_ANNOTATION}.author": wanted.author,
        f"{_ANNOTATION}.created": wanted.created,
        f"{_ANNOTATION}.stopSignal": wanted.stop_signal,
        f"{_ANNOTATION}.exposedPorts": ",".join(wanted.exposed_ports),
    }
    return {name: text for name, text in found.items() if text} | dict(wanted.labels)


def _explain(directory: str, owners: Owners) -> None:
    sys.stdout.write(f"{os.path.abspath(directory)}\n")
    if owners.uids and owners.kept:
        _notice(f"some files belong to ids of /etc/subuid: unshare --map-auto -r rm -r {directory}")


def _notice(text: str) -> None:
    sys.stderr.write(f"{text}\n")
