"""--check and --call: what is printed, kept and returned, and that nothing is built (O77, O78)."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from builder.commands import build
from cache.errors import PybuildError

LINTED = "FROM scratch AS Foo\nCMD a $x\n"
BROKEN = "FROM scratch AS Foo\nENV A=1 \\\n\n  B=2\nFNTRYPOINT x\n"


@pytest.fixture
def run(tmp_path, capsys):
    """Run a build command on a Dockerfile's text; gives status, standard output, standard error."""

    def run(text, *flags, ignore=""):
        context = tmp_path / "context"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(text)
        (context / ".dockerignore").write_text(ignore)
        environ = {"PYBUILD_ROOT": str(tmp_path / "state"), "HOME": str(tmp_path)}
        try:
            status = build.run([*flags, str(context)], environ)
        except PybuildError as error:
            status = error
        return status, *capsys.readouterr()

    return run


def test_check_of_a_good_file(run):
    """Nothing to say is said, with status 0 (O77)."""
    assert run("FROM scratch\n", "--check") == (0, "Check complete, no warnings found.\n", "")


def test_check_lists_warnings(run):
    """Count, rule, page, text and lines of each; status 1, or 0 with ignorestatus (O77)."""
    status, out, err = run(LINTED, "--check")
    assert (status, err) == (1, "")
    assert out == (
        "Check complete, 2 warnings have been found!\n"
        "\nWARNING: StageNameCasing"
        " - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\n"
        "Stage name 'Foo' should be lowercase\nDockerfile:1\n--------------------\n"
        "   1 | >>> FROM scratch AS Foo\n   2 |     CMD a $x\n--------------------\n"
        "\nWARNING: JSONArgsRecommended"
        " - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/\n"
        "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals\n"
        "Dockerfile:2\n--------------------\n"
        "   1 |     FROM scratch AS Foo\n   2 | >>> CMD a $x\n--------------------\n"
    )
    assert run(LINTED, "--call", "check,ignorestatus=true")[0] == 0


def test_check_as_json(run):
    """The reference's document: rules, lines, the source (O77)."""
    status, out, _ = run(LINTED, "--call", "check,format=json")
    document = json.loads(out)
    assert status == 1
    assert document["warnings"][0] == {
        "ruleName": "StageNameCasing",
        "description": "Stage names should be lowercase",
        "url": "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
        "detail": "Stage name 'Foo' should be lowercase",
        "location": {"ranges": [{"start": {"line": 1}, "end": {"line": 1}}]},
    }
    assert document["sources"][0]["filename"] == "Dockerfile"
    assert base64.b64decode(document["sources"][0]["data"]).decode() == LINTED
    assert "buildError" not in document


def test_check_of_a_broken_file(run):
    """Warnings before the mistake, then the mistake; status 1, as JSON a buildError (O77, T14)."""
    status, out, err = run(BROKEN, "--check")
    assert status == 1
    assert "WARNING: StageNameCasing" in out
    assert "WARNING: NoEmptyContinuation" in out
    assert err.startswith("\nDockerfile:5: unknown instruction: FNTRYPOINT\n")
    assert 'did you mean "ENTRYPOINT"?' in err
    document = json.loads(run(BROKEN, "--call", "check,format=json")[1])
    assert document["buildError"] == {
        "message": "dockerfile parse error on line 5: unknown instruction: FNTRYPOINT"
        " (did you mean ENTRYPOINT?)",
        "location": {"ranges": [{"start": {"line": 5}, "end": {"line": 5}}]},
    }


def test_check_covers_stages_that_are_not_built(run):
    """Without a target every stage is checked, with one only what it needs (S03)."""
    text = "FROM scratch AS one\nCMD a\nFROM scratch AS two\n"
    assert run(text, "--check")[0] == 1
    assert run(text, "--check", "--target", "two")[0] == 0


def test_check_knows_the_ignore_file(run):
    """COPY of an ignored file is warned of, unless the file has exceptions (CopyIgnoredFile)."""
    text = "FROM scratch\nCOPY a.log /\n"
    assert '"a.log" that is excluded' in run(text, "--check", ignore="*.log\n")[1]
    assert run(text, "--check", ignore="*.log\n!b.log\n")[0] == 0


def test_check_says_which_image_is_missing(run):
    """A base that cannot be resolved is an error of its FROM; the rest is checked (P05)."""
    text = "FROM 127.0.0.1:1/none:x\nCMD a $x\nLABEL b=$y\n"
    status, out, err = run(text, "--check")
    assert status == 1
    assert "JSONArgsRecommended" in out
    assert "UndefinedVar" not in out
    assert "Dockerfile:1: 127.0.0.1:1/none:x" in err


def test_check_options_of_the_file(run):
    """error=true is an error of its own; wrong options are named (P15)."""
    _, _, err = run("# check=error=true\nFROM scratch\nCMD a\n", "--check")
    assert "lint violation found for rules: JSONArgsRecommended" in err
    _, _, err = run("# check=nonsense=1\nFROM scratch\n", "--check")
    assert 'invalid check option "nonsense"' in err


def test_targets(run):
    """Stages with their descriptions, the last one marked (O77)."""
    text = "# a the first\nFROM scratch AS a\nFROM a AS b\n"
    status, out, _ = run(text, "--call", "targets")
    assert status == 0
    assert out == "TARGET      DESCRIPTION\na           the first\nb (default) \n"
    document = json.loads(run(text, "--call", "targets,format=json")[1])
    assert document["targets"] == [
        {
            "name": "a",
            "description": "the first",
            "base": "scratch",
            "location": {"ranges": [{"start": {"line": 2}, "end": {"line": 2}}]},
        },
        {
            "name": "b",
            "default": True,
            "base": "a",
            "location": {"ranges": [{"start": {"line": 3}, "end": {"line": 3}}]},
        },
    ]


def test_outline(run):
    """Arguments with their values, secrets, agents of the target (O77)."""
    text = (
        "# V the version\nARG V=1\nFROM ${V:+scratch} AS a\nARG D=$V\n"
        'RUN --mount=type=secret,id=s,required --mount=type=ssh ["x"]\n'
    )
    status, out, _ = run(text, "--call", "outline", "--build-arg", "V=2")
    assert status == 0
    assert out == (
        "TARGET: a\n\n"
        "BUILD ARG   VALUE   DESCRIPTION\nV           2       the version\nD                   \n\n"
        "SECRET   REQUIRED\ns        true\n\nSSH       REQUIRED\ndefault   \n\n"
    )
    document = json.loads(run(text, "--call", "outline,format=json")[1])
    assert document["args"][0]["value"] == "1"
    assert document["secrets"][0]["required"] is True
    assert document["ssh"][0]["name"] == "default"


def test_describe(run):
    """The calls there are (O77)."""
    status, out, _ = run("FROM scratch\n", "--call", "subrequests.describe")
    assert status == 0
    assert "outline              1.0.0   List" in out
    assert json.loads(run("", "--call", "subrequests.describe,format=json")[1])[0]["type"] == "rpc"


def test_results_are_kept(run, tmp_path):
    """--metadata-file has the document, the text, their version and the status (O70)."""
    path = tmp_path / "meta.json"
    run(LINTED, "--check", "--metadata-file", str(path))
    kept = json.loads(path.read_text())
    assert kept["version"] == "1.0.0"
    assert kept["result.statuscode"] == "1"
    assert kept["result.txt"].startswith("Check complete, 2 warnings")
    assert len(json.loads(kept["result.json"])["warnings"]) == 2


def test_nothing_is_built(run, tmp_path):
    """A check runs no step, whatever the file says (O77)."""
    run(f'FROM scratch\nRUN ["touch", "{tmp_path}/built"]\n', "--check")
    assert not (Path(tmp_path) / "built").exists()


@pytest.mark.parametrize("name", ["outline", "targets"])
def test_broken_files_end_the_other_calls(run, name):
    """What cannot be parsed has neither outline nor targets (O77)."""
    status, out, _ = run(BROKEN, "--call", name)
    assert "unknown instruction" in str(status)
    assert out == ""


def test_warnings_come_before_a_failure(run):
    """A build that fails has its warnings all the same; error=true fails it before (T14, P15)."""
    status, _, err = run("FROM scratch AS Foo\nCOPY nope /\n")
    assert isinstance(status, PybuildError)
    assert " - StageNameCasing: Stage name 'Foo' should be lowercase (line 1)\n" in err
    status, _, err = run(BROKEN)
    assert " - NoEmptyContinuation: Empty continuation line (line 4)\n" in err
    status, _, err = run("# check=error=true\nFROM scratch\nCMD a\n")
    assert str(status) == "lint violation found for rules: JSONArgsRecommended"
    assert " 1 warning found" in err


def test_warnings_are_said_once(run):
    """The same warning of one place is said once (T14)."""
    _, _, err = run("FROM scratch\nCOPY $x$x nope/$x /\n")
    assert err.count("Usage of undefined variable '$x'") == 1


def test_warnings_at_length(run):
    """-D shows rule, page and lines of each warning (O76)."""
    _, _, err = run("FROM scratch\nCOPY nope$x /\n", "-D")
    assert "Variables should be defined before their use" in err
    assert "https://docs.docker.com/go/dockerfile/rule/undefined-var/" in err
    assert ">>> COPY nope$x /" in err


def test_warnings_are_events_for_programs(run):
    """--progress=rawjson has warnings as events, and no other text (O74)."""
    _, _, err = run("FROM scratch AS Foo\nCOPY nope /\n", "--progress=rawjson")
    documents = [json.loads(line) for line in err.splitlines()]
    shorts = [w["short"] for found in documents for w in found.get("warnings", ())]
    assert shorts == ["StageNameCasing: Stage name 'Foo' should be lowercase (line 1)"]
