from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts import list_watch
from avatar_contracts.backoff import Backoff
from avatar_contracts.list_watch import (
    EventReader,
    ExpiredError,
    ListWatchError,
    Reflector,
    read_page,
    watch_query,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Event = tuple[str, dict[str, Any]]


def test_page_has_items_version_and_token() -> None:
    item = {"metadata": {"name": "a"}}
    page = read_page({"items": [item], "metadata": {"resourceVersion": "7", "continue": "t"}})
    assert (page.items, page.version, page.token) == ([item], "7", "t")
    assert read_page({"items": [], "metadata": {}}) == list_watch.Page([], "", "")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"items": None, "metadata": {}},
        {"items": []},
        {"items": [7], "metadata": {}},
        {"items": [{}], "metadata": {}},
        {"items": [{"metadata": []}], "metadata": {}},
    ],
)
def test_document_that_is_not_a_list_is_rejected(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="list"):
        read_page(document)


def test_query_of_a_watch_asks_for_bookmarks() -> None:
    assert watch_query("7", {"labelSelector": "a=b"}) == {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": "7",
        "labelSelector": "a=b",
    }


@given(sizes=st.lists(st.integers(1, 40), min_size=1), names=st.lists(st.text(max_size=5)))
def test_events_are_the_same_however_they_are_cut(sizes: list[int], names: list[str]) -> None:
    events = [("ADDED", {"metadata": {"name": name}}) for name in names]
    data = b"".join(json.dumps({"type": t, "object": o}).encode() + b"\n" for t, o in events)
    reader, found, at = EventReader(), list[Event](), 0
    while at < len(data):
        size = sizes[at % len(sizes)]
        found += reader.feed(data[at : at + size])
        at += size
    assert found == events


@pytest.mark.parametrize("line", [b"<html>", b"7", b"[" * 100_000], ids=["html", "number", "deep"])
def test_unreadable_event_is_empty(line: bytes) -> None:
    assert EventReader().feed(line + b"\n\n") == [("", {})]


def test_event_without_an_object_has_an_empty_one() -> None:
    assert EventReader().feed(b'{"type": "ADDED", "object": 7}\n') == [("ADDED", {})]


def test_endless_event_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_watch, "LONGEST_EVENT", 10)
    reader = EventReader()
    assert reader.feed(b"0123456789") == []
    with pytest.raises(ValueError, match="longer than 10 bytes"):
        reader.feed(b"0")


class _Server:
    """Plays one script: what each list and each watch answers."""

    def __init__(self, *steps: str | list[Event] | Exception) -> None:
        self.steps = list(steps)
        self.calls: list[str] = []
        self.events: list[Event] = []
        self.finished = asyncio.Event()

    async def _next(self, call: str) -> Any:
        self.calls.append(call)
        if not self.steps:
            self.finished.set()
            await asyncio.Event().wait()
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def list(self) -> str:
        return str(await self._next("list"))

    async def watch(self, version: str) -> AsyncIterator[Event]:
        for event in await self._next(f"watch {version}"):
            yield event

    def on_event(self, event_type: str, body: dict[str, Any]) -> None:
        self.events.append((event_type, body))

    def on_interrupted(self) -> None:
        self.calls.append("interrupted")


def _event(version: str, event_type: str = "ADDED") -> Event:
    return event_type, {"metadata": {"resourceVersion": version}}


async def _play(server: _Server, relist_s: float = 1e9) -> Reflector:
    reflector = Reflector("pods", server, Backoff(0.001, 0.002, lambda: 1.0), relist_s)
    task = asyncio.create_task(reflector.run())
    async with asyncio.timeout(5):
        await server.finished.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return reflector


async def test_next_watch_continues_from_the_last_version() -> None:
    server = _Server("5", [_event("6"), _event("9", "BOOKMARK")], [_event("10", "DELETED")])
    reflector = await _play(server)
    assert server.calls == ["list", "watch 5", "interrupted", "watch 9", "interrupted", "watch 10"]
    assert [event_type for event_type, _ in server.events] == ["ADDED", "BOOKMARK", "DELETED"]
    assert reflector.synced.is_set()


async def test_failed_watch_continues_from_the_version_that_it_reached() -> None:
    class Broken(_Server):
        async def watch(self, version: str) -> AsyncIterator[Event]:
            async for event in super().watch(version):
                yield event
            if version == "5":
                raise ListWatchError("the connection broke")

    server = Broken("5", [_event("6")], [])
    await _play(server)
    assert server.calls == ["list", "watch 5", "interrupted", "watch 6", "interrupted", "watch 6"]


@pytest.mark.parametrize(
    "step",
    [
        ExpiredError("410"),
        [("ERROR", {"code": 410, "message": "too old", "metadata": {}})],
        [("", {})],
        [("ADDED", {})],
    ],
    ids=["status", "event", "unreadable", "no metadata"],
)
async def test_expired_version_causes_a_list(step: list[Event] | Exception) -> None:
    server = _Server("5", step, "20", [])
    await _play(server)
    assert server.calls[:5] == ["list", "watch 5", "interrupted", "list", "watch 20"]
    assert server.events == []


async def test_failed_list_is_tried_again() -> None:
    server = _Server(ListWatchError("500"), "5", [])
    await _play(server)
    assert server.calls[:4] == ["list", "interrupted", "list", "watch 5"]


async def test_objects_are_listed_again_after_the_interval() -> None:
    server = _Server("5", [_event("6")], "8", [])
    await _play(server, relist_s=0)
    assert server.calls[:5] == ["list", "watch 5", "interrupted", "list", "watch 8"]


async def test_delay_that_the_server_asks_for_is_kept() -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    server = _Server(ListWatchError("429", delay_s=0.1), "5")
    await _play(server)
    assert loop.time() - started >= 0.1
