"""Batches through the model: a frame depends on its own request alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch

from avatar_runtime.audio import utterance
from avatar_runtime.avatars import cache
from avatar_runtime.engine import device
from avatar_runtime.engine.rendering import (
    blend_device,
    blend_host,
    cpu_parallel,
    delivery,
    forward,
    renderer,
)
from avatar_runtime.tools import random_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from avatar_runtime.batching.frames import AudioWindow, FrameRequest
    from avatar_runtime.engine.networks.musetalk import MuseTalk

_TOLERANCE = 1e-3  # of features in float32: what the reference promises


class RecordingModel:
    """The model itself, and what the UNet and the audio encoder were given."""

    def __init__(self, model: MuseTalk) -> None:
        self._model = model
        self.rows: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.contexts = 0
        self.parts: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode_audio(self, contexts: Sequence[np.ndarray]) -> torch.Tensor:
        self.contexts += len(contexts)
        return self._model.encode_audio(contexts)

    def predict(self, latents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled(), "gradients cost memory"
        self.parts.append(len(latents))
        self.rows += zip(latents, tokens, strict=True)
        return self._model.predict(latents, tokens)


@pytest.fixture
def recording(tiny: MuseTalk) -> RecordingModel:
    return RecordingModel(tiny)


@pytest.fixture
def run(
    recording: RecordingModel, anna: cache.Avatar
) -> Iterator[Callable[[Sequence[FrameRequest]], device.Rendered]]:
    with ThreadPoolExecutor(1) as pool:
        plain: MuseTalk = recording  # type: ignore[assignment]
        avatars = {"anna": anna}
        yield torch.inference_mode()(_on_cpu(plain, avatars, pool, 1).render)


def _on_cpu(
    model: MuseTalk, avatars: Mapping[str, cache.Avatar], pool: ThreadPoolExecutor, count: int
) -> renderer.Renderer:
    own = cpu_parallel.CpuShards(pool, count)
    postprocessor = delivery.HostPostprocessor(avatars, pool)
    return renderer.Renderer(model, avatars, forward.EagerForward(model, own), postprocessor, own)


def _speech(seconds: float = 0.6, context_s: int = 3, seed: int = 0) -> list[AudioWindow]:
    rng = np.random.default_rng(seed)
    loudness = np.sin(np.linspace(0, 9, int(24_000 * seconds))) * 9000
    pcm = (rng.uniform(-1, 1, len(loudness)) * loudness).astype("<i2")
    speech = utterance.Utterance(24_000, context_s=context_s)
    speech.append(pcm.tobytes())
    speech.finish()
    return list(speech.take())


def test_frames_come_in_the_order_of_the_requests(
    run: Callable[..., device.Rendered], request_of: Callable[..., FrameRequest]
) -> None:
    batch = [request_of(w, source_frame=w.frame_index) for w in _speech()[5:0:-1]]

    rendered = run(batch)

    assert [frame.request for frame in rendered.frames] == batch
    assert set(rendered.stages) == set(device.STAGES)
    assert all(seconds > 0 for seconds in rendered.stages.values())


@pytest.mark.parametrize(("frames", "parts"), [(5, [2, 2, 1]), (2, [1, 1]), (1, [1])])
def test_shards_split_a_batch_and_change_no_frame(
    tiny: MuseTalk,
    anna: cache.Avatar,
    request_of: Callable[..., FrameRequest],
    frames: int,
    parts: list[int],
) -> None:
    batch = [request_of(w, source_frame=w.frame_index) for w in _speech()[:frames]]
    made = {}
    for count in (1, 3):
        recording: Any = RecordingModel(tiny)
        with ThreadPoolExecutor(3) as pool, torch.inference_mode():
            rendered = _on_cpu(recording, {"anna": anna}, pool, count).render(batch)
        made[count] = [_decoded(frame.image) for frame in rendered.frames]

    assert sorted(recording.parts, reverse=True) == parts
    for alone, shared in zip(made[1], made[3], strict=True):
        assert np.abs(alone - shared).mean() < 0.05  # a level here and there, before the JPEG


def test_a_frame_does_not_depend_on_the_other_frames_of_its_batch(
    run: Callable[..., device.Rendered],
    recording: RecordingModel,
    request_of: Callable[..., FrameRequest],
) -> None:
    alone = [request_of(w, session="alone", source_frame=w.frame_index) for w in _speech()]
    mine = [request_of(w, session="mine", source_frame=w.frame_index) for w in _speech()]
    others = [request_of(w, session="other", source_frame=3) for w in _speech(seed=9)]

    for request in alone:
        run([request])
    run([r for pair in zip(mine, others, strict=True) for r in pair])

    apart, together = recording.rows[: len(alone)], recording.rows[len(alone) :]
    for (latent, tokens), (same, heard), (_, foreign) in zip(
        apart, together[::2], together[1::2], strict=True
    ):
        assert torch.equal(latent, same)
        assert (tokens - heard).abs().max() < _TOLERANCE
        assert (tokens - foreign).abs().max() > 10 * _TOLERANCE


def test_latents_follow_the_folded_timeline(
    run: Callable[..., device.Rendered],
    recording: RecordingModel,
    anna: cache.Avatar,
    request_of: Callable[..., FrameRequest],
) -> None:
    window = _speech()[0]

    run([request_of(window, source_frame=t) for t in (5, 6, 12)])

    expected = torch.from_numpy(anna.latents[[5, 5, 0]].astype(np.float32))
    assert torch.equal(torch.stack([latent for latent, _ in recording.rows]), expected)


def test_a_group_is_encoded_once_even_over_two_batches(
    run: Callable[..., device.Rendered],
    recording: RecordingModel,
    request_of: Callable[..., FrameRequest],
) -> None:
    group = [request_of(w) for w in _speech() if w.group == 3]

    run(group[:1])
    run(group[1:])

    assert len(group) == 2
    assert recording.contexts == 1


def test_windows_are_those_of_one_encode_of_the_whole_context(
    run: Callable[..., device.Rendered],
    tiny: MuseTalk,
    recording: RecordingModel,
    request_of: Callable[..., FrameRequest],
) -> None:
    window = _speech(3.5)[-1]
    run([request_of(window)])

    with torch.inference_mode():
        features = tiny.encode_audio([np.frombuffer(window.context, np.float32)])[0]
    rows = features[window.first_step : window.steps][:10].flatten(0, 1)
    heard = recording.rows[0][1]
    assert 0 < len(rows) < 50  # the speech ends inside this window
    assert (heard[: len(rows)] - rows).abs().max() < _TOLERANCE
    assert (heard[len(rows) :] == 0).all()


def test_a_context_longer_than_the_model_takes_loses_its_beginning(
    run: Callable[..., device.Rendered],
    recording: RecordingModel,
    request_of: Callable[..., FrameRequest],
) -> None:
    for session, context_s in (("short", 3), ("long", 30)):
        run([request_of(_speech(4.0, context_s=context_s)[90], session=session)])

    (_, short), (_, long) = recording.rows
    assert torch.equal(short, long)


@pytest.mark.slow
@pytest.mark.parametrize("side", [192, 256])
def test_models_of_other_crop_sizes_run_through_the_same_code(
    side: int, tmp_path: Path, request_of: Callable[..., FrameRequest]
) -> None:
    small = random_model.PRESETS["tiny"]
    config = replace(small, vae=replace(small.vae, sample_size=side))
    made = random_model.make(config).to(torch.device("cpu"), torch.float32)
    random_model.write_avatar(tmp_path / "anna", made, frames=1)
    avatar = cache.read(tmp_path / "anna")
    assert avatar.latents.shape == (1, 8, side // 8, side // 8)
    box = avatar.box(0)
    assert (box.width, box.height) == (104, 120)  # neither a square nor the model's size

    with ThreadPoolExecutor(1) as pool, torch.inference_mode():
        runs = _on_cpu(made, {"anna": avatar}, pool, 1)
        (frame,) = runs.render([request_of(_speech()[0])]).frames

    source = blend_host.encode_jpeg(avatar.frame(0), 192, 192, frame.request.quality)
    changed = np.abs(_decoded(frame.image) - _decoded(source)).max(axis=2)
    assert (changed[96:156, 44:148] > 40).mean() > 0.2
    # The mask's blur and JPEG's blocks of 16 reach no further.
    assert changed[:78].max() == changed[:, :30].max() == 0


def test_the_code_path_of_cuda_gives_the_frames_of_the_cpu(
    run: Callable[..., device.Rendered],
    tiny: MuseTalk,
    anna: cache.Avatar,
    capturer: Any,
    request_of: Callable[..., FrameRequest],
) -> None:
    """Buckets, recordings, composition and delivery as on CUDA, all on this machine."""
    batch = [request_of(w, source_frame=w.frame_index) for w in _speech()[3:6]]
    cpu = tiny.device
    with ThreadPoolExecutor(1) as pool:
        composer = blend_device.Composer({"anna": anna}, cpu, pool, 1 << 20)
        postprocessor = delivery.DevicePostprocessor(composer, pool, cpu, None)
        forward_pass = forward.BucketForward(tiny, capturer)
        made = renderer.Renderer(
            tiny, {"anna": anna}, forward_pass, postprocessor, cpu_parallel.CpuShards(pool)
        )
        with torch.inference_mode():
            made.render(batch)
            first = made.launch(batch)
            first.wait_forward()
            second = made.launch(batch[::-1])
            theirs = [*first.finish().frames, *second.finish().frames[::-1]]
            made.release()

    assert [r.replays for r in capturer.made] == [2, 2]
    expected = run(batch).frames
    for ours, frame in zip(theirs, [*expected, *expected], strict=True):
        assert ours.request == frame.request
        assert np.abs(_decoded(ours.image) - _decoded(frame.image)).mean() < 0.5


def _decoded(jpeg: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), int)
