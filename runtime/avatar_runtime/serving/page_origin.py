"""Decides whether a request comes from the page of this runtime, in a browser on this machine.

Any website may send requests to a loopback address, and a DNS name of that website may resolve to
it. So the name in `Host` must be a loopback name, and `Origin` must be the page's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from avatar_contracts import environment
from avatar_runtime.errors import Rejection

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHOWN: Final = 64  # characters of a wrong value


def check_host(headers: Mapping[str, str]) -> None:
    """Check that the client used a loopback name for this machine.

    Raises:
        Rejection: with status 403, if it used another name.
    """
    host = headers.get("host", "")
    if not is_loopback(host):
        message = f"Host is {host[:_SHOWN]!r}, must be localhost or a loopback address"
        raise Rejection(403, 1008, "forbidden_host", message)


def check_origin(headers: Mapping[str, str]) -> None:
    """Check that the page of this runtime sent the request.

    Raises:
        Rejection: with status 403, if it was another page or another program.
    """
    check_host(headers)
    own, origin = f"http://{headers['host']}", headers.get("origin", "")
    if origin.lower() != own.lower():
        message = f"Origin is {origin[:_SHOWN]!r}, must be {own!r}: use the page of this runtime"
        raise Rejection(403, 1008, "forbidden_origin", message)


def is_loopback(host: str) -> bool:
    """Return whether `HOST` or `HOST:PORT` can only mean this machine."""
    try:
        return environment.is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False
