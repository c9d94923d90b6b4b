"""HTTP/1.1 as it comes off a connection: strict, bounded, never read in two ways."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import registry as fake
from support.registry import FakeRegistry

from builder.errors import RegistryError
from builder.registry import wire
from builder.registry.connection import Connection
from builder.registry.dial import Proxy
from builder.registry.location import Location
from builder.registry.nested import NestedTLS
from builder.registry.settings import RegistryConfig
from builder.registry.transport import Request, Transport
from builder.registry.wire import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

OK = b"HTTP/1.1 200 OK\r\n"


class Scripted:
    """A channel that gives prepared pieces and keeps what was sent."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent = b""
        self.closed = False
        self.pair = socket.socketpair()

    def recv(self, size: int) -> bytes:
        """The next piece, cut to size."""
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def sendall(self, data: bytes) -> None:
        """Keep it."""
        self.sent += data

    def settimeout(self, seconds: float) -> None:
        """Wait for nothing."""

    def fileno(self) -> int:
        """A descriptor on which nothing comes."""
        return self.pair[0].fileno()

    def close(self) -> None:
        """Note it."""
        self.closed = True
        for end in self.pair:
            end.close()


def exchange(*pieces, method="GET", body=None, fields=None):
    """Send one request to a scripted peer: the channel, the reply, and who was given back."""
    channel, kept = Scripted(*pieces), []
    try:
        reply = Connection(channel, 1.0).exchange(method, "/", fields or {}, body, kept.append)
    except BaseException:
        assert channel.closed
        raise
    return channel, reply, kept


def everything(*pieces, method="GET"):
    """The whole body, and whether the connection may be used again."""
    channel, reply, kept = exchange(*pieces, method=method)
    data = b""
    try:
        while piece := reply.read(7):
            data += piece
    finally:
        reply.close()
        channel.close()
    return data, bool(kept)


@pytest.mark.parametrize(
    ("reply", "body", "kept"),
    [
        (OK + b"Content-Length: 2\r\n\r\nhi", b"hi", True),
        (OK + b"content-length:2\r\n\r\nhi", b"hi", True),
        (OK + b"Content-Length: 2, 2\r\nContent-Length: 2\r\n\r\nhi", b"hi", True),
        (OK + b"\r\nto the end", b"to the end", False),
        (OK + b"Content-Length: 2\r\nConnection: Close\r\n\r\nhi", b"hi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", b"hi", True),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", b"hi", True),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n00\r\nA: b\r\n\r\n", b"hi", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi", b"hi", True),
        (b"HTTP/1.1 204\r\nContent-Length: 9\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"", True),
        (OK + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", b"hi", True),
    ],
)
def test_bodies_are_framed(reply, body, kept):
    """RFC 9112, 6.3: a body ends where its head says, and then the connection is kept or not."""
    assert everything(reply) == (body, kept)
    assert everything(*(reply[n : n + 1] for n in range(len(reply)))) == (body, kept)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 30 + OK + b"\r\n",
        OK + b"Content-Length: -5\r\n\r\nhello",
        OK + b"Content-Length: +5\r\n\r\nhello",
        OK + b"Content-Length: 5_0\r\n\r\nhello",
        OK + b"Content-Length: \xb2\r\n\r\nhello",
        OK + b"Content-Length:\r\n\r\nhello",
        OK + b"Content-Length: 5, 6\r\n\r\nhello",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nhello",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding:\r\nContent-Length: 5\r\n\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Content-Length : 5\r\n\r\nhello",
        OK + b" A: b\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b"A: b\rContent-Length: 5\r\n\r\n",
        OK + b"A: \0\r\n\r\n",
        OK + b"A: b\r\n" * 300 + b"\r\n",
        OK + b"A: b\r\n" + b" c\r\n" * 300 + b"\r\n",
        OK + b"A: " + b"b" * 70_000 + b"\r\n\r\n",
        OK + (b"A: " + b"b" * 60_000 + b"\r\n") * 5 + b"\r\n",
        OK + b"Content-Length: 9\r\n\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 16 + b"5\r\nhello\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 5000 + b"\r\nhello\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 300 + b"\r\n",
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(reply):
    """F18: contradicting, malformed or endless framing is an error, and nothing is kept."""
    with pytest.raises(ProtocolError):
        everything(reply)


def test_a_head_request_has_no_body():
    """RFC 9112, 6.3: whatever length or coding a reply to HEAD announces, none follows."""
    for field in (b"Content-Length: 5", b"Transfer-Encoding: chunked"):
        assert everything(OK + field + b"\r\n\r\n", method="HEAD") == (b"", True)
    with pytest.raises(ProtocolError):
        everything(OK + b"Content-Length: -5\r\n\r\n", method="HEAD")


def test_more_than_the_reply_ends_the_connection():
    """F18: bytes nobody asked for are never taken for the next reply."""
    channel, reply, kept = exchange(OK + b"Content-Length: 2\r\n\r\nhi" + OK + b"\r\n")
    assert reply.read(99) == b"hi"
    reply.close()
    assert not kept[0].fit
    channel.close()


def test_a_connection_on_which_something_waits_is_not_fit():
    """R35: a peer that closed or spoke meanwhile gets no further request."""
    channel, reply, kept = exchange(OK + b"Content-Length: 0\r\n\r\n")
    reply.close()
    assert kept[0].fit
    channel.pair[1].send(b"x")
    assert not kept[0].fit
    channel.close()


def test_a_small_body_that_is_here_keeps_the_connection():
    """R35: an error's body that nobody reads is taken off; one still to come is not waited for."""
    _, reply, kept = exchange(OK + b"Content-Length: 2\r\n\r\nhi")
    reply.close()
    assert len(kept) == 1
    kept[0].close()
    channel, reply, kept = exchange(OK + b"Content-Length: 3\r\n\r\nhi", b"!")
    reply.close()
    assert channel.closed
    assert kept == []


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_reply_or_refused(data, chunked):
    """F18: no reply makes anything but bytes or a protocol error."""
    start = OK + b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b""
    with suppress(ProtocolError):
        everything(start + data)


@given(st.lists(st.binary(max_size=50), max_size=8), st.integers(1, 60))
def test_chunks_come_back_as_they_went(pieces, step):
    """RFC 9112, 7.1: what we send in chunks reads back, however it is cut on the way."""
    coded = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(wire.chunks(pieces))
    cut = [coded[n : n + step] for n in range(0, len(coded), step)]
    assert everything(*cut) == (b"".join(pieces), True)


def test_requests_are_written_once():
    """Head and small body leave in one piece; bodies in pieces go in chunks or as announced."""
    reply = OK + b"Content-Length: 0\r\n\r\n"
    channel, _, _ = exchange(reply, method="PUT", body=b"ab", fields={"Host": "h"})
    assert channel.sent == b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab"
    channel.close()
    channel, _, _ = exchange(reply, method="PATCH", body=iter([b"ab", b"", b"c"]))
    assert channel.sent.endswith(b"chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    channel.close()
    length = {"Content-Length": "3"}
    channel, _, _ = exchange(reply, method="PATCH", body=iter([b"ab", b"c"]), fields=length)
    assert channel.sent.endswith(b"3\r\n\r\nabc")
    channel.close()


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("/a b", {}),
        ("/a\r\nX: y", {}),
        ("", {}),
        ("/", {"A": "b\r\nX: y"}),
        ("/", {"A\r\nB": "c"}),
        ("/", {"A:": "c"}),
        ("/", {"A": "\u2028"}),
    ],
)
def test_requests_cannot_be_split(target, fields):
    """F15: nothing of ours can end its line and begin another."""
    with pytest.raises(ValueError, match=r"malformed|cannot be sent|codec"):
        wire.request_head("GET", target, fields)


def test_a_refusal_sent_early_is_read():
    """R33: a registry that answers and closes before it has the whole body is heard."""

    class Deaf(Scripted):
        def sendall(self, data: bytes) -> None:
            super().sendall(data)
            if len(self.sent) > 1000:
                raise BrokenPipeError

    channel = Deaf(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    kept: list[Connection] = []
    body = iter([b"x" * 600] * 9)
    reply = Connection(channel, 1.0).exchange("PATCH", "/", {}, body, kept.append)
    assert reply.head.status == 413
    reply.close()
    assert channel.closed
    assert kept == []


def test_negative_lengths_are_refused_over_the_network():
    """F18: a registry's reply with a negative length is an error of that registry."""
    with FakeRegistry() as registry, Transport(RegistryConfig(idle_timeout=2.0)) as transport:
        registry.plan("GET", "/", fake.raw(OK + b"Content-Length: -5\r\n\r\nhello"))
        request = Request("GET", Location.parse(f"{registry.url}/x"))
        with pytest.raises(RegistryError, match=r"no proper reply.*-5"):
            transport.send(request)


@pytest.mark.parametrize(
    ("text", "origin", "login"),
    [
        ("p:3128", "http://p:3128", ""),
        ("http://p", "http://p", ""),
        ("HTTPS://p:3128/", "https://p:3128", ""),
        ("http://ann:p%40ss@p:1", "http://p:1", "Basic YW5uOnBAc3M="),
        ("http://a@b:c@[::1]:8", "http://[::1]:8", "Basic YUBiOmM="),
    ],
)
def test_proxies_are_read(text, origin, login):
    """R36: a proxy's URL as the environment has it, with its escapes undone."""
    found = Proxy.parse(text)
    assert str(found.origin) == origin
    assert found.fields.get("Proxy-Authorization", "") == login


@pytest.mark.parametrize("text", ["socks5://p:1", "http://", "http://hunter2@a b/", "x://h"])
def test_other_proxies_are_refused_without_their_secret(text):
    """R36: what is no http or https proxy is an error that does not show its user."""
    with pytest.raises(RegistryError) as caught:
        Proxy.parse(text)
    assert "hunter2" not in str(caught.value)


@contextmanager
def tls_server(certificate, serve) -> Iterator[int]:
    """A TLS server for one connection at a time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with suppress(OSError):
            while True:
                peer, _ = server.accept()
                with suppress(OSError), context.wrap_socket(peer, server_side=True) as secured:
                    serve(secured)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(2)


def answer_greeting(peer):
    """Answer every request with a large body in a reply to it."""
    while peer.recv(65536):
        peer.sendall(OK + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000)


def test_https_goes_through_an_https_proxy(certificate):
    """R36 F23: TLS to the origin inside TLS to the proxy, each name checked on its own."""
    log: list[bytes] = []
    with tls_server(certificate, answer_greeting) as port:

        def relay(peer):
            log.append(peer.recv(65536))
            with socket.create_connection(("127.0.0.1", port)) as out:
                peer.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                peer.settimeout(0.02)
                out.settimeout(0.02)
                stop = time.monotonic() + 5
                while time.monotonic() < stop:
                    for source, sink in ((peer, out), (out, peer)):
                        with suppress(TimeoutError):
                            data = source.recv(65536)
                            if not data:
                                return
                            sink.settimeout(5)
                            sink.sendall(data)
                            sink.settimeout(0.02)

        with tls_server(certificate, relay) as middle:
            config = RegistryConfig(
                proxies={"https": f"https://ann:pw@localhost:{middle}"},
                ca_file=str(certificate / "cert.pem"),
                idle_timeout=5.0,
            )
            with Transport(config) as transport:
                place = Location.parse("https://proxied.test/x")
                for _ in range(2):
                    with transport.send(Request("GET", place)) as reply:
                        assert reply.body(200_000) == b"x" * 100_000
                assert len(log) == 1
                with pytest.raises(RegistryError, match=r"certificate of wrong\.test"):
                    transport.send(Request("GET", Location.parse("https://wrong.test/x")))
    assert log[0].startswith(b"CONNECT proxied.test:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic YW5uOnB3\r\n" in log[0]


def test_tls_inside_ends_with_its_channel(certificate):
    """R27: a nested connection that is cut off gives no more bytes, or says so, and never hangs."""
    context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with tls_server(certificate, lambda peer: peer.sendall(b"hello")) as port:
        outer = socket.create_connection(("127.0.0.1", port), 5)
        inner = NestedTLS(outer, context, "localhost", 5.0)
        assert inner.recv(100) == b"hello"
        assert inner.recv(100) == b""
        inner.close()
    assert outer.fileno() == -1


def test_tls_inside_that_drips_ends(certificate):
    """F17: of a record that comes byte by byte the whole is waited for, not each byte."""
    context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with tls_server(certificate, lambda peer: peer.recv(1)) as port:
        outer = socket.create_connection(("127.0.0.1", port), 5)
        receive = outer.recv

        class Dripping:
            def __getattr__(self, name):
                return getattr(outer, name)

            def recv(self, _size):
                time.sleep(0.01)
                return receive(1)

        start = time.monotonic()
        with pytest.raises(TimeoutError, match="too slowly"):
            NestedTLS(Dripping(), context, "localhost", 0.5)
        assert time.monotonic() - start < 5
        outer.close()


def test_what_tls_holds_back_is_not_the_next_reply(certificate):
    """F18: a second reply in one record with the first stays in TLS, where no poll sees it."""
    whole = OK + b"Content-Length: 20000\r\n\r\n" + b"x" * 16_384

    def serve(peer):
        while peer.recv(65536):
            peer.sendall(whole)
            peer.sendall(b"x" * 3616 + OK + b"Content-Length: 4\r\n\r\nevil")

    with tls_server(certificate, serve) as port:
        config = RegistryConfig(ca_file=str(certificate / "cert.pem"), tls=frozenset({"localhost"}))
        place = Location.parse(f"https://localhost:{port}/x")
        with Transport(config) as transport:
            for _ in range(2):
                with transport.send(Request("GET", place)) as reply:
                    assert reply.body(30_000) == b"x" * 20_000
