"""Draws what growth.py measured: `pip install '.[plots]'`, then plot.py FILE.json FILE.png."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

PANELS = (
    ("context files", "cached rebuild, files of the context", "ms"),
    ("files of the base", "diff of a changed file, files of the base", "ms a file"),
    ("records", "cached rebuild, records of other builds", "ms"),
    ("layers", "cached rebuild, instructions with a layer", "ms"),
)


def main() -> int:
    """Read, draw, write."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - said what to do when missing
    except ImportError:
        print("plot: matplotlib is missing: pip install '.[plots]'", file=sys.stderr)
        return 3
    source, target = sys.argv[1:3]
    facts = json.loads(Path(source).read_text())
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    for axes, (name, title, unit) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        values = {int(size): v for size, v in facts["seconds"][name].items()}
        sizes = sorted(values)
        for size in sizes:
            axes.plot([size] * len(values[size]), [v * 1e3 for v in values[size]], ".", color="0.7")
        axes.plot(sizes, [statistics.median(values[size]) * 1e3 for size in sizes], "o-")
        axes.set(title=title, ylabel=unit, ylim=(0, None))
        axes.grid(visible=True, alpha=0.3)
    load = " to ".join(map(str, facts["load"]))
    figure.suptitle(
        f"{facts['date'][:10]}, Linux {facts['kernel']}, {facts['processors']} processors, load {load}"
    )
    figure.savefig(target, dpi=100)
    return 0


if __name__ == "__main__":
    sys.exit(main())
