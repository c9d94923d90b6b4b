"""`pybuild doctor`: verdict, every probe's answer, reasons, ways out."""

from __future__ import annotations

import errno
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from builder import state as states
from builder.commands import doctor
from builder.diagnosis import account, asking, diagnose, kernel, programs, remedies, show, statedir
from builder.diagnosis.asking import Question
from builder.diagnosis.finding import Diagnosis, Finding, Remedy
from builder.errors import HostUnsupportedError
from builder.sandbox import host, tiers
from builder.sandbox.host import Extent, Tier
from builder.sandbox.trial import Answer
from cache.value import replace

REPOSITORY = Path(__file__).resolve().parents[2]
PROMISED = """
    sandbox userns|sandbox single|sandbox chroot|sandbox emulate|user|own ids|subuid|subgid|newuidmap
    |newgidmap
    |capabilities|new privileges|seccomp profile|apparmor|chroot|chown|setuid|mknod|mount|user namespace
    |id map: direct|id map: newuidmap|id map: single|private mounts|tmpfs|overlay on disk
    |overlay in memory|fresh proc|shared proc|shared devices|devpts|pivot_root|chroot inside
    |chown inside|setgroups inside|own network|own binfmt_misc|yama|seccomp notification
    |seccomp ADDFD|openat2|ptrace|process_vm_readv|pidfd|landlock|cgroups|/dev/net/tun|pasta
    |slirp4netns|qemu|runc|crun|git|state directory|file system|free space|programs
    |changes of steps
"""
ANN = host.Host(
    uid=1000,
    gid=1000,
    user="ann",
    capabilities=0,
    uid_map=(Extent(0, 0, 4294967295),),
    gid_map=(Extent(0, 0, 4294967295),),
    subuid="bob:100000:65536\nann:165536:65536\n",
    subgid="ann:165536:65536\n",
    newuidmap="/usr/bin/newuidmap",
    newgidmap="/usr/bin/newgidmap",
    max_user_namespaces=1000,
)
WORKING = (
    "user namespace", "id map: direct", "id map: newuidmap", "id map: single", "private mounts",
    "overlay on disk", "overlay in memory", "fresh proc", "pivot_root", "chroot", "setuid", "chown",
    "subuid", "subgid", "yama", "seccomp notification", "seccomp ADDFD", "openat2", "ptrace",
    "process_vm_readv", "changes of steps",
)  # fmt: skip


def trials(monkeypatch, **works):
    """Let trials answer from a table."""

    def trial(tier, _scratch):
        works_here = works.get(str(tier), False)
        return Answer(works_here, "" if works_here else f"no {tier}", "" if works_here else "do it")

    monkeypatch.setattr(
        doctor, "diagnose", lambda environ, **options: diagnose.diagnose(environ, trial, **options)
    )


def test_the_first_tier_that_works_is_the_verdict(monkeypatch, tmp_path, capsys):
    """What is better and does not work says why and what would help; the status is 0."""
    trials(monkeypatch, emulate=True)
    assert doctor.run(["--json"], {"PYBUILD_ROOT": str(tmp_path / "s")}) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tier"] == "emulate"
    assert found["state"] == str(tmp_path / "s")
    rows = {row["name"]: row for row in found["findings"]}
    assert rows["sandbox userns"] == {
        "group": "sandbox",
        "name": "sandbox userns",
        "works": False,
        "detail": "no userns",
        "error": "",
        "hint": "do it",
    }
    assert rows["sandbox emulate"]["works"]
    assert str(tmp_path / "s") in rows["state directory"]["detail"]


def test_a_host_that_can_nothing_is_status_3(monkeypatch, tmp_path, capsys):
    """RUN does not work, and the last line says so."""
    trials(monkeypatch)
    assert doctor.run([], {"PYBUILD_ROOT": str(tmp_path / "s")}) == 3
    assert "RUN does not work here" in capsys.readouterr().out.splitlines()[-1]


def test_every_probe_answers_under_its_promised_name(tmp_path):
    """The names of the JSON are there, each once; the kernel here answers and nothing is left."""
    found = diagnose.diagnose({"PYBUILD_ROOT": str(tmp_path / "s")})
    names = [finding.name for finding in found.findings]
    promised = {name.strip() for name in PROMISED.split("|")}
    assert len(names) == len(set(names))
    assert promised <= set(names)
    assert found.finding("seccomp ADDFD").works
    assert found.finding("ptrace").works
    assert os.listdir(tmp_path / "s" / "scratch") == []
    assert set(json.loads(show.as_json(found))) == {
        "version", "tier", "state", "findings", "remedies", "notes",
    }  # fmt: skip


def test_the_next_build_gets_what_was_found(monkeypatch, tmp_path):
    """What builds remember of this host is forgotten: something may have changed."""
    trials(monkeypatch, emulate=True)
    environ = {"PYBUILD_ROOT": str(tmp_path / "s")}
    assert doctor.run(["--json"], environ) == 0
    scratch = str(tmp_path / "s" / "scratch")
    with states.opened(environ["PYBUILD_ROOT"]) as state:
        tiers.choose(scratch, state.memos, lambda *_: Answer(works=True))
    assert doctor.run(["--json"], environ) == 0
    with states.opened(environ["PYBUILD_ROOT"]) as state:
        choice = tiers.choose(scratch, state.memos, lambda *_: Answer(works=True, changes="memory"))
    assert choice.changes == "memory"


def test_without_a_state_directory_the_rest_is_still_told(monkeypatch, tmp_path, capsys):
    """A state directory that cannot be used is one finding among the others."""
    trials(monkeypatch, emulate=True)
    (tmp_path / "file").write_text("")
    assert doctor.run(["--json"], {"PYBUILD_ROOT": str(tmp_path / "file")}) == 0
    found = json.loads(capsys.readouterr().out)
    row = next(f for f in found["findings"] if f["name"] == "state directory")
    assert not row["works"]
    assert "PYBUILD_ROOT" in row["hint"]


def test_text_fits_80_columns_and_ends_with_the_verdict(tmp_path):
    """Every line but those to paste is at most 80 wide, in a terminal as elsewhere."""
    found = diagnose.diagnose({"PYBUILD_ROOT": str(tmp_path / "s")})
    text = show.as_text(found)
    wide = [line for line in text.splitlines() if len(line) > 80 and str(tmp_path) not in line]
    assert wide == []
    assert "\x1b" not in text
    assert "\x1b[32myes" in show.as_text(found, colour=True)


def test_rows_that_say_the_same_are_joined_and_hints_not_repeated():
    """Findings line up; a hint stands below its finding, once."""
    found = Diagnosis(
        str(Tier.USERNS),
        "/s",
        (
            Finding("sandbox", "sandbox userns", works=True, detail="x"),
            Finding("engine", "openat2", works=True),
            Finding("engine", "ptrace", works=True),
            Finding("programs", "git", works=False, detail="none", hint="get it"),
            Finding("state", "programs", works=False, detail="noexec", hint="get it"),
        ),
        (Remedy("userns", "no ids", "as root", "one\ntwo\n"),),
        ("Slow.\nfix: it",),
    )
    lines = show.as_text(found).splitlines()
    assert lines[1] == "  yes  sandbox userns      x"
    assert "  yes  openat2, ptrace" in lines
    assert [line.strip() for line in lines].count("-> get it") == 1
    start = lines.index("  userns: no ids")
    assert lines[start + 1 : start + 4] == ["    as root:", "        one", "        two"]
    assert "        fix: it" in lines
    assert lines[-1].startswith("RUN works here: namespaces")


def test_colour_is_for_terminals():
    """NO_COLOR and dumb terminals are heeded."""
    assert show.wants_colour({"TERM": "xterm"}, is_terminal=True)
    assert not show.wants_colour({"TERM": "xterm", "NO_COLOR": "1"}, is_terminal=True)
    assert not show.wants_colour({}, is_terminal=True)
    assert not show.wants_colour({"TERM": "xterm"}, is_terminal=False)


def test_it_runs_in_a_terminal(tmp_path):
    """The whole command, on a terminal: coloured, status 0."""
    ours, theirs = pty.openpty()
    environ = {"TERM": "xterm", "PYBUILD_ROOT": str(tmp_path / "s"), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-P", "-m", "builder", "doctor"]
    with subprocess.Popen(
        command, stdout=theirs, env={**environ, "PYTHONPATH": str(REPOSITORY)}, cwd="/"
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while part := os.read(ours, 4096):
                seen += part
        except OSError as error:
            assert error.errno == errno.EIO  # noqa: PT017 - the other end was closed
        assert process.wait(60) == 0
    os.close(ours)
    assert b"\x1b[1mNamespaces" in seen
    assert b"RUN works here" in seen


def case(*missing, surroundings=remedies.Surroundings.HOST, errors=None, **facts):
    """A case in which all works but what is named; the sandbox that is left is `emulate`."""
    errors = errors or {}
    findings = [Finding("sandbox", f"sandbox {tier}", works=tier is Tier.EMULATE) for tier in Tier]
    findings += [
        Finding("x", name, name not in missing, f"{name} refused", errors.get(name, ""))
        for name in WORKING
    ]
    found = Diagnosis("emulate", "/s", tuple(findings))
    return remedies.Case(found, replace(ANN, **facts), surroundings)


POD, CONTAINER = remedies.Surroundings.POD, remedies.Surroundings.CONTAINER
NO_MAP = ("id map: direct", "id map: newuidmap")


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        (case("user namespace", max_user_namespaces=0), "sysctl -w user.max_user_namespaces=15000"),
        (case("user namespace", clone_forbidden=True, errors={"user namespace": "EPERM"}),
         "sysctl -w kernel.unprivileged_userns_clone=1"),
        (case("user namespace", errors={"user namespace": "EACCES"}), remedies.APPARMOR),
        (case("user namespace", filtered=True, surroundings=POD, errors={"user namespace": "EPERM"}),
         "seccompProfile: {type: Unconfined}"),
        (case("user namespace", filtered=True, surroundings=POD, errors={"user namespace": "EPERM"}),
         "hostUsers: false"),
        (case("user namespace", filtered=True, errors={"user namespace": "EPERM"}),
         "--security-opt seccomp=unconfined"),
        (case("user namespace", errors={"user namespace": "EPERM"}), "chroot"),
        (case("user namespace", errors={"user namespace": "EINVAL"}), "CONFIG_USER_NS=y"),
        (case(*NO_MAP, "subuid", subuid="bob:100000:65536\n"), "echo ann:165536:65536 >>/etc/subuid"),
        (case(*NO_MAP, "subuid", "subgid", subuid="", subgid="", user="1000", newuidmap=""),
         "useradd --uid 1000 builder"),
        (case(*NO_MAP, "subuid", newuidmap=""), "apt install uidmap"),
        (case(*NO_MAP, apparmor_restricts=True), "kernel.apparmor_restrict_unprivileged_userns=0"),
        (case(*NO_MAP, surroundings=POD), "runAsUser: 0"),
        (case(*NO_MAP, surroundings=POD), "setcap cap_setgid+ep /usr/bin/newgidmap"),
        (case(*NO_MAP, surroundings=POD, bounding=0),
         "runAsUser: 0\n        capabilities: {add: [SETUID, SETGID, SETFCAP]}"),
        (case(*NO_MAP, surroundings=POD, uid=0, capabilities=1 << 7),
         "securityContext: {capabilities: {add: [SETGID, SETFCAP]}}"),
        (case(*NO_MAP, surroundings=CONTAINER, uid=0),
         "--cap-add SETUID --cap-add SETGID --cap-add SETFCAP"),
        (case("user namespace", filtered=True, surroundings=POD, bounding=0,
              errors={"user namespace": "EPERM"}), "capabilities: {add: [SETUID, SETGID, SETFCAP]}"),
        (case(*NO_MAP, no_new_privileges=True), "without no_new_privs"),
        (case(*NO_MAP), "setcap cap_setgid+ep /usr/bin/newgidmap"),
        (case(*NO_MAP, capabilities=1, surroundings=POD, uid=0, uid_map=(Extent(0, 5, 10),)),
         "idsPerPod: 65536"),
        (case("private mounts", surroundings=POD, errors={"private mounts": "EACCES"}),
         "appArmorProfile: {type: Unconfined}"),
        (case("private mounts", errors={"private mounts": "EACCES"}),
         "--security-opt apparmor=unconfined"),
        (case("private mounts", errors={"private mounts": "EACCES"}, apparmor_restricts=True),
         "sysctl"),
        (case("private mounts", errors={"private mounts": "EPERM"}), "seccomp=unconfined"),
        (case("pivot_root"), "seccomp=unconfined"),
        (case("overlay on disk", "overlay in memory", surroundings=POD), "emptyDir: {}"),
        (case("overlay on disk", "overlay in memory", surroundings=CONTAINER),
         "-v pybuild:/state -e PYBUILD_ROOT=/state"),
        (case("overlay on disk", "overlay in memory"), "export PYBUILD_ROOT="),
        (case("overlay on disk", surroundings=POD), "emptyDir: {}"),
        (case("chroot", surroundings=POD), "runAsUser: 0"),
        (case("chroot", surroundings=CONTAINER), "--user 0"),
        (case("chroot", surroundings=POD, bounding=0), "runAsNonRoot: false\n  capabilities: {add: ["),
        (case("chroot", surroundings=CONTAINER, uid=0, bounding=~(1 << 18)), "--cap-add SYS_CHROOT"),
    ],
)  # fmt: skip
def test_what_unlocks_a_better_tier_is_a_text_to_paste(given, setting):
    """Each obstacle has its own setting: subuid line, pod YAML, sysctl, AppArmor profile (C1)."""
    assert any(setting in remedy.setting for remedy in remedies.remedies(given))


def test_a_host_without_any_sandbox_is_told_what_the_last_one_wants():
    """Where even emulation is refused, its own obstacle is among the remedies."""
    given = case("user namespace", "seccomp notification", "yama")
    found = remedies.remedies(replace(given, found=replace(given.found, tier="")))
    assert any("Linux 5.14" in remedy.setting for remedy in found)
    assert {"userns", "emulate"} <= {remedy.tier for remedy in found}


def test_the_best_tier_needs_no_remedy():
    """Nothing stands in the way of what is in use."""
    given = case(*NO_MAP)
    assert remedies.remedies(replace(given, found=replace(given.found, tier="userns"))) == ()


def test_notes_are_about_what_works_and_could_be_better():
    """Changes kept in memory, and the pod's processes seen in /proc."""
    given = case("overlay on disk", "changes of steps", "fresh proc", surroundings=POD)
    notes = remedies.notes(replace(given, found=replace(given.found, tier="userns")))
    assert "emptyDir: {}" in notes[0]
    assert "procMount: Unmasked" in notes[1]
    assert remedies.notes(case()) == ()
    assert remedies.notes(case("fresh proc", surroundings=POD)) == ()  # emulation shows its own


@pytest.mark.parametrize(
    ("where", "works", "detail"),
    [
        ("", True, "in the state directory"),
        ("memory", False, "in memory, "),
        ("/data/pybuild-0", True, "in /data/pybuild-0"),
    ],
)
def test_where_changes_go_is_told(where, works, detail):
    """Beside the trees, on a volume, or in memory, which is a note's matter."""
    found = statedir.changes(where)
    assert (found.name, found.works) == ("changes of steps", works)
    assert found.detail.startswith(detail)


def test_the_profile_shown_is_the_profile_shipped():
    """deploy/apparmor/pybuild has the text that doctor prints, below its comment."""
    shipped = (REPOSITORY / "deploy" / "apparmor" / "pybuild").read_text().splitlines(keepends=True)
    assert "".join(line for line in shipped if not line.startswith("#")) == remedies.APPARMOR


@pytest.mark.parametrize(
    ("environ", "present", "expected"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {}, POD),
        ({}, {"/var/run/secrets/kubernetes.io": True}, POD),
        ({}, {"/.dockerenv": True}, CONTAINER),
        ({"container": "podman"}, {}, CONTAINER),
        ({}, {"/.dockerenv": False}, remedies.Surroundings.HOST),
    ],
)
def test_words_follow_where_we_are(environ, present, expected):
    """A pod is told YAML, a container flags, a host commands."""
    assert remedies.surroundings(environ, present) is expected


def test_questions_are_asked_apart_and_say_what_the_kernel_said():
    """Errors keep their name, ours their hint; a bug or a killed child ends nothing else."""

    def refused():
        raise OSError(errno.EPERM, "Operation not permitted")

    def ours():
        raise HostUnsupportedError("not here", hint="go there") from OSError(errno.EACCES, "no")

    questions = {
        "good": lambda: "fine",
        "refused": refused,
        "ours": ours,
        "bug": lambda: str(1 // 0),
        "killed": lambda: os.kill(os.getpid(), 9) or "",
    }
    rows = asking.findings("g", [Question(name, ask) for name, ask in questions.items()])
    assert rows[0] == Finding("g", "good", works=True, detail="fine")
    assert (rows[1].detail, rows[1].error) == ("operation not permitted", "EPERM")
    assert (rows[2].detail, rows[2].error, rows[2].hint) == ("not here", "EACCES", "go there")
    assert "ZeroDivisionError" in rows[3].detail
    assert rows[4].detail == "ended without an answer"
    assert not any(row.works for row in rows[1:])


def test_what_entering_raises_answers_every_question():
    """Without the namespace nothing inside can be asked."""

    def enter():
        raise HostUnsupportedError("no namespace")

    rows = asking.findings("g", [Question("a", lambda: ""), Question("b", lambda: "")], enter)
    assert [row.detail for row in rows] == ["no namespace"] * 2
    dead = asking.findings("g", [Question("a", lambda: "")], lambda: os.kill(os.getpid(), 9))
    assert dead[0].detail == "ended without an answer"


@pytest.mark.parametrize(
    ("scope", "works"), [("", True), ("0", True), ("1", True), ("2", True), ("3", False)]
)
def test_yama_is_read(scope, works):
    """Only 3 forbids tracing one's own children; the hint is the sysctl."""
    rows = account.account(ANN, lambda path: f"{scope}\n" if path.endswith("ptrace_scope") else "")
    yama = next(row for row in rows if row.name == "yama")
    assert yama.works is works
    assert ("sysctl" in yama.hint) is not works


def test_the_account_is_described():
    """Subordinate ids with their ranges, what is missing as missing."""
    rows = {row.name: row for row in account.account(ANN, lambda _path: "")}
    assert rows["subuid"].detail == "65536 ids (165536+65536)"
    rows = {row.name: row for row in account.account(replace(ANN, subuid=""), lambda _path: "")}
    assert not rows["subuid"].works


def test_a_helper_tells_where_its_right_comes_from(tmp_path):
    """Set-id root, file capabilities or nothing; the capability must be the right one."""
    program = tmp_path / "newuidmap"
    program.write_text("")
    program.chmod(0o755)
    facts = replace(ANN, newuidmap=str(program), newgidmap="")
    rows = programs.helpers(facts)
    assert "without any right" in rows[0].detail
    assert "setcap cap_setuid+ep" in rows[0].hint
    assert rows[1].detail == "not installed"
    if os.geteuid() == 0:
        os.setxattr(program, "security.capability", bytes.fromhex("0100000280000000" + "00" * 12))
        assert programs.helper_kind(str(program), 7) == "file capabilities"
        assert programs.helper_kind(str(program), 6) == ""
        os.removexattr(program, "security.capability")
        program.chmod(0o4755)
        assert programs.helper_kind(str(program), 7) == "setuid root"


@pytest.mark.parametrize(
    ("where", "limit", "device"),
    [
        ("host", "systemd-run", "modprobe tun"),
        ("container", "--memory 4g", "--device /dev/net/tun"),
        ("pod", "limits: {memory: 4Gi", "device plugin"),
    ],
)
def test_hints_fit_where_we_are(where, limit, device, monkeypatch):
    """A pod is not told to use systemd-run, a workstation not to change a container."""
    monkeypatch.setattr(programs, "_TUN", "/nowhere/tun")
    monkeypatch.setattr(programs, "Cgroups", lambda _limits: Bare())
    assert limit in programs.limits(where)[0].hint
    assert device in programs.optional(where)[0].hint


class Bare:
    """Control groups that hold nothing."""

    missing = ("memory",)

    def close(self):
        """Nothing is open."""


def test_settings_fit_a_terminal():
    """Indented by eight, no line of YAML is cut at 80 columns."""
    given = case("user namespace", filtered=True, surroundings=POD)
    for remedy in remedies.remedies(given):
        assert max(len(line) for line in remedy.setting.splitlines()) <= 72


def test_rights_are_tried_where_nothing_stays(tmp_path):
    """Root's rights are named; files made for the trial are the caller's to remove."""
    names = {row.name: row.works for row in kernel.rights(str(tmp_path))}
    assert names == dict.fromkeys(
        ("chroot", "chown", "setuid", "mknod", "mount"), os.geteuid() == 0
    )
