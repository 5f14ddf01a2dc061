"""The bounds, the messages and the pauses of lists and watches."""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import TYPE_CHECKING, Any

import pytest

from avatar_contracts import list_watch
from avatar_contracts.backoff import Backoff
from avatar_contracts.list_watch import (
    LONGEST_EVENT,
    EventReader,
    ExpiredError,
    ListWatchError,
    Reflector,
    read_page,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Event = tuple[str, dict[str, Any]]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"items": [], "metadata": None}, "the response is not a list"),
        ({"items": {}, "metadata": {}}, "the response is not a list"),
        (
            {"items": [{"metadata": {}}, {}], "metadata": {}},
            "an item of the list is not an object with metadata",
        ),
        ({"items": ["a"], "metadata": {}}, "an item of the list is not an object with metadata"),
    ],
)
def test_a_wrong_list_is_named(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        read_page(document)


def test_numbers_in_metadata_are_read_as_text() -> None:
    page = read_page({"items": [], "metadata": {"resourceVersion": 7, "continue": None}})
    assert (page.version, page.token) == ("7", "")


def test_an_event_has_16_mib_at_most() -> None:
    assert LONGEST_EVENT == 16_777_216


def test_many_short_events_may_be_longer_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_watch, "LONGEST_EVENT", 10)
    assert EventReader().feed(b'{"a":1}\n \n{"a":2}\n0123456789') == [("None", {})] * 2


def test_a_failure_has_no_delay_unless_the_server_asks_for_one() -> None:
    assert ListWatchError("x").delay_s == 0.0
    assert ListWatchError("x", 2.5).delay_s == 2.5
    assert str(ExpiredError("x")) == "x"


class Script:
    """Answers with one step for each call, then cancels the reflector."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.calls: list[str] = []
        self.reject = ""

    def next_step(self, call: str) -> Any:
        self.calls.append(call)
        if not self.steps:
            raise asyncio.CancelledError
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def list(self) -> str:
        return str(self.next_step("list"))

    async def watch(self, version: str) -> AsyncIterator[Event]:
        for step in self.next_step(f"watch {version}"):
            if isinstance(step, Exception):
                raise step
            yield "ADDED", {"metadata": {"resourceVersion": step}}

    def on_event(self, _event_type: str, body: dict[str, Any]) -> None:
        if body["metadata"]["resourceVersion"] == self.reject:
            raise ListWatchError("the object is not usable")

    def on_interrupted(self) -> None:
        self.calls.append("interrupted")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: self.now)
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


async def play(
    monkeypatch: pytest.MonkeyPatch, script: Script, relist_s: float = inf
) -> tuple[Reflector, list[float]]:
    reflector = Reflector("pods", script, Backoff(1.0, 8.0, lambda: 1.0), relist_s)
    with monkeypatch.context() as patched:
        clock = Clock(patched)
        with pytest.raises(asyncio.CancelledError):
            await reflector.run()
    return reflector, clock.pauses


async def test_each_failure_in_a_row_doubles_the_pause_and_an_event_ends_the_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = ListWatchError("broken")
    script = Script(broken, broken, "5", broken, ["6", broken], broken)
    _, pauses = await play(monkeypatch, script)
    plain = Backoff(1.0, 8.0, lambda: 1.0)
    row = [plain.next_s(0.0) for _ in range(3)]
    assert row[0] < row[1] < row[2]
    assert pauses == [*row, row[0], row[1]]


async def test_the_delay_of_the_server_holds_for_one_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(ListWatchError("429", 30.0), "5", ["6"], ["7"])
    _, pauses = await play(monkeypatch, script)
    plain = Backoff(1.0, 8.0, lambda: 1.0)
    assert pauses[0] == plain.next_s(30.0) >= 30.0
    assert max(pauses[1:]) < 30.0


async def test_a_rejected_object_is_not_watched_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script("5", ["6", "7"], [])
    script.reject = "6"
    await play(monkeypatch, script)
    assert script.calls[:4] == ["list", "watch 5", "interrupted", "watch 6"]


async def test_objects_are_listed_again_when_the_interval_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = Backoff(1.0, 8.0, lambda: 1.0)
    first = plain.next_s(0.0)
    for relist_s, call in ((first, "list"), (first + 0.001, "watch 5")):
        script = Script("5", [], "8")
        await play(monkeypatch, script, relist_s)
        assert script.calls[:4] == ["list", "watch 5", "interrupted", call]


async def test_a_list_that_fails_after_the_interval_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script("5", [], ListWatchError("500"), "9", [])
    await play(monkeypatch, script, 1e-9)
    assert script.calls[:8] == [
        "list", "watch 5", "interrupted", "list", "interrupted", "list", "watch 9", "interrupted",
    ]  # fmt: skip


async def test_synced_is_set_by_the_first_list_only(monkeypatch: pytest.MonkeyPatch) -> None:
    reflector, _ = await play(monkeypatch, Script(ListWatchError("500")))
    assert not reflector.synced.is_set()
    reflector, _ = await play(monkeypatch, Script("5"))
    assert reflector.synced.is_set()


async def test_what_ends_a_watch_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "avatar_contracts.list_watch")
    await play(monkeypatch, Script("5", ExpiredError("too old"), ListWatchError("gone")))
    assert caplog.messages == [
        "watch expired, listing again kind=pods fault=too old",
        "watch ended kind=pods fault=gone",
    ]


@pytest.mark.parametrize(
    ("event_type", "body", "message"),
    [
        ("ERROR", {"message": "too old"}, "received type=ERROR message=too old"),
        ("ADDED", {"metadata": 7}, "received type=ADDED message=None"),
    ],
)
async def test_an_error_of_the_server_is_repeated_in_the_log(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    event_type: str,
    body: dict[str, Any],
    message: str,
) -> None:
    class Errors(Script):
        async def watch(self, version: str) -> AsyncIterator[Event]:
            self.next_step(f"watch {version}")
            yield event_type, body

    caplog.set_level(logging.INFO, "avatar_contracts.list_watch")
    script = Errors("5", None)
    await play(monkeypatch, script)
    assert caplog.messages == [f"watch expired, listing again kind=pods fault={message}"]
    assert script.calls == ["list", "watch 5", "interrupted", "list"]
