"""Flags of the build command, with real builds."""

from __future__ import annotations

import json

STAGES = """\
FROM {base} AS Deps
RUN date > /deps
FROM {base} AS app
COPY a.txt /a
RUN date > /app
FROM {base}
RUN date > /last
COPY --from=deps /deps /
COPY --from=app /app /
"""


def test_no_cache_filter_runs_the_steps_of_its_stages_only(pybuild, busybox):
    """K30: RUN and COPY of the named stages run again; names are caseless, unknown ones no error."""
    context = pybuild.context("filter", STAGES.format(base=busybox), {"a.txt": "a\n"})
    pybuild.good(context)
    assert pybuild.good(context).ending("DONE") == []
    again = pybuild.good("--no-cache-filter", "APP,nosuch", context).ending("DONE")
    assert {"COPY a.txt /a", "RUN date > /app"} <= set(again)
    assert not {"RUN date > /deps", "RUN date > /last"} & set(again)
    both = pybuild.good("--no-cache-filter=deps", "--no-cache-filter=app", context).ending("DONE")
    assert {"RUN date > /deps", "RUN date > /app"} <= set(both)
    assert "RUN date > /last" not in both


def test_image_id_of_what_is_no_image_is_refused(pybuild, busybox):
    """O71: --iidfile with an output of files only is an error before anything runs."""
    context = pybuild.context("iid", f"FROM {busybox}\nRUN date > /d\n", {})
    for output in ("out", "type=tar,dest=out.tar"):
        done = pybuild.run("--iidfile", "id.txt", "-o", output, context)
        assert (done.code, "--iidfile names an image" in done.err) == (2, True), done.err


def test_flags_of_steps_reach_the_steps(pybuild, busybox):
    """Hosts, secrets and proxies are there in RUN, in every way to write them, and not in the image."""
    dockerfile = (
        f"FROM {busybox}\n"
        "RUN --mount=type=secret,id=file --mount=type=secret,id=var --mount=type=secret,id=none \\\n"
        "    mkdir /o && cat /run/secrets/* > /o/secrets && cat /etc/hosts > /o/hosts\n"
        "RUN --mount=type=secret,id=piped cp /run/secrets/piped /o/piped\n"
        "RUN env > /o/env\n"
    )
    context = pybuild.context("steps", dockerfile, {})
    config = pybuild.home / ".docker"
    config.mkdir()
    proxies = {"default": {"httpProxy": "http://proxy:3128", "noProxy": "inside"}}
    (config / "config.json").write_text(json.dumps({"proxies": proxies}))
    (pybuild.home / "secret").write_text("from a file ")
    pybuild.own(pybuild.home)
    done = pybuild.good(
        "--add-host=a:10.0.0.1,b=10.0.0.2", "--add-host", "six=[::2]", "--add-host=h:host-gateway",
        "--secret", "id=file,source=secret", "--secret=type=env,id=var,src=VAR",
        "--secret", "id=none,env=UNSET", "--secret", "id=piped,src=/dev/stdin",
        "--build-arg", "NO_PROXY=given", "--build-arg", "TYPO=1", "-oout", context,
        env={"VAR": "from a variable"}, stdin=b"piped",
    )  # fmt: skip
    out = pybuild.home / "out" / "o"
    hosts = dict(line.split()[::-1] for line in (out / "hosts").read_text().splitlines()[2:])
    assert hosts == {"a": "10.0.0.1", "b": "10.0.0.2", "six": "::2", "h": "127.0.0.1"}
    assert (out / "secrets").read_text() == "from a file from a variable"
    assert (out / "piped").read_text() == "piped"
    env = dict(line.partition("=")[::2] for line in (out / "env").read_text().splitlines())
    assert env["http_proxy"] == env["HTTP_PROXY"] == "http://proxy:3128"
    assert env["no_proxy"] == env["NO_PROXY"] == "given"
    assert "warning: secret none is empty: environment variable UNSET is not set" in done.err
    assert done.err.count("warning: no ARG takes --build-arg TYPO\n") == 1


def test_mistakes_are_said_before_anything_is_fetched(pybuild):
    """A missing secret or agent is named though the base image does not exist (M13, M14)."""
    context = pybuild.context("early", "FROM 127.0.0.1:9/nothing\n", {})
    for flags, said in (
        (["--secret", "id=x,src=nope"], "secret x: nope not found"),
        (["--ssh", "default"], "SSH_AUTH_SOCK is not set"),
    ):
        done = pybuild.run(*flags, context)
        assert (done.code, said in done.err) == (2, True), done.err


def test_quiet_and_none_and_the_summary(pybuild):
    """O72, O76: -q says the id alone, none says nothing; legacy flags and lint are told otherwise."""
    context = pybuild.context("say", "FROM scratch\nENV a b\n", {})
    quiet = pybuild.good("-q", "--squash", context)
    assert (quiet.out[:7], len(quiet.out), quiet.err) == ("sha256:", 72, "")
    none = pybuild.good(context, "--progress=none", "--build-arg=TYPO=1")
    assert (none.out, none.err) == ("", "")
    shown = pybuild.good("--squash", context)
    assert "warning: --squash does nothing" in shown.err
    assert " 1 warning found (use --debug to expand):\n - LegacyKeyValueFormat: " in shown.err
    long = pybuild.good("-D", context).err
    assert " 1 warning found:\n" in long
    assert "More info: https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/" in long
    assert "   2 | >>> ENV a b" in long


def test_metadata_has_warnings_when_asked(pybuild):
    """O70: BUILDX_METADATA_WARNINGS adds what the lint found."""
    context = pybuild.context("metadata", "FROM scratch\nENV a b\n", {})
    file = pybuild.home / "metadata.json"
    pybuild.good("--metadata-file", file, context)
    assert "buildx.build.warnings" not in json.loads(file.read_text())
    pybuild.good("--metadata-file", file, context, env={"BUILDX_METADATA_WARNINGS": "1"})
    (warning,) = json.loads(file.read_text())["buildx.build.warnings"]
    assert warning["range"][0]["start"] == {"line": 2}
