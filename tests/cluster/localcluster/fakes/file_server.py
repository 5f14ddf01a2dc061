"""A real HTTP server of a few files that can be slow, cut connections, redirect and lie."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class FileServer:
    """The files of the server by path, and how it serves them."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Path and `Range` of each request."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes that were sent, by path."""
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """By path: after how many bytes the next responses end."""
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """By path: statuses of the next responses."""
    redirects: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    authorizations: set[str] = field(default_factory=set)
    gate: threading.Event | None = None
    """Bodies after the manifest wait for it."""
    waiting: threading.Event = field(default_factory=threading.Event)
    """Set when a body waits."""
    declared: dict[str, int] = field(default_factory=dict)
    """By path: another Content-Length than the true one."""
    bytes_per_s: float = 0.0
    """Rate of a slow network; 0: unlimited."""
    stopped: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def add_folder(self, folder: Path, below: str) -> None:
        """Serve the files of a folder; `below` is their path, with a slash at its end."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.files[below + str(path.relative_to(folder))] = path.read_bytes()

    def add_manifest(self, folder: str, name: str = "SHA256SUMS") -> str:
        """Add the output of sha256sum for the files below a folder; return its SHA-256."""
        lines = [
            f"{hashlib.sha256(data).hexdigest()}  {path.removeprefix(folder)}\n"
            for path, data in sorted(self.files.items())
            if path.startswith(folder)
        ]
        content = "".join(lines).encode()
        self.files[folder + name] = content
        return hashlib.sha256(content).hexdigest()

    def serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one GET."""
        path, wanted = handler.path, handler.headers.get("Range", "")
        self.requests.append((path, wanted))
        self.authorizations.add(handler.headers.get("Authorization", ""))
        statuses = self.statuses.get(path)
        if path in self.redirects:
            handler.send_response(302)
            handler.send_header("Location", self.redirects[path])
            handler.end_headers()
        elif statuses or path not in self.files:
            handler.send_error(statuses.pop(0) if statuses else 404)
        else:
            with contextlib.suppress(OSError):
                self._send(handler, path, wanted)

    def _send(self, handler: http.server.BaseHTTPRequestHandler, path: str, wanted: str) -> None:
        data = self.files[path]
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if begin and begin >= len(data):
            handler.send_error(416)
            return
        handler.send_response(206 if begin else 200)
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(self.declared.get(path, len(data) - begin)))
        handler.end_headers()
        if self.gate is not None and not path.endswith("SHA256SUMS"):
            self.waiting.set()
            self.gate.wait(60)
        cuts = self.cut_after.get(path)
        body = data[begin : begin + cuts.pop(0)] if cuts else data[begin:]
        step = max(1, int(self.bytes_per_s / 10)) if self.bytes_per_s else max(1, len(body))
        for at in range(0, len(body), step):
            handler.wfile.write(body[at : at + step])
            self.sent[path] += len(body[at : at + step])
            if self.bytes_per_s:
                self.stopped.wait(0.1)


@contextlib.contextmanager
def running() -> Iterator[FileServer]:
    """Run a server on the loopback address."""
    found = FileServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.serve(self)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        found.stopped.set()
        server.shutdown()
