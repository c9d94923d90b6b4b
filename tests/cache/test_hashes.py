"""Hashes of little and of much are the same as Python's."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from cache.spec import hashes

PIECES = st.lists(st.one_of(st.binary(max_size=100), st.just(b"x" * 20_000)), max_size=6)


@given(PIECES)
def test_pieces_give_the_hash_of_the_whole(pieces):
    """However it is divided, and whether or not it becomes large on the way."""
    state = hashes.Sha256()
    for count, piece in enumerate(pieces, 1):
        state.update(memoryview(piece))
        expected = hashlib.sha256(b"".join(pieces[:count]))
        assert state.digest() == expected.digest()
        assert state.hexdigest() == expected.hexdigest()


def test_other_ways_to_hash():
    """By name, in one piece, and from a file."""
    data = b"some" * 1000
    assert hashes.new("sha512", data).hexdigest() == hashlib.sha512(data).hexdigest()
    assert hashes.new("sha256", data).hexdigest() == hashlib.sha256(data).hexdigest()
    assert hashes.sha256(data).digest() == hashlib.sha256(data).digest()
    assert hashes.of_file(io.BytesIO(data), "sha512") == hashlib.sha512(data).hexdigest()


def test_little_is_hashed_without_openssl():
    """Loading it takes longer than a cached build hashes (W1)."""
    code = "import sys; from cache.spec.digest import Digest; Digest.of(b'x'); "
    done = subprocess.run(
        [sys.executable, "-c", code + "print('_hashlib' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
