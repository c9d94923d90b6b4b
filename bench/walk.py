"""Lists a large context under many ignore patterns, beside a bare scandir and stat of the same tree.

    .venv/bin/python bench/walk.py DIRECTORY

The directory is made first if it is not there: 100,000 empty files. Processor seconds, best of five.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builder.context.local import LocalContext
from frontend.ignore import IgnoreMatcher, parse_ignore

if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTORIES = 1_000
FILES = 100  # in each
SUFFIXES = ("py", "js", "txt", "md", "o", "c")
PATTERNS = [
    *("**/*.log", "**/node_modules", "*.tmp", ".git", "**/__pycache__", "!keep.log", "build"),
    *(f"**/gen{number}_*.go" for number in range(60)),
    *(f"src/module{number}/target" for number in range(60)),
    *(f"**/tmp{number}" for number in range(40)),
    *(f"pkg{number}/x*.bin" for number in range(33)),
]  # 200
ROUNDS = 5


def make(top: Path) -> None:
    """Make the tree."""
    for number in range(DIRECTORIES):
        here = top / f"pkg{number % 40}" / f"mod{number // 40 % 5}" / f"part{number}"
        here.mkdir(parents=True)
        for file in range(FILES):
            (here / f"file{file}.{SUFFIXES[(number + file) % len(SUFFIXES)]}").touch()


def bare(top: str) -> int:
    """List and stat everything."""
    count = 0
    pending = [top]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                count += 1
                if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode):
                    pending.append(entry.path)
    return count


def listed(top: str, patterns: list[str]) -> int:
    """List everything as a build does, and identify it."""
    rules = IgnoreMatcher(parse_ignore("\n".join(patterns), "patterns"))
    with LocalContext(top, ignore=rules) as context:
        context.fingerprint("")
        return len(patterns)


def best(action: Callable[[], int]) -> float:
    """The processor time of the quickest run."""
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        action()
        times.append(time.process_time() - begin)
    return min(times)


def main() -> None:
    """Measure and print."""
    top = Path(sys.argv[1])
    if not top.exists():
        make(top)
    floor = best(lambda: bare(str(top)))
    sys.stdout.write(f"{'bare scandir and stat':30} {floor:6.3f} s\n")
    for name, patterns in (("no patterns", []), (f"{len(PATTERNS)} patterns", PATTERNS)):
        found = best(lambda patterns=patterns: listed(str(top), patterns))
        sys.stdout.write(f"{name:30} {found:6.3f} s  {found / floor:.2f}\n")


if __name__ == "__main__":
    main()
