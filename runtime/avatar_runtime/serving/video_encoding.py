"""Encodes the frames of all sessions off the event loop, on as many threads as the pod has CPUs."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING

from avatar_runtime import cpus
from avatar_runtime.protocol.media import RawImage
from avatar_runtime.video import h264
from avatar_runtime.video.fmp4 import FileEncoder

if TYPE_CHECKING:
    from avatar_runtime.metrics import Metrics
    from avatar_runtime.protocol.media import VideoFrame


class VideoEncoders:
    """The threads that the sessions share."""

    def __init__(self, metrics: Metrics, fps: int) -> None:
        cores = cpus.find().count
        self._pool = ThreadPoolExecutor(cores, "h264")  # a thread starts with its first frame
        # Idle frames of many sessions leave threads to those that speak.
        self._idle_turns = asyncio.Semaphore(max(1, cores // 2))
        self._metrics = metrics
        self._fps = fps
        self.codec = h264.SOFTWARE
        """The encoder of new sessions in mode h264; those in fmp4 have the one in software."""

    def open(self) -> SessionEncoder:
        """Return the encoder of one session."""
        return SessionEncoder(self, self._fps)

    def close(self) -> None:
        """End the threads after their frames."""
        self._pool.shutdown(wait=False)

    async def run(self, encoder: SessionEncoder, frame: VideoFrame) -> bytes:
        """Encode a frame on a thread.

        Raises:
            EncoderError: the encoder failed.
        """
        async with self._idle_turns if frame.is_idle else nullcontext():
            began = time.perf_counter()
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(self._pool, encoder.encode_now, frame)
            self._metrics.observe_stage(frame.mode, time.perf_counter() - began)
        return data


class SessionEncoder:
    """The stream of one session, which waits for each frame before the next."""

    def __init__(self, encoders: VideoEncoders, fps: int) -> None:
        self._encoders = encoders
        self._fps = fps
        self._h264 = h264.H264Encoder(fps, encoders.codec)
        self._file: FileEncoder | None = None

    async def encode(self, frame: VideoFrame) -> bytes:
        """Return the access unit of a frame that has an `encoding`, or its part of the file.

        Raises:
            EncoderError: the encoder failed.
        """
        return await self._encoders.run(self, frame)

    def encode_now(self, frame: VideoFrame) -> bytes:
        """Do the same on this thread.

        Raises:
            EncoderError: the encoder failed.
        """
        assert isinstance(frame.image, RawImage)
        assert frame.encoding is not None
        part = frame.part
        if part is None:
            return self._h264.encode(frame.image, frame.encoding)
        if self._file is None or part.position == 0:
            self._file = FileEncoder(self._fps)
        return self._file.encode(frame.image, frame.encoding, part)
