"""Files over http on loopback: what it was asked for, and validators on demand."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODIFIED = "Sun, 13 Sep 2020 12:26:40 GMT"  # 1600000000


class FileServer:
    """Serves `files` by path; `requests` has the paths that were answered with a body."""

    def __init__(self):
        self.files = {}
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                data = outer.files.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                tag = f'"{hash(data)}"'
                if self.headers.get("If-None-Match") == tag:
                    self.send_response(304)
                    self.end_headers()
                    return
                outer.requests.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("ETag", tag)
                self.send_header("Last-Modified", MODIFIED)
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def file_server():
    """A server for a test."""
    server = FileServer()
    try:
        yield server
    finally:
        server.close()
