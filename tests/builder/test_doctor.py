"""`pybuild doctor`: verdict, reasons, ways out."""

from __future__ import annotations

import json

from builder.commands import doctor
from builder.commands.doctor import Diagnosis, Finding
from builder.sandbox.host import Tier
from builder.sandbox.trial import Answer


def trials(monkeypatch, **works):
    """Let trials answer from a table."""

    def trial(tier, _scratch):
        works_here = works.get(str(tier), False)
        return Answer(works_here, "" if works_here else f"no {tier}", "" if works_here else "do it")

    monkeypatch.setattr(doctor, "try_tier", trial)


def test_the_first_tier_that_works_is_the_verdict(monkeypatch, tmp_path, capsys):
    """What is better and does not work says why and what would help; the status is 0."""
    trials(monkeypatch, emulate=True)
    assert doctor.run(["--json"], {"PYBUILD_ROOT": str(tmp_path / "s")}) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tier"] == "emulate"
    rows = {row["name"]: row for row in found["findings"]}
    assert rows["sandbox userns"] == {
        "name": "sandbox userns",
        "works": False,
        "detail": "no userns",
        "hint": "do it",
    }
    assert rows["sandbox emulate"]["works"]
    assert str(tmp_path / "s") in rows["state directory"]["detail"]


def test_a_host_that_can_nothing_is_status_3(monkeypatch, tmp_path, capsys):
    """RUN does not work, and the last line says so."""
    trials(monkeypatch)
    assert doctor.run([], {"PYBUILD_ROOT": str(tmp_path / "s")}) == 3
    assert "RUN does not work here" in capsys.readouterr().out.splitlines()[-1]


def test_text_names_each_finding_and_its_way_out():
    """Findings line up; a hint stands below its finding."""
    found = Diagnosis(
        str(Tier.USERNS),
        (
            Finding("sandbox userns", works=True, detail="x"),
            Finding("git", works=False, detail="none", hint="get it"),
        ),
    )
    lines = doctor._text(found).splitlines()
    assert lines[0] == "yes  sandbox userns       x"
    assert lines[1].startswith("no   git")
    assert lines[2].split() == ["->", "get", "it"]
    assert lines[-1].startswith("RUN works here: namespaces")
