"""One batch through the model: sound, UNet, decoder, composition, JPEG."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from avatar_runtime.avatars import cache
from avatar_runtime.engine.rendering import delivery, stage_timer
from avatar_runtime.engine.rendering.lru import ByteCache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from avatar_runtime.batching.frames import AudioWindow, FrameRequest
    from avatar_runtime.engine.device import Pending, Rendered
    from avatar_runtime.engine.networks.musetalk import MuseTalk
    from avatar_runtime.engine.rendering.cpu_parallel import Lanes
    from avatar_runtime.engine.rendering.delivery import Finisher
    from avatar_runtime.engine.rendering.forward import Drawer

_STEP: Final = 320  # samples of one feature step
_KEPT_STEPS: Final = 64  # of a context's end: a group's windows span 16 at 25 fps
_KEPT_GROUPS: Final = 256
_LATENT_BYTES: Final = 256 << 20  # 64 avatars of ten seconds; another one's come back in 1 ms
_ENCODE_BATCH: Final = 8  # contexts at once; a 30 s one takes about 60 MiB in fp16


class Runner:
    """Renders batches of frames of any sessions and avatars. Call it under `inference_mode`."""

    def __init__(
        self,
        model: MuseTalk,
        avatars: Mapping[str, cache.Avatar],
        drawer: Drawer,
        finisher: Finisher,
        lanes: Lanes,
    ) -> None:
        self._model = model
        self._avatars = avatars
        self._drawer = drawer
        self._finisher = finisher
        self._lanes = lanes
        self._latents: ByteCache[str, Tensor] = ByteCache(_LATENT_BYTES, lambda t: t.nbytes)
        # Features of a group's last steps, and the step of the context they begin at.
        self._features: OrderedDict[tuple[str, int, int], tuple[Tensor, int]] = OrderedDict()

    def launch(self, batch: Sequence[FrameRequest]) -> Pending:
        """Queue a batch; the next one may be launched before this one is finished."""
        watch = stage_timer.started(self._model.device)
        faces = self._draw(batch, watch)
        drawn = None
        if self._model.device.type == "cuda":
            drawn = delivery.blocking_event()
            drawn.record()
        return _Launched(self._finisher.begin(batch, faces, watch), drawn)

    def render(self, batch: Sequence[FrameRequest]) -> Rendered:
        """Compute a batch and return its pictures."""
        return self.launch(batch).finish()

    def draw(self, batch: Sequence[FrameRequest]) -> Mapping[str, float]:
        """Draw the faces alone and return the seconds: what `render` is measured against."""
        watch = stage_timer.started(self._model.device)
        self._draw(batch, watch)
        return watch.stages()

    def release(self) -> None:
        """Give back what is kept on the device for later batches."""
        self._drawer.drop()
        self._finisher.clear()

    def _draw(self, batch: Sequence[FrameRequest], watch: stage_timer.Watch) -> Tensor:
        self._encode_missing(batch)
        latents = [self._latent(request) for request in batch]
        tokens = [self._tokens(request) for request in batch]
        return self._drawer.draw(latents, tokens, watch.lap)

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
        return self._lanes.spread(
            lambda part: self._model.encode_audio([heard[i] for i in part]), rows
        )

    def _tokens(self, request: FrameRequest) -> Tensor:
        features, offset = self._features[_key(request)]
        window = request.window
        return self._model.window(features, window.first_step - offset, window.steps - offset)

    def _index(self, request: FrameRequest) -> int:
        return cache.fold(request.source_frame, self._avatars[request.avatar].manifest.frames)

    def _latent(self, request: FrameRequest) -> Tensor:
        avatar = request.avatar
        whole = self._latents.get(avatar, lambda: self._uploaded(self._avatars[avatar]))
        return whole[self._index(request)]

    def _uploaded(self, avatar: cache.Avatar) -> Tensor:
        latents = torch.from_numpy(np.asarray(avatar.latents))
        return latents.to(self._model.device, self._model.dtype)


@dataclass(frozen=True, slots=True)
class _Launched:
    begun: delivery.Begun
    drawn: torch.cuda.Event | None
    """Passed when the decoder is done and the device composes; on the CPU it is by now."""

    def wait_drawn(self) -> None:
        if self.drawn is not None:
            self.drawn.synchronize()

    def finish(self) -> Rendered:
        return self.begun.finish()


def _key(request: FrameRequest) -> tuple[str, int, int]:
    return request.session, request.response_ref, request.window.group


def _heard(window: AudioWindow, limit: int) -> NDArray[np.float32]:
    """Return the end of a context, as long as the model hears at once."""
    return np.frombuffer(window.context, np.float32)[-limit:]
