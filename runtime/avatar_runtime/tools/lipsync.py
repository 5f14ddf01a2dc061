"""Offline: an audio file in, a talking video out, through the same engine as a session."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import av
import cv2
import numpy as np

from avatar_contracts import media_files, video_label
from avatar_contracts.environment import Fault
from avatar_runtime import errors
from avatar_runtime.audio import energy, resampling, utterance
from avatar_runtime.avatars import cache
from avatar_runtime.batching.frames import FrameRequest
from avatar_runtime.engine.engine import Engine
from avatar_runtime.protocol.session_config import source_position
from avatar_runtime.settings import FRAME_RATES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from avatar_runtime.avatars.cache import AvatarInfo
    from avatar_runtime.batching.frames import AudioWindow, Frame
    from avatar_runtime.engine.device import Device

_DEFAULT_RATE: Final = 24_000
_DEFAULT_FPS: Final = 25
_QUALITY: Final = 95
_CRF: Final = "18"
SESSION_OPTIONS: Final = utterance.AudioOptions(silence_dbfs=energy.SPEECH_DBFS)


@dataclass(frozen=True, slots=True)
class AudioClip:
    """Mono PCM16."""

    samples: NDArray[np.int16]
    rate: int


def run(
    device: Device,
    model_dir: Path,
    avatar_dir: Path,
    audio: Path,
    out: Path,
    *,
    frames_dir: Path | None = None,
    batch_size: int = 8,
    audio_options: utterance.AudioOptions = SESSION_OPTIONS,
) -> dict[str, int | float]:
    """Make the video and return its summary, as the command prints it.

    Raises:
        SettingsError: an output cannot be written.
        AssetError: the audio, the model or the avatar is unusable.
        EngineError: a batch failed.
    """
    began = time.perf_counter()
    _prepare_outputs(out, frames_dir)
    clip = read_audio(audio)
    _check_avatar(avatar_dir)
    avatar, frames = asyncio.run(
        _render(device, model_dir, avatar_dir, clip, batch_size, audio_options)
    )
    files = [np.frombuffer(frame.image, np.uint8) for frame in frames]
    decoded = [np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8) for file in files]
    fps = _frame_rate(avatar)
    write_video(out, decoded, fps, clip, avatar.disclosure)
    if frames_dir is not None:
        for i, image in enumerate(decoded):
            cv2.imwrite(str(frames_dir / f"{i:06d}.png"), image)
    return {
        "frames": len(frames),
        "fps": fps,
        "audio_ms": 1000 * len(clip.samples) / clip.rate,
        "video_ms": 1000 * len(frames) / fps,
        "wall_s": round(time.perf_counter() - began, 3),
    }


def _prepare_outputs(out: Path, frames_dir: Path | None) -> None:
    """Make the folders of the outputs and check that the video can be written.

    Raises:
        SettingsError: an output cannot be written.
    """
    _make_folder(out.parent, Fault("--out", str(out), "in a folder that can be made"))
    if frames_dir is not None:
        limit = "a folder, or a folder that can be made"
        _make_folder(frames_dir, Fault("--frames-dir", str(frames_dir), limit))
    fault = media_files.output_fault("--out", out, media_files.VIDEO_SUFFIXES)
    if fault is not None:
        raise errors.SettingsError(fault)


def _make_folder(folder: Path, fault: Fault) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        limit = f"{fault.limit} ({error.strerror})"
        raise errors.SettingsError(replace(fault, limit=limit)) from error


def _check_avatar(folder: Path) -> None:
    """Read the avatar before the model is loaded: the engine blames the folder around it.

    Raises:
        AssetError: the avatar is unusable.
    """
    if not folder.exists():
        raise errors.AssetError(str(folder), "does not exist")
    if not folder.is_dir():
        raise errors.AssetError(str(folder), "is a file, an avatar is a folder")
    if not (folder / "manifest.json").exists():
        fault = "is not an avatar, it has no manifest.json; `avatar-runtime prepare` makes avatars"
        raise errors.AssetError(str(folder), fault)
    cache.read(folder)


def read_audio(path: Path) -> AudioClip:
    """Return the first audio stream of a file as mono, at its own rate if sessions support it.

    Raises:
        AssetError: the file has no readable audio.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise errors.AssetError(str(path), "has no sound")
            stream = container.streams.audio[0]
            rate = stream.rate if stream.rate in resampling.INPUT_RATES else _DEFAULT_RATE
            resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
            parts = [
                part.to_ndarray()[0]
                for frame in (*container.decode(stream), None)
                for part in resampler.resample(frame)
            ]
    except (OSError, av.FFmpegError) as error:
        fault = f"no audio can be read: {media_files.read_fault(error)}"
        raise errors.AssetError(str(path), fault) from error
    if not parts:
        raise errors.AssetError(str(path), "the audio is empty")
    return AudioClip(np.concatenate(parts), rate)


def write_video(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    fps: int,
    clip: AudioClip,
    disclosure: str = "",
) -> None:
    """Write an MP4 file with H.264 and AAC; timestamps count frames and samples.

    `disclosure` is drawn as a label on each frame; empty for no label.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        container.metadata["comment"] = video_label.comment(disclosure)
        video: Any = container.add_stream("libx264", rate=fps, options={"crf": _CRF})
        # H.264 with 4:2:0 chroma subsampling needs even sides.
        video.width, video.height, video.pix_fmt = width // 2 * 2, height // 2 * 2, "yuv420p"
        speech: Any = container.add_stream("aac", rate=clip.rate)
        speech.layout = "mono"
        for i, image in enumerate(frames):
            even = np.ascontiguousarray(image[: video.height, : video.width])
            labelled = video_label.draw(even, disclosure)
            frame = av.VideoFrame.from_ndarray(labelled, format="bgr24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        audio = av.AudioFrame.from_ndarray(clip.samples[None], format="s16", layout="mono")
        audio.sample_rate, audio.pts, audio.time_base = clip.rate, 0, Fraction(1, clip.rate)
        container.mux(speech.encode(audio))
        container.mux(speech.encode(None))


async def _render(
    device: Device,
    model_dir: Path,
    avatar_dir: Path,
    clip: AudioClip,
    batch_size: int,
    audio_options: utterance.AudioOptions,
) -> tuple[AvatarInfo, list[Frame]]:
    engine = Engine(
        device, model_dir, avatar_dir.parent, batch_size, avatar_names=[avatar_dir.name]
    )
    try:
        await engine.start()
        avatar = engine.avatars[avatar_dir.name]
        speech = utterance.Utterance(
            clip.rate, _frame_rate(avatar), engine.model.context_s, audio_options
        )
        speech.append(clip.samples.astype("<i2").tobytes())
        speech.finish()
        requests = [_request(avatar, window) for window in speech.take()]
        spoken = [request for request in requests if not request.window.silent]
        frames = list(await engine.idle_frames([r for r in requests if r.window.silent]))
        for at in range(0, len(spoken), batch_size):
            frames += await engine.run(spoken[at : at + batch_size])
        return avatar, sorted(frames, key=lambda frame: frame.request.frame_index)
    finally:
        await engine.stop()


def _frame_rate(avatar: AvatarInfo) -> int:
    """Return the frame rate of the video: that of the avatar if sessions support it."""
    return avatar.fps if avatar.fps in FRAME_RATES else _DEFAULT_FPS


def _request(avatar: AvatarInfo, window: AudioWindow) -> FrameRequest:
    return FrameRequest(
        session="lipsync",
        response_ref=1,
        epoch=0,
        frame_index=window.frame_index,
        deadline=0.0,
        avatar=avatar.key,
        source_frame=source_position(window.frame_index, _frame_rate(avatar), avatar.fps),
        window=window,
        quality=_QUALITY,
        width=avatar.width,
        height=avatar.height,
    )
