"""Rows of measurements: their medians, ratios and targets, as a table and as JSON."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

OURS = "pybuild"
FLOOR = "floor"


@dataclass(slots=True)
class Row:
    """One measured quantity: all values of every tool, and what is wanted of pybuild."""

    title: str
    unit: str
    limit: float | None = None
    best: float | None = None  # at most this many times the best peer's value
    floor: float | None = None  # at most this many times the bare commands'
    values: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Record a value of a tool."""
        self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float | None:
        """The median of a tool, if it was measured."""
        values = self.values.get(name)
        return statistics.median(values) if values else None

    def ratio(self, name: str) -> float | None:
        """How many times pybuild's value a tool's is: the median over the rounds of both."""
        ours, theirs = self.values.get(OURS, []), self.values.get(name, [])
        pairs = [b / a for a, b in zip(ours, theirs, strict=False) if a > 0]
        return statistics.median(pairs) if pairs else None

    @property
    def goal(self) -> str:
        """What is wanted of pybuild, in words."""
        parts = [f"< {self.limit:g} {self.unit}"] if self.limit is not None else []
        parts += [f"{self.best:g} of the best peer"] if self.best is not None else []
        parts += [f"{self.floor:g} of the floor"] if self.floor is not None else []
        return "; ".join(parts) or "-"

    def best_peer(self) -> str:
        """The peer with the least median; "" when there is none."""
        medians = {n: self.median(n) or 0 for n in self.values if n not in {OURS, FLOOR}}
        return min(medians, key=lambda name: medians[name], default="")

    def met(self) -> bool | None:
        """Whether the goals are met; None where there is none, or nothing to compare with."""
        ours = self.median(OURS)
        if ours is None:
            return None
        verdicts = []
        if self.limit is not None:
            verdicts.append(ours < self.limit)
        for factor, name in ((self.best, self.best_peer()), (self.floor, FLOOR)):
            times = self.ratio(name)
            if factor is not None and times is not None:
                verdicts.append(1 / times <= factor)
        return all(verdicts) if verdicts else None

    def as_json(self) -> dict[str, Any]:
        """Everything, raw values included."""
        tools = {
            name: {
                "median": self.median(name),
                "ratio": self.ratio(name),
                "note": self.notes.get(name, ""),
                "values": [round(v, 6) for v in values],
            }
            for name, values in self.values.items()
        }
        wanted = {"goal": self.goal, "met": self.met()}
        return {"title": self.title, "unit": self.unit, **wanted, "tools": tools}


def table(rows: list[Row]) -> str:
    """A Markdown table: medians, and in brackets how many times pybuild's value it is."""
    names = sorted({n for row in rows for n in row.values}, key=lambda n: (n != OURS, n))
    lines = [
        "| " + " | ".join(["", *names, "target", "met"]) + " |",
        "|" + "---|" * (len(names) + 3),
    ]
    for row in rows:
        cells = [_cell(row, name) for name in names]
        met = {True: "yes", False: "NO", None: "-"}[row.met()]
        title = f"{row.title}, {row.unit}"
        lines.append("| " + " | ".join([title, *cells, row.goal, met]) + " |")
    return "\n".join(lines)


def _cell(row: Row, name: str) -> str:
    median = row.median(name)
    if median is None:
        return "-"
    text = f"{median:.3f}" if row.unit == "s" else f"{median:.1f}"
    text = f"{median:.0f}" if row.unit in {"files", "B"} else text
    if row.notes.get(name):
        text += f" {row.notes[name]}"
    ratio = row.ratio(name)
    return text if ratio is None or name == OURS else f"{text} ({ratio:.2f}x)"
