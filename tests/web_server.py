"""A web server on 127.0.0.1 for tests: files by range, whatever else a test adds, and the faults of a network."""

import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class WebServer(ThreadingHTTPServer):
    """Serves `files` (path → bytes) by range, and `routes` (path → function of the handler).

    Args:
        files: What there is.
        routes: Paths that answer by themselves.
        faults: What happens to the requests, in their order; None: nothing.
        ranges: Whether it knows ranges.
        slow: Seconds that each request takes.
        headers: What answers with a file say beside their range; an empty text leaves a header out.
    """

    daemon_threads = True

    def __init__(self, files=(), *, routes=(), faults=(), ranges=True, slow=0.0, headers=()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.routes, self.faults = dict(files), dict(routes), list(faults)
        self.ranges, self.slow, self.version, self.headers = ranges, slow, 1, dict(headers)
        self.lock = threading.Lock()
        self.paths, self.now, self.most = [], 0, 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self):
        with self.lock:
            return self.faults.pop(0) if self.faults else None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        with server.lock:
            server.paths.append(self.path)
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(server.slow)
            found = server.fault()
            self.fail(found) if found is not None else self.serve()
        finally:
            with server.lock:
                server.now -= 1

    def do_POST(self):
        self.do_GET()

    def serve(self, cut=False):
        path = urlsplit(self.path).path
        if path in self.server.routes:
            self.server.routes[path](self)
            return
        data = self.server.files.get(path)
        if data is None:
            self.answer(404, b"no such file")
            return
        self.send_part(data, cut=cut)

    def send_part(self, data, headers=(), cut=False):
        first, last = self.range(len(data))
        part = data[first : last + 1]
        headers = {"ETag": f'"{self.server.version}"'} | dict(self.server.headers) | dict(headers)
        headers = {name: value for name, value in headers.items() if value}
        if self.headers.get("Range") and self.server.ranges:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        code = 206 if "Content-Range" in headers else 200
        self.answer(code, part, "application/octet-stream", headers, cut=cut)

    def range(self, size):
        asked = self.headers.get("Range", "")
        if not asked or not self.server.ranges:
            return 0, size - 1
        first, last = asked.removeprefix("bytes=").split("-")
        return int(first), min(int(last), size - 1)

    def fail(self, found):
        if found == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.close_connection = True
            self.connection.close()
        elif found == "hang":
            time.sleep(1.5)
        elif found == "truncated":
            self.serve(cut=True)
        elif isinstance(found, str):  # an address
            self.answer(302, b"", headers={"Location": found})
        else:
            self.answer(found, f"injected {found}".encode(), headers={"Retry-After": "0"})

    def answer(self, code, data, kind="text/plain", headers=None, cut=False):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut


@contextmanager
def web_server(*args, **options):
    """A running server."""
    with running(WebServer(*args, **options)) as server:
        yield server


@contextmanager
def running(server):
    """The server, running until the end."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
