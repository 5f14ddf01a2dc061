"""A small seeded model and an avatar, made once per run."""

from __future__ import annotations

import asyncio
import selectors
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from avatar_runtime.avatars import cache
    from avatar_runtime.batching.frames import AudioWindow, FrameRequest
    from avatar_runtime.engine.networks import musetalk


@dataclass(frozen=True, slots=True)
class Assets:
    """Folders as `serve` takes them."""

    model: Path
    avatars: Path


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    from avatar_runtime.engine.networks import musetalk
    from avatar_runtime.tools import random_model

    root = tmp_path_factory.mktemp("assets")
    made = Assets(root / "model", root / "avatars")
    random_model.write(made.model, random_model.PRESETS["tiny"])
    random_model.write_avatar(made.avatars / "anna", musetalk.load(made.model))
    return made


@pytest.fixture(scope="session")
def tiny(assets: Assets) -> musetalk.MuseTalk:
    from avatar_runtime.engine.networks import musetalk

    return musetalk.load(assets.model)


@pytest.fixture
def anna(assets: Assets) -> cache.Avatar:
    from avatar_runtime.avatars import cache

    return cache.read(assets.avatars / "anna")


@pytest.fixture
def request_of() -> Callable[..., FrameRequest]:
    """Return a maker of frame requests: `request_of(window, session=..., source_frame=...)`."""
    from avatar_runtime.batching.frames import FrameRequest

    def make(
        window: AudioWindow, *, session: str = "s", source_frame: int = 0, avatar: str = "anna"
    ) -> FrameRequest:
        return FrameRequest(
            session=session,
            response_ref=1,
            epoch=0,
            frame_index=window.frame_index,
            deadline=0.0,
            avatar=avatar,
            source_frame=source_frame,
            window=window,
            quality=90,
            width=192,
            height=192,
        )

    return make


@dataclass
class FakeGraph:
    """A recording as a CUDA graph is one: replayed into the tensor of its first run."""

    work: Callable[[], Tensor]
    result: Tensor
    replays: int = 0

    def replay(self) -> None:
        self.replays += 1
        self.result.copy_(self.work())


class FakeCapturer:
    """Records by running; refuses with `fault` if there is one."""

    def __init__(self) -> None:
        self.fault: RuntimeError | None = None
        self.made: list[FakeGraph] = []

    def __call__(self, work: Callable[[], Tensor]) -> FakeGraph:
        import torch

        if self.fault is not None:
            raise self.fault
        self.made.append(FakeGraph(work, torch.full_like(work(), 7)))
        return self.made[-1]


@pytest.fixture
def capturer() -> FakeCapturer:
    return FakeCapturer()


class _Selector(selectors.DefaultSelector):
    """Waits by moving the loop's clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "every task waits indefinitely"
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only while everyone waits; executors work inside it.

    Work that sleeps for a while is finished that much later, and others go on meanwhile.
    """

    def __init__(self) -> None:
        self._virtual = _Selector()
        self.slept = 0.0  # by the work in hand
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def clock(self) -> float:
        """Return the time of the work in hand."""
        return self.time() + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: object, work: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = self.create_future()
        self.slept = 0.0
        try:
            result = work(*arguments)
        except Exception as error:
            self.call_later(self.slept, done.set_exception, error)
        else:
            self.call_later(self.slept, done.set_result, result)
        self.slept = 0.0
        return done


@pytest.fixture(scope="session")
def virtual_loop() -> type[VirtualLoop]:
    """Give the loop whose time is virtual."""
    return VirtualLoop
