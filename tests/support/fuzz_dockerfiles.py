"""Fuzz what reads Dockerfiles: the parser, the expander, the ignore matcher, the lowering.

    PYTHONPATH=.:tests python tests/support/fuzz_dockerfiles.py --count 1000000 --seed 1

Inputs are made of the recorded Dockerfiles by cutting, joining and inserting what has a meaning
in the language. Whatever comes in, nothing but a PybuildError may come out, and it must not take
long. What fails is printed, with the seed and the number that make it again.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from pathlib import Path

from support.lowering import lowered

from cache.errors import PybuildError
from frontend import ignore
from frontend.dockerfile import shell
from frontend.dockerfile.problems import MAX_PRODUCED

CORPUS = Path(__file__).resolve().parents[2] / "testdata" / "dockerfiles"
SLOW = 2.0  # seconds of processor time of one input; none is larger than some kilobytes
_LONGEST = 6000  # characters of an input
_PIECES = (
    *("\\", "\n", "\\\n", "\r\n", "\\\\\n", "# c\n", "\n\n", " ", "\t", "`", "`\n", "# escape=`\n"),
    *("<<", "<<EOF", "<<-EOF", "<<'E'\n", "\nEOF\n", "EOF", "3<<A", '"', "'", "[", "]", '["a"]'),
    *("--", "=", "--mount=", "--from=", "--chown=", "--platform=", "type=cache,", "target=/x", ","),
    *("$", "${", "}", "${a", ":-", "${x:-", "${x#", "${x%%", "${x//", "/", ":?", "*", "?", "$1"),
    *(
        "FROM ",
        "FROM busybox AS a\n",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ARG ",
        "LABEL ",
        "ONBUILD ",
    ),
    *("HEALTHCHECK ", "EXPOSE ", "VOLUME ", "SHELL ", "USER ", "WORKDIR ", "STOPSIGNAL ", "CMD "),
    *(
        "\0",
        "\ud800",
        "\u00a0",
        "\u2028",
        "\x85",
        "é",
        "\ufeff",
        "٣",
        "-1",
        "99999999999",
        "0x1",
        ":",
    ),
    *("80-90/tcp", "1h2m", "SIGTERM", "linux/arm64", "scratch", "busybox", "!", "**/", "[a-", "^"),
)


def inputs(seed):
    """Endless pairs of what to try and a text for it; the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - inputs to be made again
    corpus = [path.read_text() for path in sorted(CORPUS.glob("*/Dockerfile"))]
    lines = [line for text in corpus for line in text.splitlines(keepends=True)]
    ways = (
        *[("word", _word)] * 5,
        *[("ignore", _word)] * 2,
        *[("lower", lambda c: _mutated(c, corpus, lines))] * 3,
    )
    while True:
        kind, make = chance.choice(ways)
        yield kind, make(chance)[:_LONGEST]


def _word(chance):
    return "".join(chance.choice(_PIECES) for _ in range(chance.randint(1, 12)))


def _mutated(chance, corpus, lines):
    text = chance.choice(corpus)
    for _ in range(chance.randint(0, 2)):
        text += chance.choice(lines)
    for _ in range(chance.randint(1, 6)):
        at = chance.randint(0, len(text))
        piece = chance.choice(_PIECES) * chance.choice((1, 1, 1, 2, 40))
        text = text[:at] + piece + text[at + chance.choice((0, 0, 1, 2, 10)) :]
    return text


def attempt(kind, text):
    """Try one input; only a PybuildError is fine."""
    try:
        if kind == "word":
            _expand(text)
        elif kind == "ignore":
            _match(text)
        else:
            lowered(text)
    except PybuildError as error:
        if not error.message:
            raise AssertionError("no message") from error


def _expand(text):
    scope = {"x": "foo/bar.baz", "a": "", "e": "é"}
    escape = "`" if len(text) % 3 == 0 else "\\"
    words = shell.split_words(text, escape)
    assert sum(map(len, words)) <= len(text)
    for run in (shell.expand, shell.expand_words):
        try:
            run(text, scope, escape=escape)
        except PybuildError:
            continue
    result = shell.expand_heredoc(text, scope)
    assert len(result) <= MAX_PRODUCED


def _match(text):
    matcher = ignore.IgnoreMatcher(ignore.parse_ignore(text, "ignore"))
    for path in ("a", "a/b/c", "x.log", "EOF/é", text.replace("\n", "/").strip("/")[:200] or "a"):
        if not {"", ".", ".."} & set(path.split("/")):
            matcher.ignores(path)


def fuzz(seed, count, seconds=float("inf")):
    """Try inputs until there were enough; gives how many, and those that failed with how."""
    end = time.monotonic() + seconds
    failures = []
    for done, (kind, text) in enumerate(inputs(seed)):
        if done >= count or time.monotonic() > end:
            return done, failures
        begin = time.process_time()
        try:
            attempt(kind, text)
        except Exception:  # noqa: BLE001 - whatever comes out is what is looked for
            failures.append((done, kind, text, traceback.format_exc(limit=-4)))
        if time.process_time() - begin > SLOW:
            failures.append((done, kind, text, "slow"))
    raise AssertionError


def main():
    """Fuzz and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100_000)
    arguments = parser.parse_args()
    begin = time.monotonic()
    done, failures = fuzz(arguments.seed, arguments.count)
    for number, kind, text, how in failures[:20]:
        sys.stdout.write(f"seed {arguments.seed} input {number} {kind}\n{text!r}\n{how}\n\n")
    took = time.monotonic() - begin
    sys.stdout.write(f"{done} inputs, {len(failures)} failed, {took:.0f} s\n")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
