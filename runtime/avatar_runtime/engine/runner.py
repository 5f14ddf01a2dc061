"""One batch through the model: sound, UNet, decoder, composition, JPEG."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from avatar_runtime.avatars import cache
from avatar_runtime.batching import buckets
from avatar_runtime.batching.frames import Frame
from avatar_runtime.engine import pictures
from avatar_runtime.engine.device import STAGES, Rendered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray
    from torch import Tensor

    from avatar_runtime.batching.frames import FrameRequest
    from avatar_runtime.batching.windows import AudioWindow
    from avatar_runtime.engine.model import MuseTalk

_STEP: Final = 320  # samples of one feature step
_KEPT_STEPS: Final = 64  # of a context's end: a group's windows span 16 at 25 fps
_KEPT_GROUPS: Final = 256
_ENCODE_BATCH: Final = 8  # contexts at once; a 30 s one takes about 60 MiB in fp16


class Runner:
    """Renders batches of frames of any sessions and avatars. Call it under `inference_mode`."""

    def __init__(
        self,
        model: MuseTalk,
        avatars: Mapping[str, cache.Avatar],
        pool: Executor,
        lanes: int = 1,
    ) -> None:
        """`lanes`: parts of a batch that the networks compute at once, each on one thread."""
        self._model = model
        self._avatars = avatars
        self._pool = pool
        self._lanes = lanes
        self._latents = {
            name: torch.from_numpy(np.asarray(avatar.latents)).to(model.device, model.dtype)
            for name, avatar in avatars.items()
        }
        # Features of a group's last steps, and the step of the context they begin at.
        self._features: OrderedDict[tuple[str, int, int], tuple[Tensor, int]] = OrderedDict()

    def render(self, batch: Sequence[FrameRequest]) -> Rendered:
        """Compute a batch; on the GPU it is filled up to its bucket with copies of its last row."""
        watch = _watch(self._model.device)
        faces = self._draw(batch, watch)
        whole = list(self._pool.map(self._compose, batch, faces))
        watch.lap("compose")
        frames = list(self._pool.map(_encode, batch, whole))
        watch.lap("jpeg")
        return Rendered(frames, watch.stages())

    def draw(self, batch: Sequence[FrameRequest]) -> Mapping[str, float]:
        """Draw the faces alone and return the seconds: what `render` is measured against."""
        watch = _watch(self._model.device)
        self._draw(batch, watch)
        for stage in STAGES[3:]:
            watch.lap(stage)
        return watch.stages()

    def _draw(
        self, batch: Sequence[FrameRequest], watch: _HostWatch | _DeviceWatch
    ) -> NDArray[np.uint8]:
        tokens, latents = self._inputs(batch)
        watch.lap("encode_audio")
        predicted = self._spread(self._model.predict, latents, tokens)
        watch.lap("unet")
        decoded = self._spread(self._model.decode, predicted)
        faces: NDArray[np.uint8] = decoded[: len(batch)].cpu().numpy()
        watch.lap("vae")
        return faces

    def _inputs(self, batch: Sequence[FrameRequest]) -> tuple[Tensor, Tensor]:
        self._encode_missing(batch)
        tokens = torch.stack([self._tokens(request) for request in batch])
        latents = torch.stack([self._latent(request) for request in batch])
        if self._model.device.type != "cuda":
            return tokens, latents
        size = buckets.around(len(batch))
        rows = torch.arange(size, device=self._model.device).clamp(max=len(batch) - 1)
        return tokens[rows], latents[rows]

    def _encode_missing(self, batch: Sequence[FrameRequest]) -> None:
        contexts = {_key(r): r.window for r in batch if _key(r) not in self._features}
        keys = list(contexts)
        for at in range(0, len(keys), _ENCODE_BATCH):
            part = keys[at : at + _ENCODE_BATCH]
            heard = [_heard(contexts[key], self._model.context_samples) for key in part]
            features = self._encode_audio(heard)
            for key, row, samples in zip(part, features, heard, strict=True):
                end = len(samples) // _STEP
                begin = max(0, end - _KEPT_STEPS)
                dropped = len(contexts[key].context) // _STEP - end
                # Cloned: a view would keep the whole batch of contexts alive.
                self._features[key] = (row[begin:end].clone(), begin + dropped)
        for request in batch:
            self._features.move_to_end(_key(request))
        while len(self._features) > max(_KEPT_GROUPS, len(batch)):
            self._features.popitem(last=False)

    def _encode_audio(self, heard: Sequence[NDArray[np.float32]]) -> Tensor:
        rows = torch.arange(len(heard))
        return self._spread(lambda part: self._model.encode_audio([heard[i] for i in part]), rows)

    def _spread(self, work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return the work on all rows, done in as many parts at once as there are lanes."""
        lanes = min(self._lanes, len(inputs[0]))
        if lanes == 1:
            return work(*inputs)
        parts = zip(*(rows.tensor_split(lanes) for rows in inputs), strict=True)
        return torch.cat(list(self._pool.map(lambda part: _inferred(work, *part), parts)))

    def _tokens(self, request: FrameRequest) -> Tensor:
        features, offset = self._features[_key(request)]
        window = request.window
        return self._model.window(features, window.first_step - offset, window.steps - offset)

    def _index(self, request: FrameRequest) -> int:
        return cache.fold(request.source_frame, self._avatars[request.avatar].manifest.frames)

    def _latent(self, request: FrameRequest) -> Tensor:
        return self._latents[request.avatar][self._index(request)]

    def _compose(self, request: FrameRequest, face: NDArray[np.uint8]) -> NDArray[np.uint8]:
        avatar = self._avatars[request.avatar]
        return pictures.compose(avatar, self._index(request), face, request.window.mouth)


def _inferred(work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    with torch.inference_mode():  # a mode of the thread, so that the caller's does not count
        return work(*inputs)


def _key(request: FrameRequest) -> tuple[str, int, int]:
    return request.session, request.response_ref, request.window.group


def _heard(window: AudioWindow, limit: int) -> NDArray[np.float32]:
    """Return the end of a context, as long as the model hears at once."""
    return np.frombuffer(window.context, np.float32)[-limit:]


def _encode(request: FrameRequest, picture: NDArray[np.uint8]) -> Frame:
    jpeg = pictures.encode_jpeg(picture, request.width, request.height, request.quality)
    return Frame(request, jpeg)


class _HostWatch:
    """Times stages by the host's clock."""

    def __init__(self) -> None:
        self._marks = [time.perf_counter()]

    def lap(self, stage: str) -> None:
        self._marks.append(time.perf_counter())

    def stages(self) -> dict[str, float]:
        spans = zip(self._marks, self._marks[1:], strict=False)
        return {stage: end - begin for stage, (begin, end) in zip(STAGES, spans, strict=True)}


class _DeviceWatch:
    """Times stages by events in the GPU's own queue: the host runs ahead of it."""

    def __init__(self) -> None:
        self._marks = [self._mark()]

    def lap(self, stage: str) -> None:
        self._marks.append(self._mark())

    def stages(self) -> dict[str, float]:
        self._marks[-1].synchronize()
        spans = zip(self._marks, self._marks[1:], strict=False)
        milliseconds = (begin.elapsed_time(end) for begin, end in spans)
        return {stage: ms / 1000 for stage, ms in zip(STAGES, milliseconds, strict=True)}

    @staticmethod
    def _mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _watch(device: torch.device) -> _HostWatch | _DeviceWatch:
    return _DeviceWatch() if device.type == "cuda" else _HostWatch()
