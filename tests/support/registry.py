"""A registry in this process, after the distribution spec, that can be told to misbehave.

It keeps blobs and manifests in dictionaries, checks digests, knows mounts, ranges, chunked
uploads, Basic and Bearer, and logs every request. A fault is a function called before a request
is served; it answers itself and returns True, or changes the handler and returns False.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    Fault = Callable[["Handler"], bool]


@dataclass(frozen=True, slots=True)
class Logged:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(slots=True)
class Planned:
    """A fault that hits requests of a method and path, a number of times."""

    method: str
    path: re.Pattern[str]
    fault: Fault
    left: int


def answer(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Fault:
    """Answer with this."""

    def fault(handler: Handler) -> bool:
        handler.drain()
        handler.reply(status, body, headers or {})
        return True

    return fault


def error(status: int, code: str, message: str = "") -> Fault:
    """Answer with an error body of the spec."""
    body = json.dumps({"errors": [{"code": code, "message": message or code}]}).encode()
    return answer(status, {"Content-Type": "application/json"}, body)


def raw(data: bytes) -> Fault:
    """Write these bytes and close."""

    def fault(handler: Handler) -> bool:
        handler.wfile.write(data)
        handler.close_connection = True
        return True

    return fault


def cut(count: int) -> Fault:
    """Serve as usual but break the connection after `count` bytes of body."""

    def fault(handler: Handler) -> bool:
        handler.cut = count
        return False

    return fault


def reset() -> Fault:
    """Break the connection without a word."""

    def fault(handler: Handler) -> bool:
        handler.break_off()
        return True

    return fault


def reset_while_reading(count: int) -> Fault:
    """Take `count` bytes of the body, keep them as the registry does, then break off."""

    def fault(handler: Handler) -> bool:
        upload = handler.registry.uploads.get(handler.path.partition("?")[0].rpartition("/")[2])
        data = handler.rfile.read(count)
        if upload is not None:
            upload.extend(data)
        handler.break_off()
        return True

    return fault


def extra_headers(headers: dict[str, str]) -> Fault:
    """Serve as usual with further or other headers."""

    def fault(handler: Handler) -> bool:
        handler.extra.update(headers)
        return False

    return fault


def other_body(data: bytes) -> Fault:
    """Serve as usual but with this body."""

    def fault(handler: Handler) -> bool:
        handler.instead = data
        return False

    return fault


@dataclass
class FakeRegistry:
    """The registry; enter it to start its server on a loopback port."""

    auth: str = ""  # "", "basic" or "bearer"
    users: dict[str, str] = field(default_factory=lambda: {"ann": "s3cret"})
    anonymous: bool = False  # whether the token endpoint gives pull tokens to all
    identity: str = "refresh-me"
    ranges: bool = True
    expires_in: int | None = None
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    tokens: dict[str, tuple[str, ...]] = field(default_factory=dict)
    log: list[Logged] = field(default_factory=list)
    faults: list[Planned] = field(default_factory=list)
    challenge: str = ""  # replaces the WWW-Authenticate header
    _count: int = 0

    def __enter__(self) -> Self:
        registry = self

        class Bound(Handler):
            pass

        Bound.registry = registry
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def plan(self, method: str, path: str, fault: Fault, times: int = 1) -> None:
        """Let a fault hit the next matching requests."""
        self.faults.append(Planned(method, re.compile(path), fault, times))

    def put_blob(self, repository: str, data: bytes) -> str:
        """Store a blob and give its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[repository, digest] = data
        return digest

    def put_manifest(self, repository: str, tag: str, media_type: str, data: bytes) -> str:
        """Store a manifest under a tag and its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.manifests[repository, tag] = self.manifests[repository, digest] = (media_type, data)
        return digest

    def requests(self, pattern: str = "") -> list[str]:
        """The log as `METHOD path`, those matching a pattern."""
        return [str(entry) for entry in self.log if re.search(pattern, str(entry))]

    def number(self) -> int:
        """A new number for ids."""
        with self.lock:
            self._count += 1
            return self._count


class Handler(BaseHTTPRequestHandler):
    """Serves one connection."""

    protocol_version = "HTTP/1.1"
    registry: FakeRegistry
    cut: int | None
    extra: dict[str, str]
    instead: bytes | None

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def handle(self) -> None:
        """Serve; a peer that goes away is nothing to report."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def finish(self) -> None:
        """Flush; the peer may be gone."""
        try:
            super().finish()
        except OSError:
            self.close_connection = True

    def drain(self) -> None:
        """Read the request's body away."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def break_off(self) -> None:
        """Close with a reset."""
        linger = b"\1\0\0\0\0\0\0\0"
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Send a reply, cut or changed as planned."""
        body = body if self.instead is None else self.instead
        merged = {"Content-Length": str(len(body)), **(headers or {}), **self.extra}
        self.send_response(status)
        for name, value in merged.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and status not in {204, 304}:
            self.wfile.write(body if self.cut is None else body[: self.cut])
        if self.cut is not None:
            self.close_connection = True

    def fail(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        """Send an error of the spec."""
        body = json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
        self.reply(status, body, headers)

    def serve(self) -> None:
        """Serve one request."""
        self.cut, self.extra, self.instead = None, {}, None
        registry = self.registry
        with registry.lock:
            registry.log.append(Logged(self.command, self.path, dict(self.headers.items())))
            hit = None
            for planned in registry.faults:
                if (
                    planned.left
                    and planned.method == self.command
                    and planned.path.search(self.path)
                ):
                    planned.left -= 1
                    hit = planned.fault
                    break
        if hit is not None and hit(self):
            return
        path, _, query = self.path.partition("?")
        if path == "/token":
            self.token(query)
        elif not self.allowed(path):
            self.drain()
            header = registry.challenge or self.default_challenge()
            self.fail(401, "UNAUTHORIZED", {"WWW-Authenticate": header})
        else:
            self.route(path, dict(urllib.parse.parse_qsl(query)))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = serve  # noqa: N815 - http.server

    def default_challenge(self) -> str:
        """What to ask for."""
        if self.registry.auth == "basic":
            return 'Basic realm="fake"'
        return f'Bearer realm="{self.registry.url}/token",service="fake"'

    def allowed(self, path: str) -> bool:
        """Whether the request's authorization is enough."""
        given = self.headers.get("Authorization", "")
        if not self.registry.auth:
            return True
        if self.registry.auth == "basic":
            return self.user(given) is not None
        scopes = self.registry.tokens.get(given.removeprefix("Bearer "))
        if scopes is None:
            return False
        match = re.match(r"/v2/(.+)/(?:blobs|manifests)/", path)
        action = "pull" if self.command in {"GET", "HEAD"} else "push"
        return match is None or any(
            scope.startswith(f"repository:{match[1]}:") and action in scope for scope in scopes
        )

    def user(self, given: str) -> str | None:
        """The user of a Basic header."""
        if not given.startswith("Basic "):
            return None
        name, _, password = base64.b64decode(given[6:]).decode().partition(":")
        return name if self.registry.users.get(name) == password else None

    def token(self, query: str) -> None:
        """Give out a token."""
        size = int(self.headers.get("Content-Length") or 0)
        form = urllib.parse.parse_qs(self.rfile.read(size).decode())
        scopes = urllib.parse.parse_qs(query).get("scope", [])
        if self.command == "POST":
            known = form.get("refresh_token") == [self.registry.identity]
            scopes = form.get("scope", [""])[0].split()
        else:
            known = self.user(self.headers.get("Authorization", "")) is not None
        if not known and not self.registry.anonymous:
            self.fail(401, "UNAUTHORIZED")
            return
        token = f"token-{self.registry.number()}"
        self.registry.tokens[token] = tuple(scopes)
        document: dict[str, Any] = {"token": token}
        if self.registry.expires_in is not None:
            document["expires_in"] = self.registry.expires_in
        self.reply(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def route(self, path: str, query: dict[str, str]) -> None:
        """Find what serves a path."""
        routes: tuple[tuple[str, Callable[..., None]], ...] = (
            (r"/v2/\Z", lambda: self.reply(200, b"{}")),
            (r"/v2/(.+)/blobs/uploads/\Z", lambda name: self.begin(name, query)),
            (r"/v2/(.+)/blobs/uploads/([^/]+)\Z", lambda *found: self.upload(*found, query)),
            (r"/v2/(.+)/blobs/([^/]+)\Z", self.blob),
            (r"/v2/(.+)/manifests/([^/]+)\Z", self.manifest),
        )
        for pattern, serve in routes:
            match = re.match(pattern, path)
            if match is not None:
                serve(*match.groups())
                return
        self.drain()
        self.fail(404, "NOT_FOUND")

    def blob(self, repository: str, digest: str) -> None:
        """Serve a blob, or a range of it."""
        data = self.registry.blobs.get((repository, digest))
        if data is None:
            self.fail(404, "BLOB_UNKNOWN")
            return
        wanted = re.match(r"bytes=(\d+)-\Z", self.headers.get("Range", ""))
        if wanted is None or not self.registry.ranges:
            self.reply(200, data, {"Docker-Content-Digest": digest})
            return
        start = int(wanted[1])
        if start >= len(data):
            self.fail(416, "RANGE_INVALID")
            return
        total = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.reply(206, data[start:], {"Content-Range": total})

    def manifest(self, repository: str, name: str) -> None:
        """Serve or take a manifest; one whose blobs are missing is refused."""
        if self.command == "PUT":
            self.take_manifest(repository, name)
            return
        found = self.registry.manifests.get((repository, name))
        if found is None:
            self.fail(404, "MANIFEST_UNKNOWN")
            return
        digest = f"sha256:{hashlib.sha256(found[1]).hexdigest()}"
        self.reply(200, found[1], {"Content-Type": found[0], "Docker-Content-Digest": digest})

    def take_manifest(self, repository: str, name: str) -> None:
        """Keep a manifest."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        document = json.loads(data)
        parts = [document[key] for key in ("config",) if key in document]
        for part in [*parts, *document.get("layers", [])]:
            if (repository, part["digest"]) not in self.registry.blobs:
                self.fail(400, "MANIFEST_BLOB_UNKNOWN")
                return
        digest = self.registry.put_manifest(repository, name, self.headers["Content-Type"], data)
        self.reply(201, b"", {"Docker-Content-Digest": digest, "Location": self.path})

    def begin(self, repository: str, query: dict[str, str]) -> None:
        """Mount a blob or open an upload."""
        self.drain()
        digest, source = query.get("mount"), query.get("from")
        if digest and (source, digest) in self.registry.blobs:
            self.registry.blobs[repository, digest] = self.registry.blobs[source, digest]
            self.reply(201, b"", {"Docker-Content-Digest": digest, "Location": self.path})
            return
        name = f"u{self.registry.number()}"
        self.registry.uploads[name] = bytearray()
        where = f"/v2/{repository}/blobs/uploads/{name}?_state=a%2Fb"
        self.reply(202, b"", {"Location": where, "Range": "0-0"})

    def upload(self, repository: str, name: str, query: dict[str, str]) -> None:
        """Status, part, end or abort of an upload."""
        upload = self.registry.uploads.get(name)
        size = int(self.headers.get("Content-Length") or 0)
        if upload is None:
            self.drain()
            self.fail(404, "BLOB_UPLOAD_UNKNOWN")
            return
        if self.command == "DELETE":
            del self.registry.uploads[name]
            self.reply(204)
            return
        offered = re.match(r"(\d+)-", self.headers.get("Content-Range", ""))
        if offered is not None and int(offered[1]) != len(upload):
            self.drain()
            self.fail(416, "RANGE_INVALID")
            return
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline() or b"0", 16):
                upload.extend(self.rfile.read(length))
                self.rfile.readline()
            self.rfile.readline()
        while size:
            data = self.rfile.read(min(size, 65536))
            if not data:
                self.close_connection = True
                return
            upload.extend(data)
            size -= len(data)
        self.moved(repository, name, upload, query)

    def moved(self, repository: str, name: str, upload: bytearray, query: dict[str, str]) -> None:
        """Answer a part, a status query or the end."""
        where = f"/v2/{repository}/blobs/uploads/{name}?_state=n{self.registry.number()}"
        if self.command != "PUT":
            status = 202 if self.command == "PATCH" else 204
            reach = f"0-{max(len(upload) - 1, 0)}"
            self.reply(status, b"", {"Location": where, "Range": reach})
            return
        data = bytes(upload)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if "_state" not in query or query.get("digest") != digest:
            self.fail(400, "DIGEST_INVALID")
            return
        del self.registry.uploads[name]
        self.registry.blobs[repository, digest] = data
        self.reply(201, b"", {"Docker-Content-Digest": digest, "Location": self.path})
