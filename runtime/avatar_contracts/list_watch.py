"""Lists the objects of a kind and then watches them, as the Kubernetes API defines it.

The operator, the gateway and the local cluster of the tests follow the API server by this
module. Each has its own connection and its own error classes; what is the same is here:
reading the pages of a list, reading the events of a watch, and the order of both (`Reflector`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

from avatar_contracts.documents import parse_object, take_lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from avatar_contracts.backoff import Backoff

LONGEST_EVENT: Final = 16 << 20
"""Bytes; etcd stores no object of 2 MiB or more."""

BOOKMARK: Final = "BOOKMARK"
DELETED: Final = "DELETED"
_WITH_VERSION: Final = frozenset({"ADDED", "MODIFIED", DELETED, BOOKMARK})

_log = logging.getLogger(__name__)


class ListWatchError(Exception):
    """A list or a watch failed; `delay_s` is how long the server asked to wait."""

    def __init__(self, message: str, delay_s: float = 0.0) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class ExpiredError(ListWatchError):
    """A watch cannot continue from its version, so the objects are listed again."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list."""

    items: list[dict[str, Any]]
    version: str
    """resourceVersion of the whole list; a watch continues from it."""
    token: str
    """The `continue` parameter of the next page; empty for the last page."""


def read_page(document: Mapping[str, Any]) -> Page:
    """Read the response to a list request.

    Raises:
        ValueError: the document is not a list of objects.
    """
    items, metadata = document.get("items"), document.get("metadata")
    if not isinstance(items, list) or not isinstance(metadata, dict):
        raise ValueError("the response is not a list")
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("metadata"), dict):
            raise ValueError("an item of the list is not an object with metadata")
    version, token = metadata.get("resourceVersion"), metadata.get("continue")
    return Page(items, str(version or ""), str(token or ""))


def watch_query(version: str, selectors: Mapping[str, str]) -> dict[str, str]:
    """Return the query parameters of a watch from a version."""
    return {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        **selectors,
    }


class EventReader:
    """Splits the chunks of a watch response into events.

    It reads chunks and not lines: one chunk may hold many short events, and an object may be longer
    than the longest line of an HTTP library.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[tuple[str, dict[str, Any]]]:
        """Return the type and the object of each event that this chunk completes.

        An event that is not readable has an empty type and an empty object.

        Raises:
            ValueError: an event is longer than `LONGEST_EVENT`.
        """
        self._rest += chunk
        events = [_read_event(line) for line in take_lines(self._rest) if line.strip()]
        if len(self._rest) > LONGEST_EVENT:
            raise ValueError(f"an event is longer than {LONGEST_EVENT} bytes")
        return events


def _read_event(line: bytearray) -> tuple[str, dict[str, Any]]:
    try:
        event = parse_object(line)
    except ValueError:
        return "", {}
    body = event.get("object")
    return str(event.get("type")), body if isinstance(body, dict) else {}


class ListWatch(Protocol):
    """The objects of one kind: how to list and to watch them, and who receives them."""

    async def list(self) -> str:
        """Read the whole list, handle its objects, and return its version.

        Raises:
            ListWatchError: the list was not read to its end.
        """
        ...

    def watch(self, version: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield the events of one watch after a version, until the server ends it.

        Raises:
            ListWatchError: the watch failed; `ExpiredError` if its version is too old.
        """
        ...

    def on_event(self, event_type: str, body: dict[str, Any]) -> None:
        """Handle `ADDED`, `MODIFIED`, `DELETED` or `BOOKMARK`.

        Raises:
            ListWatchError: the object is not usable.
        """
        ...

    def on_interrupted(self) -> None:
        """Handle the end of a watch, whatever its cause, before the next one."""
        ...


class Reflector:
    """Follows the objects of one kind: one list, then watches from its version.

    A watch that ends is followed by another one from the last version. The objects are listed again
    only if the version has expired, and after `relist_s`.
    """

    def __init__(
        self, name: str, source: ListWatch, backoff: Backoff, relist_s: float = inf
    ) -> None:
        """`name` appears in the log."""
        self.synced = asyncio.Event()
        """Set after the first list."""
        self._name = name
        self._source = source
        self._backoff = backoff
        self._relist_s = relist_s
        self._relist_at = inf

    async def run(self) -> None:
        """List and watch until cancelled; no answer of the server ends it."""
        version = ""
        while True:
            delay_s = 0.0
            try:
                version = await self._follow(version)
            except ExpiredError as error:
                version = ""
                _log.info("watch expired, listing again kind=%s fault=%s", self._name, error)
            except ListWatchError as error:
                version, delay_s = self._version, error.delay_s
                _log.info("watch ended kind=%s fault=%s", self._name, error)
            self._source.on_interrupted()
            await asyncio.sleep(self._backoff.next_s(delay_s))

    async def _follow(self, version: str) -> str:
        """List if there is no version, then watch; return the version that was reached."""
        self._version = version
        loop = asyncio.get_running_loop()
        if not version or loop.time() >= self._relist_at:
            self._version = ""
            self._version = await self._source.list()
            self._relist_at = loop.time() + self._relist_s
            self.synced.set()
        async for event_type, body in self._source.watch(self._version):
            self._version = _version(event_type, body)
            self._source.on_event(event_type, body)
            self._backoff.reset()
        return self._version


def _version(event_type: str, body: Mapping[str, Any]) -> str:
    """Return the version that a watch has reached.

    Raises:
        ExpiredError: the watch reports an error, usually that its version has expired (410).
    """
    metadata = body.get("metadata")
    if event_type not in _WITH_VERSION or not isinstance(metadata, dict):
        raise ExpiredError(f"received type={event_type} message={body.get('message')}")
    return str(metadata.get("resourceVersion") or "")
