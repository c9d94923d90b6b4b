"""Real git repositories over smart HTTP on loopback: a small server around `git http-backend`."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_IDENTITY = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "c", "GIT_COMMITTER_EMAIL": "c@example.com",
    "GIT_AUTHOR_DATE": "1600000000 +0000", "GIT_COMMITTER_DATE": "1600000000 +0000",
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ALLOW_PROTOCOL": "file:http", "PATH": os.environ["PATH"], "HOME": os.devnull,
}  # fmt: skip


class GitServer:
    """Serves the repositories below a directory; `requests` has the paths that it was asked for."""

    def __init__(self, root):
        self.root = Path(root)
        self.requests = []
        self.wants = []  # bodies that asked for objects
        self.protocol = None  # the protocol to speak whatever is asked for
        self.tokens = []
        self.needed = ""
        self.redirects = {}  # repositories that moved, and where to
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def log_message(self, *args):
                pass

            def do_GET(self):
                outer.answer(self, b"")

            def do_POST(self):
                outer.answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def answer(self, handler, body):
        """Hand a request to git's own CGI program."""
        path, _, query = handler.path.partition("?")
        self.requests.append(handler.path)
        if b"want " in body:
            self.wants.append(body)
        self.tokens.append(handler.headers.get("Authorization", ""))
        if self.needed and self.tokens[-1] != self.needed:
            handler.send_response(401)
            handler.send_header("WWW-Authenticate", 'Basic realm="git"')
            handler.end_headers()
            return
        repository, _, rest = handler.path.partition("/info/refs")
        if repository in self.redirects:
            handler.send_response(301)
            handler.send_header("Location", f"{self.redirects[repository]}/info/refs{rest}")
            handler.end_headers()
            return
        environ = {
            **_IDENTITY,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": handler.command,
            "CONTENT_TYPE": handler.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": handler.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self._protocol(handler),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, capture_output=True, env=environ, check=False
        )
        head, _, rest = done.stdout.partition(b"\r\n\r\n")
        fields = [line.partition(": ") for line in head.decode().split("\r\n")]
        status = next((value for name, _, value in fields if name == "Status"), "200")
        handler.send_response(int(status.split()[0]))
        for name, _, value in fields:
            if name != "Status":
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(rest)

    def _protocol(self, handler):
        asked = handler.headers.get("Git-Protocol", "")
        return asked if self.protocol is None else self.protocol

    def close(self):
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Repo:
    """A repository with a work tree, served from its `.git` as NAME.git."""

    def __init__(self, server, name, *args):
        self.server = server
        self.path = server.root / name
        self.url = f"{server.url}/{name}.git"
        self.path.mkdir(parents=True)
        self.git("init", "-q", "-b", "main", *args)
        self.git("config", "uploadpack.allowAnySHA1InWant", "true")
        (server.root / f"{name}.git").symlink_to(self.path / ".git")

    def git(self, *args, **kwargs):
        """Run git in it."""
        done = subprocess.run(
            ["git", *args], cwd=self.path, env=_IDENTITY, capture_output=True, check=True, **kwargs
        )
        return done.stdout.decode("utf-8", "surrogateescape").strip()

    def commit(self, files, message="m"):
        """Write files (None removes one) and commit; gives the commit."""
        for name, text in files.items():
            place = self.path / name
            if text is None:
                place.unlink()
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(text if isinstance(text, bytes) else text.encode())
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def tree(self, entries):
        """Write a tree as it is, whatever git thinks of it; (mode, name, object) each."""
        data = b"".join(
            f"{mode:o} ".encode() + name + b"\0" + bytes.fromhex(sha) for mode, name, sha in entries
        )
        return self.git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", input=data)

    def blob(self, data):
        """Write a blob."""
        return self.git("hash-object", "-w", "--stdin", input=data)

    def commit_tree(self, tree):
        """Make main a commit of a tree."""
        commit = self.git("commit-tree", tree, "-m", "m")
        self.git("update-ref", "refs/heads/main", commit)
        return commit


@contextmanager
def git_server(root):
    """Serve for the length of a block."""
    root.mkdir(parents=True, exist_ok=True)
    server = GitServer(root)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def redirecting(where):
    """A server whose every reply leads to what `where(path)` says, or is a 404 for None."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            server.tokens.append(self.headers.get("Authorization", ""))
            place = where(self.path)
            self.send_response(404 if place is None else 302)
            if place is not None:
                self.send_header("Location", place)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.tokens = []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
