"""URLs, zones, redirects, proxies, TLS and waiting."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import registry as fake
from support.registry import FakeRegistry
from support.remote_images import AMD64, Pauses, client_for, name, publish, small_image

from builder.errors import RegistryError
from builder.registry import connection
from builder.registry.http_source import fetch_url, is_unchanged
from builder.registry.location import (
    Location,
    Origin,
    Zone,
    canonical_host,
    endpoint,
    proxy_for,
    zone_of_address,
)
from builder.registry.reply import printable
from builder.registry.retry import TemporaryError, retry_after
from builder.registry.settings import RegistryConfig
from builder.registry.transport import Request, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NONE: frozenset[str] = frozenset()


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry that asks for no authentication."""
    with FakeRegistry() as running:
        yield running


@given(st.text(max_size=200))
def test_any_text_is_a_location_or_refused(text):
    """F03: a URL is read into one canonical form, which reads back the same, or refused."""
    try:
        place = Location.parse(text)
    except RegistryError:
        return
    assert Location.parse(str(place)) == place


@given(st.text(alphabet="htps:/.@[]%0x19a#?\\ \t\r\n", max_size=60))
def test_hostile_urls_never_hide_userinfo(text):
    """F15: no parsed host has userinfo, blanks or backslashes in it."""
    try:
        host = Location.parse(text).origin.host
    except RegistryError:
        return
    assert not set(host) & set("@/\\ \t\r\n%#?")


def test_queries_are_joined_not_glued():
    """F08: parameters are added to those there are; equal names are replaced."""
    place = Location.parse("https://h/u?_state=a%2Fb&digest=old")
    assert place.with_query([("digest", "sha256:0")]).target == "/u?_state=a%2Fb&digest=sha256%3A0"
    assert Location.parse("https://h/u").with_query([("a", "b")]).target == "/u?a=b"
    assert Location.parse("../../x", Location.parse("https://h/a/b")).target == "/x"


@pytest.mark.parametrize(
    ("address", "zone"),
    [
        ("8.8.8.8", Zone.PUBLIC),
        ("10.0.0.1", Zone.PRIVATE),
        ("100.64.1.1", Zone.PRIVATE),
        ("224.0.0.1", Zone.PRIVATE),
        ("127.8.9.1", Zone.LOOPBACK),
        ("0.0.0.0", Zone.LOOPBACK),  # noqa: S104 - classified, not bound
        ("::", Zone.LOOPBACK),
        ("169.254.169.254", Zone.LINK_LOCAL),
        ("fe80::1%eth0", Zone.LINK_LOCAL),
        ("::ffff:127.0.0.1", Zone.LOOPBACK),
        ("2002:7f00:1::", Zone.LOOPBACK),
        ("2606:4700::1", Zone.PUBLIC),
    ],
)
def test_zones(address, zone):
    """F02: addresses are classified through their IPv6 disguises."""
    assert zone_of_address(address) is zone


@pytest.mark.parametrize(
    "host", ["127.1", "0x7f000001", "017700000001", "1.2.3.4.5", "a..b", "", "é"]
)
def test_ambiguous_hosts_are_refused(host):
    """F02 F15: what a resolver may read as another address is no host."""
    with pytest.raises(RegistryError):
        canonical_host(host)


@pytest.mark.parametrize(
    "text",
    ["[::1", "[::1]x", "[::1]:", "[h]:1", "h:70000", "h:+1", "h:1:2", "h:\u0661", ":1", "[]"],
)
def test_authorities_are_hosts_with_ports(text):
    """F15: what is no host and port is refused, and an empty port is the scheme's."""
    if text == "[::1]:":
        assert str(Origin.of("http", text)) == "http://[::1]"
        return
    with pytest.raises(RegistryError):
        Origin.of("http", text)


@pytest.mark.parametrize(
    ("registry", "config", "url"),
    [
        ("docker.io", RegistryConfig(), "https://registry-1.docker.io"),
        ("quay.io", RegistryConfig(), "https://quay.io"),
        ("r.example:5000", RegistryConfig(), "https://r.example:5000"),
        (
            "r.example:5000",
            RegistryConfig(insecure=frozenset({"r.example:5000"})),
            "http://r.example:5000",
        ),
        (
            "r.example:5001",
            RegistryConfig(insecure=frozenset({"r.example:5000"})),
            "https://r.example:5001",
        ),
        ("localhost:5000", RegistryConfig(), "http://localhost:5000"),
        (
            "127.0.0.1:5000",
            RegistryConfig(tls=frozenset({"127.0.0.1:5000"})),
            "https://127.0.0.1:5000",
        ),
        ("[::1]:5000", RegistryConfig(), "http://[::1]:5000"),
        (
            "docker.io",
            RegistryConfig(insecure=frozenset({"docker.io"})),
            "https://registry-1.docker.io",
        ),
    ],
)
def test_endpoints(registry, config, url):
    """F06 F23: plain http is per host and by request, or stays on this machine."""
    assert str(endpoint(registry, config, NONE)) == url


@pytest.mark.parametrize(
    ("url", "proxied"),
    [
        ("https://r.example/", True),
        ("http://r.example/", False),
        ("https://localhost:1/", False),
        ("https://skip.example/", False),
        ("https://a.skip.example/", False),
        ("https://notskip.example/", True),
        ("https://10.1.2.3/", False),
        ("https://11.1.2.3/", True),
        ("https://p.example:8443/", False),
        ("https://p.example/", True),
    ],
)
def test_proxy_choice(url, proxied):
    """R36: NO_PROXY knows domains, networks and ports; loopback is never proxied."""
    skipped = ("skip.example", "10.0.0.0/8", "p.example:8443")
    config = RegistryConfig(proxies={"https": "http://p:3128"}, no_proxy=skipped)
    assert (proxy_for(Location.parse(url).origin, config) is not None) is proxied


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3), ("0", 0), ("-1", 0), ("abc", 0), (None, 0), ("9" * 30, 0)],
)
def test_retry_after(text, seconds):
    """R25: seconds are read, junk is nothing."""
    assert retry_after(text) == seconds


def test_retry_after_as_a_date():
    """R25: a date gives the seconds until then, a past one none."""
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", lambda: 40.0) == 60
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", lambda: 400.0) == 0
    assert retry_after("Thu, 99 Jan 1970 00:01:40 GMT", lambda: 400.0) == 0


def test_patience_ends_retries():
    """R24: the tries of one request end after the policy's time."""
    pauses = Pauses()

    def fail():
        raise TemporaryError("no", wait=50.0)

    with pytest.raises(RegistryError):
        pauses.policy(attempts=99, patience=120.0).run(fail)
    assert sum(pauses.slept) <= 200


def test_foreign_text_is_harmless():
    """F24: escapes, line ends and workflow commands do not survive; length is bounded."""
    shown = printable("a\x1b[2J\r\n::set-output x" + "y" * 100_000)
    assert "\x1b" not in shown
    assert "\n" not in shown
    assert "::" not in shown
    assert len(shown) < 500


def get(url, config=None, guard=None):
    """One GET with redirects."""
    settings = config or RegistryConfig(idle_timeout=1.0, connect_timeout=1.0)
    request = Request("GET", Location.parse(url))
    with Transport(settings) as transport, transport.follow(request, guard) as reply:
        return reply.status, reply.body(1 << 20)


def test_redirect_loops_end(registry):
    """B17: a loop of redirects is an error after five."""
    registry.plan("GET", "/", fake.answer(301, {"Location": "/v2/"}), times=99)
    with pytest.raises(RegistryError, match="redirects"):
        get(f"{registry.url}/v2/")
    assert len(registry.log) == 6


def test_redirect_bodies_are_not_read(registry):
    """F13: the body of a redirect may be what it likes."""
    registry.plan(
        "GET", "/a", fake.answer(302, {"Location": "/v2/", "Content-Encoding": "gzip"}, b"!!")
    )
    assert get(f"{registry.url}/a") == (200, b"{}")


def test_nobody_listens():
    """A refused connection is temporary and names the host."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RegistryError) as caught:
        get(f"http://127.0.0.1:{port}/")
    assert caught.value.temporary
    assert str(port) in caught.value.message


def test_a_stalled_reply_times_out(registry):
    """R29: silence ends after the idle timeout."""

    def stall(handler):
        time.sleep(3)
        return fake.reset()(handler)

    registry.plan("GET", "/", stall)
    start = time.monotonic()
    with pytest.raises(RegistryError, match="timed out"):
        get(f"{registry.url}/v2/")
    assert time.monotonic() - start < 2.5


def test_dripping_is_slower_than_allowed(registry, monkeypatch):
    """R29 F18: a reply that comes byte by byte ends when its time is used up."""
    monkeypatch.setattr(connection, "_GRACE", 0.5)

    def drip(handler):
        for _ in range(100):
            handler.wfile.write(b"H")
            time.sleep(0.05)
        return True

    registry.plan("GET", "/", drip)
    start = time.monotonic()
    with pytest.raises(RegistryError):
        get(f"{registry.url}/v2/")
    assert time.monotonic() - start < 2


@contextmanager
def proxy(reply: bytes = b"") -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that logs request heads; passes plain requests and tunnels on, or answers."""
    log: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            head = peer.recv(65536)
            log.append(head)
            if reply:
                peer.sendall(reply)
            else:
                target = head.split()[1].decode().partition("//")[2].partition("/")[0]
                host, _, port = target.partition(":")
                with socket.create_connection((host, int(port))) as out:
                    out.sendall(head.replace(b"keep-alive", b"close"))
                    peer.sendall(out.recv(65536))
            peer.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://ann:pw@127.0.0.1:{server.getsockname()[1]}", log
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(2)


def test_plain_http_goes_through_the_proxy():
    """R36: a plain request is sent to the proxy with its whole URL and the proxy's credential."""
    with proxy(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi") as (url, log):
        config = RegistryConfig(proxies={"http": url})
        assert get("http://r.example/x", config) == (200, b"hi")
    assert log[0].startswith(b"GET http://r.example/x HTTP/1.1\r\n")
    assert (
        b"roxy-Authorization: Basic YW5uOnB3" in log[0] or b"roxy-authorization" in log[0].lower()
    )


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"403 Forbidden"])
def test_a_refusing_proxy_is_named_without_its_secret(status):
    """R36: a proxy that refuses CONNECT gives an error without its credential."""
    with proxy(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n") as (url, log):
        config = RegistryConfig(proxies={"https": url})
        with pytest.raises(RegistryError) as caught:
            get("https://r.example/x", config)
    assert log[0].startswith(b"CONNECT r.example:443")
    assert "pw" not in caught.value.message
    assert "proxy" in caught.value.message


@contextmanager
def https(registry: FakeRegistry, folder: Path) -> Iterator[str]:
    """Let the registry speak TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server = registry._server
    plain = server.get_request

    def secured():
        peer, address = plain()
        peer.settimeout(2)
        try:
            return context.wrap_socket(peer, server_side=True), address
        except OSError:
            peer.close()
            raise

    server.get_request = secured
    yield f"localhost:{registry.port}"


def test_certificates_are_checked(registry, certificate, tmp_path):
    """F23: unknown issuers are refused with a reason; a CA file, certs.d or a flag helps."""
    with https(registry, certificate) as host:
        with pytest.raises(RegistryError, match="certificate of") as caught:
            get(f"https://{host}/v2/")
        assert not caught.value.temporary
        assert "SSL_CERT_FILE" in (caught.value.hint or "")
        trusting = RegistryConfig(ca_file=str(certificate / "cert.pem"))
        assert get(f"https://{host}/v2/", trusting)[0] == 200
        (tmp_path / host).mkdir()
        shutil.copy(certificate / "cert.pem", tmp_path / host / "ca.crt")
        config = RegistryConfig(certs_dirs=(str(tmp_path),))
        assert get(f"https://{host}/v2/", config)[0] == 200
        secured = Transport(config).secured_hosts()
        assert endpoint(host, config, secured).scheme == "https"
        assert get(f"https://{host}/v2/", RegistryConfig(unverified=frozenset({host})))[0] == 200
        with pytest.raises(RegistryError):
            get(f"https://{host}/v2/", RegistryConfig(unverified=frozenset({"other:1"})))


def test_a_certificate_of_another_host_is_refused(registry, certificate):
    """F23: a trusted certificate for another name is no certificate."""
    with https(registry, certificate):
        trusting = RegistryConfig(ca_file=str(certificate / "cert.pem"))
        with pytest.raises(RegistryError, match="certificate of"):
            get(f"https://127.0.0.1:{registry.port}/v2/", trusting)


def test_guarded_tls_checks_the_name_not_the_address(registry, certificate):
    """F02: a looked-up address is connected to under the name it was looked up for."""
    with https(registry, certificate):
        url = f"https://name.test:{registry.port}/v2/"
        config = RegistryConfig(ca_file=str(certificate / "cert.pem"), connect_timeout=1.0)
        transport = Transport(config, lambda *_: ["127.0.0.1"])
        guard = Location.parse("https://127.0.0.1/").origin
        with pytest.raises(RegistryError, match=r"certificate of name\.test"):
            transport.follow(Request("GET", Location.parse(url)), guard)


@contextmanager
def tunnel(port: int) -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that tunnels every CONNECT to a port of this machine."""
    log: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = server.accept()
                log.append(peer.recv(65536))
                out = socket.create_connection(("127.0.0.1", port))
                peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                ways = [(peer, out), (out, peer)]
                threads = [threading.Thread(target=copy, args=way) for way in ways]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                peer.close()
                out.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", log
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(2)


def test_certificates_are_checked_through_a_proxy(registry, certificate):
    """R36 F23: through CONNECT the name is checked as without a proxy."""
    with https(registry, certificate), tunnel(registry.port) as (url, log):
        for host, trusted in (
            ("proxied.test", True),
            ("wrong.test", True),
            ("proxied.test", False),
        ):
            config = RegistryConfig(
                proxies={"https": url},
                ca_file=str(certificate / "cert.pem") if trusted else "",
                idle_timeout=2.0,
            )
            transport = Transport(config)
            request = Request("GET", Location.parse(f"https://{host}/v2/"))
            if (host, trusted) == ("proxied.test", True):
                with transport.follow(request) as reply:
                    assert reply.status == 200
            else:
                with pytest.raises(RegistryError, match="certificate of"):
                    transport.follow(request)
            transport.close()
    assert log[0].startswith(b"CONNECT proxied.test:443")


def test_https_to_a_plain_server_has_a_hint(registry):
    """F06: no fallback to http; the hint names the flag."""
    config = RegistryConfig(tls=frozenset({registry.host}), idle_timeout=3.0)
    with client_for(registry, config=config) as client, pytest.raises(RegistryError) as caught:
        client.resolve(name(registry), AMD64)
    assert f"--insecure-registry {registry.host}" in (caught.value.hint or "")
    assert registry.log == []


def test_one_connection_serves_many_requests(registry):
    """R35: connections are kept; a server that closes each works too."""
    publish(registry, "team/app", "v1", small_image())
    peers = []

    def note(handler):
        peers.append(handler.client_address)
        return False

    registry.plan("GET", "/", note, times=99)
    with client_for(registry) as client:
        for _ in range(3):
            client.resolve(name(registry), AMD64)
    assert len(set(peers)) == 1
    registry.plan("GET", "/", fake.extra_headers({"Connection": "close"}), times=99)
    with client_for(registry) as client:
        assert client.resolve(name(registry), AMD64).matches


def test_importing_the_client_is_light():
    """Start-up: importing the client loads neither sockets nor ssl nor logging."""
    code = (
        "import sys, builder.registry.client, builder.registry.http_source\n"
        "heavy = {'socket', 'ssl', 'logging', 'email', 'subprocess', 'http.client', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def fetch(url, **options):
    """Fetch a URL with a policy that does not sleep."""
    got = bytearray()
    limit = options.pop("max_bytes", 1 << 20)
    with Transport(RegistryConfig(idle_timeout=2.0)) as transport:
        result = fetch_url(
            transport, url, got.extend, max_bytes=limit, retry=Pauses().policy(), **options
        )
    return result, bytes(got)


def test_a_url_is_fetched_with_its_validators(registry):
    """ADD: body, size, validators and the final address come back."""
    registry.plan("GET", "/f", fake.answer(302, {"Location": "/g"}))
    headers = {"ETag": '"e"', "Last-Modified": "x", "Content-Encoding": "x-gzip"}
    registry.plan("GET", "/g", fake.answer(200, headers, b"data"))
    result, data = fetch(f"{registry.url}/f")
    assert data == b"data"
    assert (result.status, result.etag, result.last_modified, result.size) == (200, '"e"', "x", 4)
    assert result.url == f"{registry.url}/g"


def test_a_body_gzipped_for_the_way_comes_out_plain(registry):
    """A04: Content-Encoding gzip is undone as the reference does, under the same limit."""
    packed = gzip.compress(b"data" * 100_000)
    headers = {"Content-Encoding": "gzip"}
    registry.plan("GET", "/f", fake.answer(200, headers, packed), times=2)
    assert fetch(f"{registry.url}/f")[1] == b"data" * 100_000
    with pytest.raises(RegistryError, match="larger than 1000 bytes"):
        fetch(f"{registry.url}/f", max_bytes=1000)
    for body, words in ((b"no gzip", "not the gzip stream"), (packed[:-9], "ends early")):
        registry.plan("GET", "/f", fake.answer(200, headers, body))
        with pytest.raises(RegistryError, match=words):
            fetch(f"{registry.url}/f")


def test_paths_are_escaped(registry):
    """A04: blanks and other letters are sent as escapes; an escape that is none is refused."""
    for path in ("/a b", "/caf\u00e9", "/a%20b"):
        registry.plan("GET", quote(path, safe="/%"), fake.answer(200, {}, b"x"))
        assert fetch(registry.url + path)[1] == b"x"
    with pytest.raises(RegistryError, match="invalid URL escape"):
        fetch(f"{registry.url}/a%zz")


@pytest.mark.parametrize(
    ("status", "tag", "same"),
    [
        (304, "", True),
        (304, '"e"', True),
        (200, 'W/"e"', True),
        (200, '"f"', False),
        (500, '"e"', False),
    ],
)
def test_head_tells_what_is_unchanged(registry, status, tag, same):
    """K21: HEAD with an equal ETag, weak or not, or 304 saves the fetch; errors do not."""
    registry.plan("HEAD", "/f", fake.answer(status, {"ETag": tag} if tag else {}))
    with Transport(RegistryConfig(idle_timeout=2.0)) as transport:
        assert is_unchanged(transport, f"{registry.url}/f", '"e"') is same
    assert registry.log[0].headers["If-None-Match"] == '"e"'


def test_secrets_come_before_the_user_in_a_url(registry):
    """A06: what a secret says is sent to the URL's own host only; statuses name the secret."""
    registry.plan("GET", "/f", fake.answer(200, {}, b"x"))
    fetch(f"http://ann:pw@{registry.host}/f", authorization="Bearer t")
    assert registry.log[0].headers["Authorization"] == "Bearer t"
    registry.plan("GET", "/f", fake.answer(401, {}))
    with pytest.raises(RegistryError, match="invalid response status 401") as caught:
        fetch(f"{registry.url}/f")
    assert "HTTP_AUTH_TOKEN_127.0.0.1" in caught.value.hint


def test_an_unchanged_url_sends_nothing(registry):
    """ADD: with the known ETag an unchanged file is 304."""
    registry.plan("GET", "/f", fake.answer(304, {"ETag": '"e"'}))
    result, data = fetch(f"{registry.url}/f", etag='"e"')
    assert (result.status, data) == (304, b"")
    assert registry.log[0].headers["If-None-Match"] == '"e"'


def test_userinfo_goes_to_its_origin_only(registry):
    """B17: a password in a URL is sent as Basic, never after a redirect, never in a message."""
    with FakeRegistry() as other:
        registry.plan("GET", "/f", fake.answer(302, {"Location": f"{other.url}/g"}))
        with pytest.raises(RegistryError) as caught:
            fetch(f"http://ann:hunter2@{registry.host}/f?sig=hunter2")
        assert "Authorization" in registry.log[0].headers
        assert "Authorization" not in other.log[0].headers
        assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://h/x", "http://", "http://a b/", "//h/x"]
)
def test_other_schemes_are_no_urls(url):
    """B17: only http and https are fetched."""
    with pytest.raises(RegistryError):
        fetch(url)


def test_bodies_over_the_limit_end(registry):
    """B17: announced or not, more than the limit is an error."""
    registry.plan("GET", "/f", fake.answer(200, {}, b"x" * 1000), times=2)
    with pytest.raises(RegistryError, match="larger than"):
        fetch(f"{registry.url}/f", max_bytes=999)
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000
    registry.plan("GET", "/g", fake.raw(endless))
    with pytest.raises(RegistryError, match="larger than"):
        fetch(f"{registry.url}/g", max_bytes=999)


def test_a_truncated_file_is_temporary_and_errors_are_named(registry):
    """R27: a short body is an error to try again; a 404 is final; 503 is tried again."""
    registry.plan("GET", "/f", fake.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"))
    with pytest.raises(RegistryError) as caught:
        fetch(f"{registry.url}/f")
    assert caught.value.temporary
    with pytest.raises(RegistryError, match="404"):
        fetch(f"{registry.url}/nothing")
    registry.plan("GET", "/h", fake.answer(503), times=2)
    registry.plan("GET", "/h", fake.answer(200, {}, b"ok"))
    assert fetch(f"{registry.url}/h")[1] == b"ok"


def test_a_broken_file_resumes_only_with_a_strong_validator(registry):
    """R26: with a strong ETag the rest is fetched; a changed or weakly tagged file is not mixed."""
    body = b"0123456789" * 1000
    first = fake.raw(b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 10000\r\n\r\n' + body[:4000])

    def rest(etag):
        headers = {"ETag": etag, "Content-Range": "bytes 4000-9999/10000"}
        return fake.answer(206, headers, body[4000:])

    registry.plan("GET", "/f", first)
    registry.plan("GET", "/f", rest('"e"'))
    assert fetch(f"{registry.url}/f")[1] == body
    assert registry.log[-1].headers["If-Range"] == '"e"'
    for second in (rest('"other"'), fake.answer(200, {"ETag": '"n"'}, b"new")):
        registry.plan("GET", "/g", first)
        registry.plan("GET", "/g", second)
        with pytest.raises(RegistryError) as caught:
            fetch(f"{registry.url}/g")
        assert caught.value.temporary
