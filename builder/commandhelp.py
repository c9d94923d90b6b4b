"""The help of every command but `build`, and where other tools' commands have their like here.

Constants and one choice among them; loaded when somebody asks or is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_INSECURE = """\
  --insecure-registry H  speak plain http or unverified https to this host; repeat for more
"""
_ROOT = """\
  --root DIR             the state directory, instead of $PYBUILD_ROOT and where it usually is
"""

PAGES = {
    "run": f"""\
pybuild run [OPTIONS] IMAGE [COMMAND...]: start an image in the sandbox that RUN has.

An image that is not local is fetched. What the program writes is thrown away when it ends; the
exit status is its own. What stands after IMAGE belongs to the program.

  -e, --env K[=V]        set a variable; without =V taken from the environment
  -v, --volume SRC:DST[:ro]
                         show a file or directory of the host
  -w, --workdir DIR      start there
  -u, --user USER        start as this user
  --entrypoint PROGRAM   start this instead of the image's entry point
  -i, --interactive      pass standard input on
  --network MODE         default (this host's), host, none, or sandbox, which reaches the world but
                         not this host
  -p, --publish HOST_PORT:PORT
                         lead a TCP port of this host into --network sandbox
  --platform P           which image of an index, such as linux/arm64
  --sandbox TIER         how it is kept in: auto (default), userns, single, chroot or emulate
  --runtime NAME         start it in an OCI runtime instead: runc, crun or a path
  -m, --memory SIZE, --cpus N, --pids-limit N and the other limits of `pybuild build`
  --rm                   what always happens
{_INSECURE}{_ROOT}""",
    "bundle": f"""\
pybuild bundle [OPTIONS] IMAGE DIR [COMMAND...]: write an image as an OCI runtime bundle.

DIR gets rootfs and config.json, for `runc run -b DIR NAME` and `crun run -b DIR NAME`: by root
when root wrote it, else by the same user in a user namespace. The network is the host's.

  -e, --env K[=V]        set a variable; without =V taken from the environment
  -w, --workdir DIR      start there
  -u, --user USER        start as this user
  --entrypoint PROGRAM   start this instead of the image's entry point
  -t, --tty              with a terminal
  --platform P           which image of an index, such as linux/arm64
{_INSECURE}{_ROOT}""",
    "push": f"""\
pybuild push IMAGE [AS]: send a local image to the registry in its name, or in the name AS.

  --compression C        gzip (default), zstd or uncompressed
  -q, --quiet            print the digest only
{_INSECURE}{_ROOT}""",
    "pull": f"""\
pybuild pull IMAGE: fetch an image into the local store.

  --platform P           which image of an index, such as linux/arm64
  -q, --quiet            print the image ID only
{_INSECURE}{_ROOT}""",
    "images": f"""\
pybuild images: list the local images, newest first.

  -q, --quiet            print the IDs only
{_ROOT}""",
    "inspect": f"""\
pybuild inspect IMAGE...: print config and manifest of local images as JSON.

{_ROOT}""",
    "rmi": f"""\
pybuild rmi IMAGE...: take a name from a local image; without a name left the image goes too.

An image is a name, an ID or the beginning of one. `pybuild prune` frees what it used.

{_ROOT}""",
    "doctor": f"""\
pybuild doctor [--json]: try what RUN needs and say what this host allows, why not more, and the
exact setting that would unlock more. The exit status is 0 when RUN works here, else 3.

  --json                 every answer, with names that stay as they are
{_ROOT}""",
    "prune": f"""\
pybuild prune [--all]: free what no image needs and the cache did not use for seven days.

  -a, --all              free the cache of every step, cache mounts included
  -f, --force            what always happens: nothing is asked
{_ROOT}""",
    "login": f"""\
pybuild login [REGISTRY]: check a registry's credentials and keep them in docker's config.json.

Without REGISTRY it is Docker Hub.

  -u, --username NAME    asked for otherwise
  --password-stdin       read the password or token from standard input
{_INSECURE}""",
    "logout": """\
pybuild logout [REGISTRY]: forget a registry's credentials. Without REGISTRY it is Docker Hub.
""",
}

# Words that docker's, podman's and buildah's users type first.
_ELSEWHERE = {
    "bake": "each target is one `pybuild --target …`",
    "bud": "pybuild build",
    "builder": "pybuild prune",
    "buildx": "pybuild build; pybuild prune",
    "commit": "images come from Dockerfiles only",
    "du": "pybuild images; pybuild prune",
    "exec": "pybuild run IMAGE COMMAND",
    "export": "pybuild -o DIRECTORY CONTEXT",
    "history": "pybuild inspect IMAGE",
    "image": "pybuild images | inspect | rmi | push | pull",
    "info": "pybuild version",
    "load": "pybuild --build-context NAME=oci-layout://DIRECTORY lets FROM name an unpacked one",
    "ls": "pybuild images",
    "ps": "nothing runs after a command has ended",
    "rm": "pybuild rmi IMAGE",
    "save": "pybuild -o type=docker,dest=FILE CONTEXT",
    "search": "ask the registry",
    "system": "pybuild prune",
    "tag": "pybuild build -t NAME -t NAME, or pybuild push IMAGE AS",
}

# What docker's run has, by short letter or long name, and what to do without it here.
_NOT_IN_RUN = {
    "t": "a program gets no terminal of its own: leave -t out, -i passes standard input on",
    "tty": "a program gets no terminal of its own: leave it out, -i passes standard input on",
    "d": "nothing stays behind: start pybuild run itself in the background",
    "detach": "nothing stays behind: start pybuild run itself in the background",
    "name": "leave it out: nothing is left that could be named",
    "privileged": "leave it out: an image runs in the sandbox that RUN has",
}


def page(command: str) -> str:
    """Give the help of a command."""
    return PAGES[command]


def unknown(word: str, commands: Collection[str]) -> UsageError:
    """Say what to type instead of a first word that is neither a command nor a directory."""
    from difflib import get_close_matches  # noqa: PLC0415 - for this only

    close = get_close_matches(word, commands, n=1)
    if word in _ELSEWHERE:
        hint = f"here: {_ELSEWHERE[word]}"
    elif close:
        hint = f"did you mean `pybuild {close[0]}`?"
    else:
        known = ", ".join((*commands, "version"))
        hint = f"commands: {known}; to build a directory: pybuild -t NAME DIRECTORY"
    msg = f'unable to prepare context: path "{word[:60]}" not found'
    return UsageError(f"{msg}; neither is it a command", hint=hint)


def alone(command: str, word: str) -> UsageError:
    """Say that a command which takes no words was given one."""
    return UsageError(f"{command} takes no arguments: {word[:60]!r}", hint=f"pybuild {command}")


def refuse(words: Sequence[str]) -> None:
    """Refuse flags of docker's `run` among the words before the image.

    Raises:
        UsageError: there is one; the hint says how to do without it.
    """
    for word in words:
        name = word.lstrip("-").partition("=")[0]
        long = word.startswith("--")
        # of bundled letters such as -it the first that is not known here
        names = [name] if long else [letter for letter in name if letter not in "iq"][:1]
        if word.startswith("-") and names and names[0] in _NOT_IN_RUN:
            flag = f"--{name}" if long else f"-{names[0]}"
            msg = f"{flag} is not supported by pybuild run"
            raise UsageError(msg, hint=_NOT_IN_RUN[names[0]])
