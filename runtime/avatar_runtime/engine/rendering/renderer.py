"""One batch through the model: audio encoder, UNet, decoder, composition, JPEG."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from avatar_runtime.avatars import cache
from avatar_runtime.engine.rendering import stage_timer
from avatar_runtime.engine.rendering.lru import LRUCache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from avatar_runtime.batching.frames import AudioWindow, FrameRequest
    from avatar_runtime.engine.device import InFlight, Rendered
    from avatar_runtime.engine.networks.musetalk import MuseTalk
    from avatar_runtime.engine.rendering.cpu_parallel import CpuShards
    from avatar_runtime.engine.rendering.delivery import Postprocessor
    from avatar_runtime.engine.rendering.forward import ForwardPass

_STEP: Final = 320  # samples of one feature step
_CACHED_STEPS: Final = 64  # at the end of a context: the windows of a group span 16 at 25 fps
_CACHED_GROUPS: Final = 256
_LATENT_BYTES: Final = 256 << 20  # 64 avatars of ten seconds; a reload takes 1 ms
_ENCODE_BATCH: Final = 8  # contexts at once; a 30 s one takes about 60 MiB in fp16


class Renderer:
    """Renders batches of frames of any sessions and avatars. Call it under `inference_mode`."""

    def __init__(
        self,
        model: MuseTalk,
        avatars: Mapping[str, cache.Avatar],
        forward_pass: ForwardPass,
        postprocessor: Postprocessor,
        shards: CpuShards,
    ) -> None:
        self._model = model
        self._avatars = avatars
        self._forward_pass = forward_pass
        self._postprocessor = postprocessor
        self._shards = shards
        self._latents: LRUCache[str, Tensor] = LRUCache(_LATENT_BYTES, lambda t: t.nbytes)
        # Features of the last steps of a group, and the step of the context where they begin.
        self._features: OrderedDict[tuple[str, int, int], tuple[Tensor, int]] = OrderedDict()

    def launch(self, batch: Sequence[FrameRequest]) -> InFlight:
        """Queue a batch; the next one may be launched before this one is finished."""
        timer = stage_timer.start(self._model.device)
        faces = self._forward(batch, timer)
        return self._postprocessor.start(batch, faces, timer)

    def render(self, batch: Sequence[FrameRequest]) -> Rendered:
        """Render a batch and return its frames."""
        return self.launch(batch).finish()

    def forward(self, batch: Sequence[FrameRequest]) -> Mapping[str, float]:
        """Generate only the faces and return the seconds of each stage: a baseline of `render`."""
        timer = stage_timer.start(self._model.device)
        self._forward(batch, timer)
        return timer.stages()

    def release(self) -> None:
        """Free the memory of the device that is cached for later batches."""
        self._forward_pass.release()
        self._postprocessor.clear()

    def _forward(self, batch: Sequence[FrameRequest], timer: stage_timer.StageTimer) -> Tensor:
        self._encode_missing(batch)
        latents = [self._latent(request) for request in batch]
        tokens = [self._tokens(request) for request in batch]
        return self._forward_pass.run(latents, tokens, timer.end_stage)

    def _encode_missing(self, batch: Sequence[FrameRequest]) -> None:
        contexts = {_key(r): r.window for r in batch if _key(r) not in self._features}
        keys = list(contexts)
        for at in range(0, len(keys), _ENCODE_BATCH):
            part = keys[at : at + _ENCODE_BATCH]
            encoded = [_context_end(contexts[key], self._model.context_samples) for key in part]
            features = self._encode_audio(encoded)
            for key, row, samples in zip(part, features, encoded, strict=True):
                end = len(samples) // _STEP
                begin = max(0, end - _CACHED_STEPS)
                dropped = len(contexts[key].context) // _STEP - end
                # A clone, since a view would keep the whole batch of contexts in memory.
                self._features[key] = (row[begin:end].clone(), begin + dropped)
        for request in batch:
            self._features.move_to_end(_key(request))
        while len(self._features) > max(_CACHED_GROUPS, len(batch)):
            self._features.popitem(last=False)

    def _encode_audio(self, contexts: Sequence[NDArray[np.float32]]) -> Tensor:
        rows = torch.arange(len(contexts))
        return self._shards.run(
            lambda part: self._model.encode_audio([contexts[i] for i in part]), rows
        )

    def _tokens(self, request: FrameRequest) -> Tensor:
        features, offset = self._features[_key(request)]
        window = request.window
        return self._model.window(features, window.first_step - offset, window.steps - offset)

    def _index(self, request: FrameRequest) -> int:
        return cache.fold(request.source_frame, self._avatars[request.avatar].manifest.frames)

    def _latent(self, request: FrameRequest) -> Tensor:
        avatar = self._avatars[request.avatar]
        # By key: an avatar that is replaced under the same name has other latents.
        whole = self._latents.get(avatar.info.key, lambda: self._uploaded(avatar))
        return whole[self._index(request)]

    def _uploaded(self, avatar: cache.Avatar) -> Tensor:
        latents = torch.from_numpy(np.asarray(avatar.latents))
        return latents.to(self._model.device, self._model.dtype)


def _key(request: FrameRequest) -> tuple[str, int, int]:
    return request.session, request.response_ref, request.window.group


def _context_end(window: AudioWindow, limit: int) -> NDArray[np.float32]:
    """Return the last `limit` samples of a context: what the model encodes at once."""
    return np.frombuffer(window.context, np.float32)[-limit:]
