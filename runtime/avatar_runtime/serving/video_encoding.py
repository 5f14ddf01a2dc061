"""Encodes the frames of all sessions off the event loop, on as many threads as there are cores."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from avatar_runtime.protocol.media import RawImage
from avatar_runtime.video.h264 import H264Encoder

if TYPE_CHECKING:
    from avatar_runtime.metrics import Metrics
    from avatar_runtime.protocol.media import VideoFrame


class VideoEncoders:
    """The threads that the sessions share."""

    def __init__(self, metrics: Metrics, fps: int) -> None:
        cores = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(cores, "h264")  # a thread starts with its first frame
        self._metrics = metrics
        self._fps = fps

    def open(self) -> SessionEncoder:
        """Return the encoder of one session."""
        return SessionEncoder(self, H264Encoder(self._fps))

    def close(self) -> None:
        """End the threads after their frames."""
        self._pool.shutdown(wait=False)

    async def run(self, encoder: H264Encoder, frame: VideoFrame) -> bytes:
        """Encode a frame on a thread.

        Raises:
            EncoderError: the encoder failed.
        """
        assert isinstance(frame.image, RawImage)
        assert frame.encoding is not None
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self._pool, encoder.encode, frame.image, frame.encoding)
        self._metrics.observe_stage("h264", time.perf_counter() - began)
        return data


class SessionEncoder:
    """The stream of one session, which waits for each frame before the next."""

    def __init__(self, encoders: VideoEncoders, h264: H264Encoder) -> None:
        self._encoders = encoders
        self._h264 = h264

    async def encode(self, frame: VideoFrame) -> bytes:
        """Return the access unit of a frame that has an `encoding`.

        Raises:
            EncoderError: the encoder failed.
        """
        return await self._encoders.run(self._h264, frame)
