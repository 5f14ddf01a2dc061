from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

from avatar_gateway import event_loop

if TYPE_CHECKING:
    import pytest


def test_the_gateway_runs_on_uvloop() -> None:
    """It is locked for every system that the tests run on."""
    found: list[str] = []

    async def main() -> None:
        found.append(type(asyncio.get_running_loop()).__module__)

    event_loop.run(main())
    assert found == ["uvloop"]


def test_without_uvloop_it_runs_on_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "uvloop", None)
    assert event_loop.factory() is asyncio.new_event_loop


async def test_the_tests_run_on_the_same_loop() -> None:
    assert type(asyncio.get_running_loop()).__module__ == "uvloop"


def test_the_collector_looks_at_all_objects_less_often() -> None:
    before = gc.get_threshold()
    try:
        event_loop.collect_less_often()
        assert all(new > old for new, old in zip(gc.get_threshold(), before, strict=True))
    finally:
        gc.set_threshold(*before)
