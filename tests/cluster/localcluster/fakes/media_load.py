"""Callers and pods at the two ends of a proxy, in one process: they talk as a live session does.

Each pod sends video and sound at their rates, each caller sends sound; nothing is rendered or
played. Both ends use plain sockets, so that one process carries some hundred sessions beside the
proxy that is measured. The process prints `open` when all sessions are open, waits for a line on
its standard input, counts for a time, and prints what arrived as one line of JSON.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import heapq
import json
import random
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Final

VIDEO: Final = (25.0, 15_000)
"""Messages a second, and bytes of each."""
SPEECH: Final = (10.0, 6_500)
"""100 ms of 24 kHz PCM in base64, with the fields of its event."""
MICROPHONE: Final = (10.0, 6_500)
READ_BYTES: Final = 256 * 1024
MAX_UNSENT_BYTES: Final = 64 * 1024
"""Beyond that, messages are left out: the machine is too slow for the load."""
SENDS_PER_TURN: Final = 50
OPEN_S: Final = 30.0
OPEN_AT_ONCE: Final = 20
_STAMP: Final = 8
_MASK: Final = bytes(4)
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass
class Counts:
    """What arrived since the counting began."""

    messages: int = 0
    size: int = 0
    delays_ns: list[int] = field(default_factory=list)
    late_ns: list[int] = field(default_factory=list)
    """How late messages were sent: what this process itself adds to a delay."""


class End:
    """One end of a session: a caller, or a pod."""

    def __init__(self, connection: socket.socket, load: Load, *, is_pod: bool) -> None:
        self.connection = connection
        self.is_open = False
        self._is_pod = is_pod
        self._load = load
        self._received = bytearray()
        self._unsent = b""
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        load.selector.register(connection, selectors.EVENT_READ, self)

    def send(self, data: bytes) -> None:
        """Write; what the system does not take leaves with the next call, if it is not much."""
        if len(self._unsent) > MAX_UNSENT_BYTES:
            data = b""
        data = self._unsent + data
        try:
            sent = self.connection.send(data)
        except BlockingIOError:
            sent = 0
        self._unsent = data[sent:]

    def read(self) -> None:
        """Take what arrived."""
        size = self.connection.recv_into(self._load.buffer)
        if not size:
            raise SystemExit("the proxy closed a connection")
        self._received += self._load.buffer[:size]
        if not self.is_open:
            self._read_handshake()
        self._read_frames(time.monotonic_ns())

    def _read_handshake(self) -> None:
        head, found, rest = bytes(self._received).partition(b"\r\n\r\n")
        if not found:
            return
        if self._is_pod:
            lines = head.split(b"\r\n")
            key = next(
                line.partition(b":")[2].strip()
                for line in lines
                if line.lower().startswith(b"sec-websocket-key:")
            )
            accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
            self.connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n" % accept
            )
        elif b" 101 " not in head.split(b"\r\n")[0]:
            raise SystemExit(head.decode())
        self._received[:] = rest
        self.is_open = True
        self._load.opened(self, is_pod=self._is_pod)

    def _read_frames(self, now: int) -> None:
        received, counts, at = self._received, self._load.counts, 0
        while self.is_open and len(received) - at >= 4:
            mask, length = 4 if self._is_pod else 0, received[at + 1] & 0x7F
            assert length <= 126, "no message has a length of 64 bits"
            is_message = length == 126  # otherwise it is a ping of the proxy
            start = at + (4 if is_message else 2) + mask
            if is_message:
                length = int.from_bytes(received[at + 2 : at + 4], "big")
            end = start + length
            if end > len(received):
                break
            if not is_message:
                at = end
                continue
            counts.messages += 1
            counts.size += end - at
            stamp = int.from_bytes(received[start : start + _STAMP], "big")
            counts.delays_ns.append(now - stamp)
            at = end
        del received[:at]


class Load:
    """All sessions, and the time at which each sends its next message."""

    def __init__(self, port: int, sessions: int, seed: int) -> None:
        self.selector = selectors.EpollSelector()
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.counts = Counts()
        self.callers = self.pods = 0
        self._sessions = sessions
        self._random = random.Random(seed)
        self._due: list[tuple[int, int, End, int, bytes]] = []
        self._listener = socket.create_server(("0.0.0.0", port), backlog=1024)
        self._listener.setblocking(False)
        self.selector.register(self._listener, selectors.EVENT_READ)

    def call_all(self, host: str, port: int, paths: list[str], key: str) -> None:
        """Open all sessions."""
        deadline = time.monotonic() + OPEN_S
        for number in range(self._sessions):
            end = End(socket.create_connection((host, port)), self, is_pod=False)
            end.connection.sendall(
                f"GET {paths[number % len(paths)]} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\napi-key: {key}\r\n\r\n".encode()
            )
            while number + 1 - self.callers >= OPEN_AT_ONCE:
                self._turn(deadline)
        while min(self.callers, self.pods) < self._sessions:
            self._turn(deadline)

    def opened(self, end: End, *, is_pod: bool) -> None:
        """Let an end send from now on."""
        self.pods += is_pod
        self.callers += not is_pod
        for rate, size in (VIDEO, SPEECH) if is_pod else (MICROPHONE,):
            period = round(1e9 / rate)
            length = (size).to_bytes(2, "big")
            head = b"\x82\x7e" + length if is_pod else b"\x82\xfe" + length + _MASK
            first = time.monotonic_ns() + self._random.randrange(period)
            heapq.heappush(self._due, (first, len(self._due), end, period, head + bytes(size)))

    def run(self, seconds: float) -> None:
        """Send and receive for a time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._turn()

    def _turn(self, deadline: float | None = None) -> None:
        if deadline is not None and time.monotonic() > deadline:
            raise SystemExit(f"only {self.callers} callers and {self.pods} pods are connected")
        now = time.monotonic_ns()
        for _ in range(SENDS_PER_TURN):
            if not self._due or self._due[0][0] > now:
                break
            due, order, end, period, frame = heapq.heappop(self._due)
            start = 4 if frame[1] == 0x7E else 8
            end.send(frame[:start] + now.to_bytes(_STAMP, "big") + frame[start + _STAMP :])
            self.counts.late_ns.append(now - due)
            following = max(due + period, now)
            heapq.heappush(self._due, (following, order, end, period, frame))
            now = time.monotonic_ns()
        wait = min(0.05, max(0.0, (self._due[0][0] - now) / 1e9)) if self._due else 0.05
        for key, _ in self.selector.select(wait):
            if key.data is None:
                End(self._listener.accept()[0], self, is_pod=True)
            else:
                key.data.read()


def _percentile_ms(samples: list[int], share: float) -> float:
    ordered = sorted(samples)
    return round(ordered[round(share * (len(ordered) - 1))] / 1e6, 3) if ordered else 0.0


def main() -> None:
    """Open the sessions, wait for a line, and report what arrives in a time."""
    parser = argparse.ArgumentParser(prog="localcluster.fakes.media_load", description=__doc__)
    parser.add_argument("--listen", type=int, required=True, help="the port of the pods")
    parser.add_argument("--to", required=True, help="HOST:PORT of the proxy")
    parser.add_argument("--path", action="append", required=True, help="used in turn")
    parser.add_argument("--key", default="none", help="the API key")
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warm-up-s", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    host, _, port = options.to.rpartition(":")
    load = Load(options.listen, options.sessions, options.seed)
    load.call_all(host, int(port), options.path, options.key)
    load.run(options.warm_up_s)
    print("open", flush=True)
    sys.stdin.readline()
    load.counts = counts = Counts()
    load.run(options.seconds)
    report = {
        "messages": counts.messages,
        "bytes": counts.size,
        "delay_ms": {
            "p50": _percentile_ms(counts.delays_ns, 0.5),
            "p99": _percentile_ms(counts.delays_ns, 0.99),
        },
        "late_ms": {"p99": _percentile_ms(counts.late_ns, 0.99)},
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
