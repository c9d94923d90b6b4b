"""The help of the small commands, and what is said of words that are none."""

from __future__ import annotations

import inspect
import re
from importlib import import_module

import pytest

from builder.cli import COMMANDS, main
from builder.commandhelp import PAGES, unknown
from builder.commands import images
from builder.errors import HostUnsupportedError, SolveError
from frontend.dockerfile.problems import LoweringError
from frontend.graph import ScratchOp, Vertex
from frontend.source import SourceFile, Span

_HELP = {"-h", "--help"}


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_every_option_of_a_command_is_in_its_help(command, capsys):
    """`COMMAND --help` and `help COMMAND` name all options that the command takes."""
    source = inspect.getsource(import_module(f"builder.commands.{command}"))
    options = re.findall(r'"(--?[a-z][a-z-]*)"', source.split("parse_args")[0])
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert [option for option in options if option not in page and option not in _HELP] == []
    assert main(["help", command]) == 0
    assert capsys.readouterr().out == page == PAGES[command]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("buidl", "did you mean `pybuild build`?"),
        ("tag", "here: pybuild build -t NAME"),
        ("buildx", "here: pybuild build"),
        ("ps", "nothing runs"),
        ("whatever", "commands: build, push"),
    ],
)
def test_a_word_that_is_no_command_is_answered_with_what_to_type(word, hint):
    """Whoever knows docker, podman or buildah is told the command that does it here."""
    error = unknown(word, COMMANDS)
    assert error.message.startswith(f'unable to prepare context: path "{word}" not found')
    assert hint in (error.hint or "")


def test_a_directory_of_that_name_is_built(tmp_path, monkeypatch, capsys):
    """The first word is looked for among the files before it is called unknown."""
    monkeypatch.chdir(tmp_path)
    assert main(["image", "ls"]) == 2
    assert "pybuild images" in capsys.readouterr().err
    (tmp_path / "image").mkdir()
    assert main(["image"]) == 2
    assert "Dockerfile" in capsys.readouterr().err


def test_options_of_a_command_point_to_its_help(capsys):
    """A wrong option names the help page that lists the right ones."""
    assert main(["images", "--nope"]) == 2
    assert "hint: see `pybuild images --help`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "flag", "hint"),
    [
        (["-it", "x"], "-t", "-i passes standard input on"),
        (["-ti", "x", "sh"], "-t", "-i passes standard input on"),
        (["-d", "x"], "-d", "in the background"),
        (["--name=web", "x"], "--name", "leave it out"),
    ],
)
def test_flags_of_dockers_run_are_refused_with_what_to_do(words, flag, hint, capsys):
    """What `docker run` has and this has not is named, with the way to do without it."""
    assert main(["run", *words]) == 2
    said = capsys.readouterr().err
    assert f"{flag} is not supported by pybuild run" in said
    assert hint in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-p", "80:80", "x"], "the network is this host's, so ports need no publishing"),
        (["--network=sandbox", "-p", "80:99999", "x"], "invalid --publish"),
        (["--network=sandbox", "-p", "127.0.0.1:80:80", "x"], "invalid --publish"),
    ],
)
def test_ports_lead_into_networks_apart_only(words, said, capsys):
    """`pybuild run -p` without --network sandbox has nothing to do."""
    assert main(["run", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["images", "prune", "rmi", "inspect", "doctor"])
@pytest.mark.parametrize("form", ["--root D C", "--root=D C", "C --root D", "C --root=D"])
def test_the_state_directory_can_be_named_before_and_behind_a_command(
    command, form, tmp_path, monkeypatch
):
    """--root goes before PYBUILD_ROOT, in either place."""
    monkeypatch.setenv("PYBUILD_ROOT", str(tmp_path / "other"))
    words = [word.replace("C", command).replace("D", f"{tmp_path}/mine") for word in form.split()]
    if command in {"rmi", "inspect"}:
        assert main([*words, "no-such-image"]) == 1
    else:
        assert main(words) in {0, 3}
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_with_state_takes_the_directory(command, capsys):
    """An empty name is refused by all that take one, and the flag by those that have no state."""
    words = {"bundle": ["x", "y"], "images": [], "prune": [], "doctor": []}.get(command, ["."])
    assert main([command, "--root", "", *words]) == 2
    said = capsys.readouterr().err
    stateless = command in {"login", "logout"}
    assert ("--root: a directory is needed" in said) is not stateless
    assert stateless or command == "build" or "--root DIR" in PAGES[command]


def test_a_build_takes_the_state_directory(tmp_path, capsys):
    """Anywhere on the line, as all its flags; the last one counts."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nLABEL a=b\n")
    state = str(tmp_path / "state")
    assert main(["--root", "/nowhere", str(tmp_path), "-q", "--root", state]) == 0
    identity = capsys.readouterr().out
    assert main(["--root", state, "images", "-q"]) == 0
    assert identity.startswith(f"sha256:{capsys.readouterr().out.strip()}")


@pytest.mark.parametrize("hint", ["get more", "", "`pybuild doctor` has it"])
@pytest.mark.parametrize("wrapped", ["plain", "instruction", "step"])
def test_what_the_host_lacks_ends_by_naming_doctor(hint, wrapped, monkeypatch, capsys):
    """Wherever it comes from: the last line of the message, once; exit status 3."""
    cause = HostUnsupportedError("no such thing here", hint=hint or None)
    error = {
        "plain": cause,
        "instruction": LoweringError(SourceFile("D", "FROM x\n"), Span(1, 1), cause),
        "step": SolveError(Vertex(ScratchOp(), name="RUN x"), cause),
    }[wrapped]

    def fail(_argv, _environ):
        raise error

    monkeypatch.setattr(images, "run", fail)
    assert main(["images"]) == 3
    said = capsys.readouterr().err
    assert "no such thing here" in said
    assert said.count("pybuild doctor") == 1
    assert "pybuild doctor" in said.splitlines()[-1]


@pytest.mark.parametrize(
    "words",
    [
        ["--sandbox", "auto", "images"],
        ["--progress", "plain", "doctor"],
        ["-t", "x", "prune"],
        ["-t", "x", "version"],
    ],
)
def test_a_command_behind_flags_is_told_to_come_first(words, tmp_path, monkeypatch, capsys):
    """A context that is not there and is named as a command was meant as one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYBUILD_ROOT", str(tmp_path / "state"))
    assert main(words) == 2
    assert f"hint: a command comes first: pybuild {words[-1]} …" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["version", "extra"], "version takes no arguments: 'extra'"),
        (["bundle"], "required: image, directory\n"),
        ([".", "b"], "2 words are given: '.', 'b'\n"),
        ([".", "b", "c"], "3 words are given: '.', 'b', …\n"),
    ],
)
def test_too_many_and_too_few_words_are_named(words, said, capsys):
    """What stands there beyond, and what is missing, no less and no more."""
    assert main(words) == 2
    assert said in capsys.readouterr().err
