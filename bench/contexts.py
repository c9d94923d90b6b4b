"""The build contexts of the workloads: made here, the same bytes on every machine."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

from measure import FailedError

if TYPE_CHECKING:
    from pathlib import Path

FILES = 20_000
FILE_BYTES = 3_300  # 66 MB in all
FILES_A_DIRECTORY = 200


def base(where: Path) -> Path:
    """A base image of nothing but a static busybox and its links."""
    busybox = shutil.which("busybox")
    if not busybox:
        raise FailedError("busybox is missing: apt-get install busybox-static")
    where.mkdir()
    shutil.copy(busybox, where / "busybox")
    run = 'RUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
    (where / "Dockerfile").write_text(f"FROM scratch\nCOPY busybox /bin/busybox\n{run}")
    return where


def cached(where: Path, base_image: str) -> Path:
    """Twelve instructions over 200 files."""
    small_files(where / "src", 200, salt="cached")
    (where / "requirements.txt").write_text("a==1\nb==2\n")
    lines = [
        f"FROM {base_image}",
        "ENV APP=/app",
        "LABEL org.example.purpose=benchmark",
        "WORKDIR /app",
        "COPY requirements.txt /app/",
        "RUN cat requirements.txt > installed",
        "COPY src /app/src",
        "RUN find src -type f | wc -l > count",
        "ENV MODE=production",
        "EXPOSE 8080",
        'ENTRYPOINT ["/bin/sh"]',
        'CMD ["-c", "cat /app/count"]',
    ]
    return _dockerfile(where, lines)


def steps(where: Path, base_image: str, count: int) -> Path:
    """`count` RUN lines that do nothing, each different from the others."""
    return _dockerfile(where, [f"FROM {base_image}", *(f"RUN true # {n}" for n in range(count))])


def copying(where: Path, base_image: str, salt: str) -> Path:
    """Twenty thousand small files and one COPY; a new salt makes every file a new one."""
    small_files(where / "tree", FILES, salt=salt)
    return _dockerfile(where, [f"FROM {base_image}", "COPY tree /tree"])


def large(where: Path, base_image: str, mebibytes: int) -> Path:
    """One RUN that writes a large file which does not compress."""
    run = f"RUN dd if=/dev/urandom of=/large bs=1M count={mebibytes} 2>/dev/null"
    return _dockerfile(where, [f"FROM {base_image}", run])


def half(where: Path, base_image: str, mebibytes: int) -> Path:
    """One RUN that writes a large file, half of which compresses."""
    part = mebibytes // 2
    run = (
        f"RUN dd if=/dev/urandom of=/random bs=1M count={part} 2>/dev/null"
        f" && yes pybuild benchmark | dd of=/text bs=1M count={part} iflag=fullblock 2>/dev/null"
    )
    return _dockerfile(where, [f"FROM {base_image}", run])


def over(where: Path, base_image: str, *lines: str) -> Path:
    """A Dockerfile of lines over an image, without other files."""
    return _dockerfile(where, [f"FROM {base_image}", *lines])


def context_of_many(where: Path, base_image: str) -> Path:
    """Twelve instructions over twenty thousand files."""
    small_files(where / "src", FILES, salt="context")
    lines = [f"FROM {base_image}", "WORKDIR /app", "COPY src /app/src", "RUN true"]
    lines += [f"ENV NUMBER{n}={n}" for n in range(8)]
    return _dockerfile(where, lines)


def packages(where: Path, base_image: str, debs: Path) -> Path:
    """Debian packages installed from local files."""
    shutil.copytree(debs, where / "debs")
    lines = ["COPY debs /debs", "RUN dpkg -i /debs/*.deb >/dev/null"]
    return _dockerfile(where, [f"FROM {base_image}", *lines])


def parallel(where: Path, base_image: str) -> Path:
    """Four stages that sleep two seconds each and one that needs them all."""
    lines = []
    for n in range(4):
        lines += [f"FROM {base_image} AS s{n}", f"RUN sleep 2 && echo {n} > /{n}"]
    lines.append(f"FROM {base_image}")
    return _dockerfile(where, lines + [f"COPY --from=s{n} /{n} /{n}" for n in range(4)])


def edit(context: Path, text: str) -> None:
    """Change one of the twenty thousand files."""
    (context / "tree" / "d050" / "f0100.txt").write_text(text)


def small_files(where: Path, count: int, salt: str) -> None:
    """Files of text that compresses about as well as source code does."""
    dice = random.Random(salt)  # deterministic on purpose
    words = [
        "".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 11)))
        for _ in range(4000)
    ]
    pool = " ".join(dice.choices(words, k=150_000))
    for n in range(count):
        directory = where / f"d{n // FILES_A_DIRECTORY:03}"
        if n % FILES_A_DIRECTORY == 0:
            directory.mkdir(parents=True)
        start = dice.randrange(len(pool) - FILE_BYTES)
        text = f"{salt} {n}\n{pool[start : start + FILE_BYTES]}"[:FILE_BYTES]
        (directory / f"f{n % FILES_A_DIRECTORY:04}.txt").write_text(text)


def _dockerfile(where: Path, lines: list[str]) -> Path:
    where.mkdir(parents=True, exist_ok=True)
    (where / "Dockerfile").write_text("\n".join(lines) + "\n")
    return where
