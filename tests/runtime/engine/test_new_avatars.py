"""Avatars that are added, replaced, spoiled and removed while the engine runs."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from tests.runtime.avatars.spoiling import read_tensors, spoil

from avatar_runtime import errors
from avatar_runtime.avatars import cache
from avatar_runtime.batching.frames import AudioWindow
from avatar_runtime.engine.devices.torch_device import TorchDevice
from avatar_runtime.engine.engine import Engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence
    from pathlib import Path

    from tests.runtime.avatars.spoiling import Tensors
    from tests.runtime.conftest import Assets

    from avatar_runtime.batching.frames import Frame, FrameRequest

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(assets: Assets, tmp_path: Path) -> Path:
    return shutil.copytree(assets.avatars, tmp_path / "avatars")


@pytest.fixture
async def engine(assets: Assets, folder: Path) -> AsyncIterator[Engine]:
    made = Engine(TorchDevice("cpu", 1), assets.model, folder, 2)
    await made.start()
    yield made
    await made.stop()


def nobody() -> Collection[str]:
    return ()


def darken(tensors: Tensors) -> None:
    """Replace every picture by a black one, and the latents by others."""
    black = np.zeros((192, 192, 3), np.uint8)
    file = np.asarray(cv2.imencode(".jpg", black)[1], np.uint8).ravel()
    frames = len(tensors["valid"])
    tensors["pixels"], tensors["pixel_offsets"] = cache.pack([file] * frames)
    tensors["latents"] = -tensors["latents"]


def rewrite(folder: Path, change: Callable[[Tensors], None] = darken) -> None:
    """Replace an avatar as `prepare` does, with one rename."""
    tensors = read_tensors(folder)
    change(tensors)
    manifest = cache.read(folder).manifest
    cache.write(folder, replace(manifest, consent="changed"), tensors)


def requests(
    request_of: Callable[..., FrameRequest], avatar: str, *, silent: bool, session: str = "s"
) -> list[FrameRequest]:
    samples = np.zeros(16_000, np.float32).data.toreadonly()
    windows = [AudioWindow(i, 0, samples, 34 + 2 * i, 50, silent=silent) for i in range(2)]
    return [request_of(window, avatar=avatar, session=session) for window in windows]


def brightness(frames: Sequence[Frame]) -> float:
    images = [cv2.imdecode(np.frombuffer(f.image, np.uint8), cv2.IMREAD_COLOR) for f in frames]
    tops = [np.asarray(image)[:20] for image in images]  # the top rows have no face
    return float(np.mean(tops))


async def test_an_added_avatar_is_served(engine: Engine, folder: Path) -> None:
    shutil.copytree(folder / "anna", folder / "ben")

    assert await engine.refresh_avatars(nobody)
    assert sorted(engine.avatars) == ["anna", "ben"]
    assert not await engine.refresh_avatars(nobody)


async def test_only_selected_avatars_are_served(assets: Assets, folder: Path) -> None:
    engine = Engine(TorchDevice("cpu", 1), assets.model, folder, 2, avatar_names=["anna"])
    await engine.start()
    shutil.copytree(folder / "anna", folder / "ben")

    assert not await engine.refresh_avatars(nobody)
    assert sorted(engine.avatars) == ["anna"]
    await engine.stop()


async def test_a_session_keeps_its_version_while_the_avatar_is_replaced(
    assets: Assets, engine: Engine, folder: Path, request_of: Callable[..., FrameRequest]
) -> None:
    old = engine.avatars["anna"].key
    spoken = requests(request_of, old, silent=False)
    idle = requests(request_of, old, silent=True)
    before = [f.image for f in [*await engine.run(spoken), *await engine.idle_frames(idle)]]
    by_name = [requests(request_of, "anna", silent=silent) for silent in (False, True)]
    await engine.run(by_name[0])  # what is cached now must not be shown later
    await engine.idle_frames(by_name[1])
    rewrite(folder / "anna")

    # Batches of the session run while the avatar is read and published.
    refresh = asyncio.create_task(engine.refresh_avatars(lambda: [old]))
    running = await asyncio.gather(*(engine.run(spoken) for _ in range(3)))

    assert await refresh
    new = engine.avatars["anna"].key
    assert new != old
    for _ in range(3):
        await engine.refresh_avatars(lambda: [old])
    after = [f.image for f in [*await engine.run(spoken), *await engine.idle_frames(idle)]]
    assert after == before
    assert all([f.image for f in frames] == before[:2] for frames in running)
    spoken, idle = (requests(request_of, new, silent=silent) for silent in (False, True))
    replaced = [f.image for f in await engine.run(spoken)]
    restarted = Engine(TorchDevice("cpu", 1), assets.model, folder, 2)
    await restarted.start()
    assert [f.image for f in await restarted.run(spoken)] == replaced != before[:2]
    await restarted.stop()
    assert [f.image for f in await engine.run(by_name[0])] == replaced
    assert brightness(await engine.idle_frames(idle)) < 10
    assert brightness(await engine.idle_frames(by_name[1])) < 10


async def test_a_replaced_version_is_dropped_when_no_session_uses_it(
    engine: Engine, folder: Path, request_of: Callable[..., FrameRequest]
) -> None:
    old = engine.avatars["anna"].key
    rewrite(folder / "anna")
    await engine.refresh_avatars(nobody)
    await engine.refresh_avatars(nobody)

    with pytest.raises(errors.EngineError, match="is not loaded"):
        await engine.run(requests(request_of, old, silent=False))


async def test_a_spoiled_replacement_leaves_the_avatar_as_it_was(
    engine: Engine, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = engine.avatars["anna"]

    def spoiled(tensors: Tensors) -> None:
        tensors["latents"][3] = np.nan

    spoil(folder / "anna", spoiled)
    assert not await engine.refresh_avatars(nobody)
    assert engine.avatars == {"anna": before}
    assert engine.avatar_faults == 1
    assert "avatar not replaced: " in caplog.text
    assert "frame 3: a latent is nan, must be a finite number" in caplog.text

    caplog.clear()
    assert not await engine.refresh_avatars(nobody)
    assert "not replaced" not in caplog.text, "a fault is reported once"

    spoil(folder / "anna", lambda tensors: tensors["latents"].fill(0))
    assert await engine.refresh_avatars(nobody)
    assert engine.avatar_faults == 0


async def test_an_avatar_of_another_model_is_not_added(engine: Engine, folder: Path) -> None:
    shutil.copytree(folder / "anna", folder / "ben")
    spoil(folder / "ben", fields={"vae_hash": "other"})

    assert not await engine.refresh_avatars(nobody)
    assert engine.avatar_faults == 1


async def test_latents_of_another_size_are_refused(engine: Engine, folder: Path) -> None:
    shutil.copytree(folder / "anna", folder / "ben")

    def halve(tensors: Tensors) -> None:
        side = tensors["latents"].shape[-1] // 2
        tensors["latents"] = tensors["latents"][..., :side, :side]

    spoil(folder / "ben", halve)
    assert not await engine.refresh_avatars(nobody)
    assert engine.avatar_faults == 1


async def test_a_removed_avatar_is_gone_at_the_second_look(engine: Engine, folder: Path) -> None:
    shutil.rmtree(folder / "anna")

    assert not await engine.refresh_avatars(nobody)
    assert await engine.refresh_avatars(nobody)
    assert engine.avatars == {}


async def test_a_folder_that_is_being_written_is_no_avatar(engine: Engine, folder: Path) -> None:
    shutil.copytree(folder / "anna", folder / ".ben-x1")
    (folder / "notes").mkdir()
    (folder / "notes" / "manifest.txt").write_text(json.dumps({}))

    assert not await engine.refresh_avatars(nobody)
    assert engine.avatar_faults == 0


async def test_refresh_needs_a_started_engine(assets: Assets, folder: Path) -> None:
    engine = Engine(TorchDevice("cpu", 1), assets.model, folder, 2)

    with pytest.raises(errors.EngineError, match="not started"):
        await engine.refresh_avatars(nobody)
