"""Downloads the file of a URL whose host is allowed and whose checksum is known.

A URL is written by a stranger, and the pod that opens it may reach services that the stranger may
not. Therefore each host must be allowed by name, also those of redirects; a host that only a
pattern allows must not have a private address; and the address that was checked is the one that
is connected to, so that a name server cannot give another one in between.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import socket
import ssl
import threading
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import SplitResult, urljoin, urlsplit

from avatar_runtime import errors
from avatar_runtime.tools import public_addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

MAX_REDIRECTS: Final = 3
CONNECT_S: Final = 15.0
STALL_S: Final = 30.0
"""A connection that sends nothing for longer has failed."""
TOTAL_S: Final = 1800.0
AUTHORIZATION: Final = "Authorization"
CHUNK_BYTES: Final = 1 << 18
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_PORTS: Final = {"http": 80, "https": 443}
_MAY_PASS: Final = (408, 425, 429)
"""Statuses of a client's fault after which the same request may succeed."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to download."""

    url: str
    sha256: str
    """In lowercase hexadecimal."""
    max_bytes: int
    hosts: tuple[str, ...]
    """Allowed hosts; `*.example.com` allows all public hosts below it."""


def fetch(request: Request, out: Path) -> int:
    """Download the file, and return its size in bytes. `out` is complete or does not exist.

    Raises:
        FetchError: the URL is not allowed, or the file is another one; permanent.
        FetchFailed: the server did not deliver the file; another attempt may succeed.
    """
    with opened(request.url, request.hosts) as response:
        return _save(response, request, out)


@contextlib.contextmanager
def opened(
    url: str, hosts: tuple[str, ...], headers: Mapping[str, str] = MappingProxyType({})
) -> Iterator[http.client.HTTPResponse]:
    """Request a URL, follow its redirects, and give the response: 200, or 206 to a `Range`.

    `Authorization` is sent to the host of `url` only. The connection breaks after `TOTAL_S`.

    Raises:
        FetchError: a URL is not allowed, or the server says that the request is wrong; permanent.
        FetchFailed: the server does not answer, or not in time; another attempt may succeed.
    """
    with _TimeLimit(TOTAL_S) as limit, contextlib.ExitStack() as open_parts:
        try:
            yield _follow(url, hosts, headers, limit, open_parts)
        except errors.FetchError as error:
            if not limit.passed:
                raise
            fault = f"the download took longer than {TOTAL_S:.0f} s"
            raise errors.FetchFailed(url, fault) from error


def _follow(
    url: str,
    hosts: tuple[str, ...],
    headers: Mapping[str, str],
    limit: _TimeLimit,
    open_parts: contextlib.ExitStack,
) -> http.client.HTTPResponse:
    first = _checked(url, hosts)
    for _ in range(MAX_REDIRECTS + 1):
        parts = _checked(url, hosts)
        same = (parts.scheme, parts.netloc) == (first.scheme, first.netloc)
        sent = {name: text for name, text in headers.items() if same or name != AUTHORIZATION}
        with contextlib.ExitStack() as attempt:
            connection = _connect(parts, hosts, limit)
            attempt.callback(connection.close)
            response = _get(connection, parts, sent)
            attempt.callback(response.close)
            if response.status not in _REDIRECTS:
                open_parts.push(attempt.pop_all())
                return response
            location = response.getheader("Location")
            if not location:
                raise errors.FetchFailed(url, "the redirect names no location")
            url = _joined(url, location)
    raise errors.FetchError(first.geturl(), f"more than {MAX_REDIRECTS} redirects")


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise errors.FetchError(location, str(error)) from error


class _TimeLimit:
    """Breaks the connection when the time is over, wherever it waits then.

    A server that sends one byte in a while meets no time limit of a socket.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self.connection: _Pinned | None = None
        self._timer = threading.Timer(seconds, self._break)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _break(self) -> None:
        self.passed = True
        connection = self.connection
        if connection is not None:
            connection.shut_down()


def is_allowed(host: str, hosts: Collection[str]) -> bool:
    """Return whether a host is on the list, by its name or by a pattern."""
    return host in hosts or any(each.startswith("*.") and host.endswith(each[1:]) for each in hosts)


def _checked(url: str, hosts: Collection[str]) -> SplitResult:
    """Return the parts of a URL.

    Raises:
        FetchError: the URL has another scheme, a user, or a host that is not allowed.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise errors.FetchError(url, str(error)) from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise errors.FetchError(url, "must be an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise errors.FetchError(url, "must not contain a user or a password")
    host = parts.hostname.rstrip(".")
    if not is_allowed(host, hosts):
        listed = ", ".join(sorted(hosts)) or "none"
        raise errors.FetchError(url, f"host {host} is not among the allowed hosts: {listed}")
    if port == 0:
        raise errors.FetchError(url, "port is 0, must be from 1 to 65535")
    return parts


def _connect(parts: SplitResult, hosts: Collection[str], limit: _TimeLimit) -> _Pinned:
    """Return a connection to an address of the host that was checked."""
    host = str(parts.hostname).rstrip(".")
    port = parts.port or _PORTS[parts.scheme]
    address = _address(host, port, named=host in hosts)
    kind = _PinnedHTTPS if parts.scheme == "https" else _Pinned
    limit.connection = kind(host, port, address, limit)
    return limit.connection


def _address(host: str, port: int, *, named: bool) -> str:
    """Return an address of a host whose addresses are all allowed.

    Raises:
        FetchError: an address is not allowed, or the host is no name.
        FetchFailed: the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise errors.FetchFailed(host, f"the name does not resolve: {error.strerror}") from error
    except UnicodeError as error:
        raise errors.FetchError(host, "is not the name of a host") from error
    addresses = [str(each[4][0]) for each in found]
    if fault := public_addresses.fault(host, addresses, named=named):
        raise errors.FetchError(host, fault)
    return addresses[0]


class _Pinned(http.client.HTTPConnection):
    """A connection to one address, with the name of the host in its requests."""

    def __init__(self, host: str, port: int, address: str, limit: _TimeLimit) -> None:
        super().__init__(host, port, timeout=STALL_S)
        self._address = address
        self._limit = limit
        self._reached: socket.socket | None = None

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), CONNECT_S)
        self.sock.settimeout(STALL_S)
        self._reach(self.sock)

    def _reach(self, reached: socket.socket) -> None:
        self._reached = reached
        if self._limit.passed:
            raise TimeoutError("the time is over")

    def shut_down(self) -> None:
        """End all reading and writing, from another thread."""
        if self._reached is not None:
            with contextlib.suppress(OSError):
                self._reached.shutdown(socket.SHUT_RDWR)


class _PinnedHTTPS(_Pinned):
    """The same with TLS: the certificate must be that of the host."""

    default_port = 443

    def connect(self) -> None:
        super().connect()
        context = ssl.create_default_context()
        self.sock = context.wrap_socket(
            self.sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        self._reach(self.sock)
        self.sock.do_handshake()


def _get(
    connection: http.client.HTTPConnection, parts: SplitResult, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    """Send the request, and return the response: 200, 206 to a `Range`, or a redirect.

    Raises:
        FetchError: the server says that the request is wrong.
        FetchFailed: there is none.
    """
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    url = parts.geturl()
    try:
        connection.request("GET", target, headers={"Accept-Encoding": "identity", **headers})
        response = connection.getresponse()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise errors.FetchFailed(url, f"no response: {error}") from error
    expected = (200, 206) if "Range" in headers else (200,)
    if response.status not in (*expected, *_REDIRECTS):
        response.close()  # it has the socket, which the connection does not close then
        wrong = 400 <= response.status < 500 and response.status not in _MAY_PASS
        kind = errors.FetchError if wrong else errors.FetchFailed
        raise kind(url, f"status is {response.status}, must be 200")
    return response


def _save(response: http.client.HTTPResponse, request: Request, out: Path) -> int:
    """Write the body while it is hashed, and return its size."""
    check_size(request.url, declared_size(response) or 0, request.max_bytes)
    partial = out.with_name(f".{out.name}.part")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as file:

            def write(chunk: bytes) -> None:
                digest.update(chunk)
                file.write(chunk)

            size = copy_body(response, request.url, request.max_bytes, write)
        if digest.hexdigest() != request.sha256:
            fault = f"its SHA-256 is {digest.hexdigest()}, must be {request.sha256}"
            raise errors.FetchError(request.url, fault)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return size


def declared_size(response: http.client.HTTPResponse) -> int | None:
    """Return how many bytes the server says that a body has, None if it does not say."""
    text = response.getheader("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def check_size(url: str, size: int, max_bytes: int) -> None:
    """Refuse a file that is too large.

    Raises:
        FetchError: it is.
    """
    if size > max_bytes:
        raise errors.FetchError(
            url, f"its size is {size} bytes or more, must be at most {max_bytes}"
        )


def copy_body(
    response: http.client.HTTPResponse,
    url: str,
    max_bytes: int,
    write: Callable[[bytes], object],
    have: int = 0,
) -> int:
    """Pass a body to `write` in parts, and return its size; `have` bytes came before it.

    Raises:
        FetchError: the file is larger than `max_bytes`.
        FetchFailed: the connection broke, or ended early.
    """
    size = 0
    while chunk := _read(response, url):
        size += len(chunk)
        check_size(url, have + size, max_bytes)
        write(chunk)
    expected = declared_size(response)
    if expected is not None and size < expected:
        raise errors.FetchFailed(url, f"{size} of {expected} bytes arrived")
    return size


def _read(response: http.client.HTTPResponse, url: str) -> bytes:
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise errors.FetchFailed(url, f"the connection broke: {error}") from error
