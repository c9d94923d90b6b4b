"""ADD of a URL: what is asked, what is remembered, who may see what (A04-A06, K21)."""

from __future__ import annotations

import pytest
from support.solver_log import SilentLog

from builder.solver.http_op import Fetched, HttpHandler
from cache.database import Database
from cache.errors import DigestMismatchError
from cache.localstore import LocalStore
from cache.memos import SqliteMemos
from cache.spec.digest import Digest
from frontend.graph import HttpOp

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
OP = HttpOp("https://host.example:8443/f", "f")


class Web:
    """A server as the handler sees it; `log` has what it was asked."""

    def __init__(self, body=b"one", etag='"1"', date=DATE):
        self.body, self.etag, self.date = body, etag, date
        self.log = []

    def get(self, url, sink, etag, progress, authorization):
        del url, progress
        self.log.append(("GET", etag, authorization))
        if etag == self.etag:
            return Fetched(304, self.etag, self.date)
        sink(self.body)
        return Fetched(200, self.etag, self.date)

    def is_unchanged(self, url, etag, authorization):
        del url
        self.log.append(("HEAD", etag, authorization))
        return etag == self.etag


@pytest.fixture
def make(tmp_path):
    """A handler over a state directory that lasts, as of a new build each time."""
    store, database = LocalStore(str(tmp_path)), Database(str(tmp_path / "state.db"))

    def handler(web, secrets=None):
        return HttpHandler(web.get, store, SqliteMemos(database), secrets, web.is_unchanged)

    yield handler
    database.close()


def test_every_build_asks_and_what_did_not_change_is_not_fetched(make):
    """K21: HEAD with the stored ETag first, once a build; equal means the same file."""
    web = Web()
    first = make(web)
    assert first.known(OP) is None
    file = first.run(OP, (), SilentLog())
    assert (file.digest, file.size, file.mtime) == (Digest.of(b"one"), 3, 784_111_777_000_000_000)
    second = make(web)
    assert second.known(OP) == second.known(OP) == file
    assert web.log == [("GET", None, ""), ("HEAD", '"1"', "")]


def test_what_changed_is_fetched(make):
    """K21: another ETag means another body, whose digest and date are new."""
    web = Web()
    make(web).run(OP, (), SilentLog())
    web.body, web.etag, web.date = b"two", '"2"', ""
    handler = make(web)
    assert handler.known(OP) is None
    file = handler.run(OP, (), SilentLog())
    assert (file.digest, file.mtime) == (Digest.of(b"two"), 0)
    assert web.log[1:] == [("HEAD", '"1"', ""), ("GET", '"1"', "")]


def test_without_an_etag_it_is_fetched_again(make):
    """K21: nothing tells that it is the same, so nobody is asked with HEAD."""
    web = Web(etag="")
    make(web).run(OP, (), SilentLog())
    assert make(web).known(OP) is None
    assert [method for method, _, _ in web.log] == ["GET"]


def test_a_checksum_needs_no_network(make):
    """A05, K21: what has the checksum is there already; another checksum is another file."""
    web = Web()
    make(web).run(OP, (), SilentLog())
    web.log.clear()
    assert make(web).known(HttpOp(OP.url, "f", Digest.of(b"one"))) is not None
    wrong = HttpOp(OP.url, "f", Digest.of(b"other"))
    assert make(web).known(wrong) is None
    assert web.log == []
    with pytest.raises(DigestMismatchError, match="digest mismatch for f"):
        make(web).run(wrong, (), SilentLog())


@pytest.mark.parametrize(
    ("secrets", "sent"),
    [
        ({"HTTP_AUTH_TOKEN_host.example": b"t\n"}, "Bearer t"),
        ({"HTTP_AUTH_HEADER_host.example": b"Basic x"}, "Basic x"),
        (
            {"HTTP_AUTH_HEADER_host.example": b"h", "HTTP_AUTH_TOKEN_host.example": b"t"},
            "Bearer t",
        ),
        ({"HTTP_AUTH_TOKEN_other.example": b"t"}, ""),
    ],
)
def test_secrets_of_the_host(make, secrets, sent):
    """A06: HTTP_AUTH_TOKEN_<host> and HTTP_AUTH_HEADER_<host> log in, at every request."""
    web = Web()
    make(web, secrets).run(OP, (), SilentLog())
    make(web, secrets).known(OP)
    assert [authorization for _, _, authorization in web.log] == [sent, sent]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (DATE, 784_111_777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
        ("Sun Nov  6 08:49:37 1994", 784_111_777),
        ("Sun, 06 Nov 1994 08:49:37 +0100", 0),
        ("yesterday GMT", 0),
        ("GMT", 0),
        ("", 0),
    ],
)
def test_dates(make, text, seconds):
    """A04: the time of a file is Last-Modified where that is an HTTP date, else 1970."""
    file = make(Web(date=text)).run(OP, (), SilentLog())
    assert file.mtime == seconds * 1_000_000_000
