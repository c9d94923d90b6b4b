"""The command line of `pybuild build` and of the other sub-commands: argparse to values."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from builder.errors import UsageError
from builder.request import BuildRequest, parse_epoch, parse_hosts, parse_pairs, parse_secret
from cache.errors import PybuildError
from cache.spec.oci import Platform
from cache.spec.reference import Reference
from frontend.graph import Network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HELP = """\
pybuild turns a Dockerfile into an OCI image: no daemon, no root.

Usage
  pybuild [build] [OPTIONS] CONTEXT      build the Dockerfile of a directory
  pybuild run [OPTIONS] IMAGE [CMD...]   start an image in the same sandbox
  pybuild push IMAGE [AS]                send an image to its registry
  pybuild pull IMAGE                     fetch an image into the local store
  pybuild images | inspect | rmi         look at and remove local images
  pybuild login | logout [REGISTRY]      keep or drop a registry's credentials
  pybuild prune [--all]                  free what the cache no longer needs
  pybuild version                        print the version

Build
  -f, --file FILE            Dockerfile (default CONTEXT/Dockerfile; - is standard input)
  -t, --tag NAME             name the image; repeat for more names
      --target STAGE         stop at this stage
      --build-arg K[=V]      set an ARG; without =V taken from the environment
      --label K=V            add a label
      --platform P           build for this platform, such as linux/arm64
      --secret id=ID[,src=PATH | ,env=NAME]
                             give RUN --mount=type=secret,id=ID its value
      --network MODE         network of RUN: default, none or host
      --add-host NAME:IP     add a line to /etc/hosts of RUN

Output
  -o, --output SPEC          type=oci|docker|local|tar|registry[,dest=PATH][,compression=gzip|zstd|
                             uncompressed]; a bare PATH is type=local; repeat for more
      --push                 push every name given with -t
      --iidfile FILE         write the image ID there
      --metadata-file FILE   write digest, config and names there as JSON

Cache
      --no-cache             run every step again
      --pull                 ask the registry for newer base images
      --explain              say of each step why it hit or missed the cache

Show
      --progress MODE        auto, plain, tty, rawjson or quiet
  -q, --quiet                print the image ID only
      --call graph           print the build graph and build nothing
      --insecure-registry H  speak plain http or unverified https to this host

State lives in $PYBUILD_ROOT, else $XDG_DATA_HOME/pybuild, else ~/.local/share/pybuild.
Exit status: 0 done, 1 the build failed, 2 Dockerfile or usage, 3 this host cannot.
A context named like a sub-command is written ./push.
"""

_LATER = {
    "--ssh": "use a secret mount for keys",
    "--cache-from": "the cache is local",
    "--cache-to": "the cache is local",
    "--build-context": "copy the directory into the context",
    "--no-cache-filter": "use --no-cache",
    "--allow": "network.host is granted by --network host",
    "--attest": "attestations are not written",
    "--provenance": "attestations are not written",
    "--sbom": "attestations are not written",
    "--annotation": "use --label",
    "--builder": "there is no builder instance to choose",
    "--cgroup-parent": "leave it out",
    "--ulimit": "set limits in the calling shell",
    "--shm-size": "the default is 64 MiB",
    "--check": "use --call graph to see what a Dockerfile means",
}


class _Parser(argparse.ArgumentParser):
    """An argparse parser that raises instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError with argparse's text."""
        raise UsageError(message, hint="see `pybuild --help`")


def parser(command: str) -> argparse.ArgumentParser:
    """Make a strict parser: no abbreviations, no own help or exit."""
    return _Parser(
        prog=f"pybuild {command}",
        add_help=False,
        allow_abbrev=False,
        # argparse makes a formatter for each option; asking the terminal each time is slow
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=80),
    )


def parse_build(argv: Sequence[str], environ: Mapping[str, str]) -> BuildRequest:
    """Parse the words after `pybuild build`.

    Raises:
        UsageError: anything that docker buildx would refuse too, or that is not built yet.
    """
    for word in argv:
        if word == "--":
            break
        flag = word.partition("=")[0]
        if flag in _LATER:
            msg = f"{flag} is not supported yet"
            raise UsageError(msg, hint=_LATER[flag])
    options = _build_parser().parse_args(list(argv))
    if options.context is None:
        msg = "no build context given"
        raise UsageError(msg, hint="name a directory: pybuild -t NAME .")
    if options.quiet and options.progress not in {None, "quiet"}:
        msg = f"--quiet and --progress={options.progress} exclude each other"
        raise UsageError(msg)
    return _request(options, dict(environ))


def _build_parser() -> argparse.ArgumentParser:
    build = parser("build")
    for names, kind in (
        (("-f", "--file"), "one"),
        (("-t", "--tag"), "many"),
        (("--build-arg",), "many"),
        (("--label",), "many"),
        (("--secret",), "many"),
        (("--add-host",), "many"),
        (("-o", "--output"), "many"),
        (("--insecure-registry",), "many"),
        (("--target",), "one"),
        (("--platform",), "one"),
        (("--iidfile",), "one"),
        (("--metadata-file",), "one"),
        (("--no-cache",), "flag"),
        (("--pull",), "flag"),
        (("--push",), "flag"),
        (("--explain",), "flag"),
        (("-q", "--quiet"), "flag"),
    ):
        if kind == "many":
            build.add_argument(*names, action="append", default=[])
        elif kind == "flag":
            build.add_argument(*names, action="store_true")
        else:
            build.add_argument(*names, default="")
    build.add_argument("--network", choices=[mode.value for mode in Network], default="default")
    build.add_argument("--call", choices=["build", "graph"], default="build")
    modes = ["auto", "plain", "tty", "rawjson", "quiet"]
    build.add_argument("--progress", choices=modes, default=None)
    build.add_argument("context", nargs="?")
    return build


def _request(options: argparse.Namespace, environ: dict[str, str]) -> BuildRequest:
    build_args = parse_pairs("--build-arg", options.build_arg, environ)
    epoch = dict(build_args).get("SOURCE_DATE_EPOCH", environ.get("SOURCE_DATE_EPOCH"))
    progress = "quiet" if options.quiet else options.progress
    return BuildRequest(
        context=options.context,
        dockerfile=options.file,
        tags=tuple(parse_tag(text) for text in options.tag),
        build_args=build_args,
        labels=parse_pairs("--label", options.label),
        target=options.target,
        platform=parse_platform(options.platform, environ),
        network=Network(options.network),
        secrets=tuple(parse_secret(text) for text in options.secret),
        extra_hosts=parse_hosts(options.add_host) if options.add_host else (),
        outputs=tuple(options.output),
        push=options.push,
        pull=options.pull,
        no_cache=options.no_cache,
        explain=options.explain,
        call=options.call,
        iidfile=options.iidfile,
        metadata_file=options.metadata_file,
        progress=progress or environ.get("BUILDKIT_PROGRESS") or "auto",
        source_date_epoch=parse_epoch(epoch),
        insecure_registries=tuple(options.insecure_registry),
    )


def parse_tag(text: str) -> Reference:
    """Read a -t name.

    Raises:
        UsageError: not a name, or one with a digest.
    """
    try:
        reference = Reference.parse(text)
    except PybuildError as error:
        msg = f"invalid tag {text[:100]!r}: {error.message}"
        raise UsageError(
            msg, hint=error.hint or "write it as [registry/]repository[:tag]"
        ) from error
    if reference.digest is not None:
        msg = f"invalid tag {text[:100]!r}: a name to give cannot have a digest"
        raise UsageError(msg)
    return reference


def parse_platform(text: str, environ: Mapping[str, str]) -> Platform:
    """Read --platform, else DOCKER_DEFAULT_PLATFORM, else this machine's.

    Raises:
        UsageError: unknown, or several.
    """
    text = text or environ.get("DOCKER_DEFAULT_PLATFORM", "") or "local"
    if "," in text:
        msg = f"--platform {text}: several platforms in one build are not supported yet"
        raise UsageError(msg, hint="build once for each platform")
    if text == "local":
        return local_platform()
    try:
        return Platform.parse(text)
    except PybuildError as error:
        raise UsageError(error.message, hint=error.hint) from error


def local_platform() -> Platform:
    """The platform of this machine."""
    import os  # noqa: PLC0415 - nothing else here needs it

    return Platform.parse(f"linux/{os.uname().machine}")
