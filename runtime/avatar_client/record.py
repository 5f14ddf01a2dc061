"""Recordings of responses: a video file with synchronous audio, and a contact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import av
import cv2
import numpy as np

from avatar_client import decoding, errors
from avatar_contracts import video_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from avatar_client.traces import Response, VideoFrame

_NO_PICTURES: Final[Mapping[str, bytes]] = MappingProxyType({})
_TICKS: Final = 90_000
"""Ticks per second of the video track: frame times of 24, 25 and 30 fps are whole numbers."""
SHEET_SUFFIXES: Final = (".png", ".jpg", ".jpeg")
"""Supported formats of a contact sheet."""
_SHEET_COLUMNS: Final = 5
_SHEET_WIDTH: Final = 256
"""Width of one image on the contact sheet, in pixels."""


@dataclass(frozen=True, slots=True)
class Recording:
    """The content of a written file, as read back from it."""

    frames: int
    fps: float
    """Frames per second of media time."""
    video_ms: float
    audio_ms: float
    max_pts_error_ms: float
    """Largest difference between the time of a frame in the file and the time it was sent with."""
    audio_start_ms: float
    """Start of the audio on the timeline of the frames."""


def write_mp4(
    responses: Sequence[Response],
    path: Path,
    disclosure: str = "",
    file: bytes = b"",
    pictures: Mapping[str, bytes] = _NO_PICTURES,
) -> Recording:
    """Write the responses one after another as H.264 and AAC, and return the content of the file.

    A dropped frame extends the frame before it, as in a player. `disclosure` is drawn as a label
    on each frame; empty for no label. The metadata says that the video is generated in any case.
    `file` is that of the session in mode fmp4, which has the pictures and the sound. `pictures` are
    those below patches: `decoding.Decoder`.

    Raises:
        RecordingError: there are no frames to write.
    """
    timed = list(_timeline(responses))
    if not timed:
        raise errors.RecordingError(str(path), "no frame was received")
    decoder = decoding.FileDecoder(file) if file else decoding.Decoder(pictures)
    first = _picture(decoder, timed[0][1])
    height, width = first.shape[:2]
    rate = decoding.SOUND_RATE if file else responses[0].rate
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        container.metadata["comment"] = video_label.comment(disclosure)
        frame_rate = 1000 / responses[0].frame_ms
        video = container.add_stream(
            "libx264", rate=frame_rate, options={"preset": "veryfast", "crf": "20"}
        )
        # 4:2:0 halves both sides, so that they must be even.
        video.width, video.height, video.pix_fmt = width - width % 2, height - height % 2, "yuv420p"
        video.codec_context.time_base = Fraction(1, _TICKS)
        video.codec_context.max_b_frames = 0
        sound = container.add_stream("aac", rate=rate, layout="mono")
        for position, (at_ms, frame) in enumerate(timed):
            image = _picture(decoder, frame) if position else first
            image = video_label.draw(image[: video.height, : video.width], disclosure)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
            frame.pts, frame.time_base = int(at_ms * _TICKS / 1000), Fraction(1, _TICKS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        pcm = _sound_in_file(responses, decoding.FileDecoder(file)) if file else _sound(responses)
        for frame in _sound_frames(pcm, rate):
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return read_back(path, [float(at_ms) for at_ms, _ in timed])


def read_back(path: Path, expected_ms: Sequence[float]) -> Recording:
    """Return the content of a recording; `expected_ms` are the times that its frames must have."""
    with av.open(str(path)) as container:
        times = [float(frame.pts * frame.time_base * 1000) for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        audio_ms = float(stream.duration * stream.time_base * 1000)
        first = next(container.decode(stream))
        audio_start_ms = float(first.pts * first.time_base * 1000)
    if len(times) != len(expected_ms):
        raise errors.RecordingError(str(path), f"it has {len(times)} of {len(expected_ms)} frames")
    span_ms = times[-1] - times[0]
    frame_ms = span_ms / (len(times) - 1) if len(times) > 1 else 0.0
    return Recording(
        frames=len(times),
        fps=1000 / frame_ms if frame_ms else 0.0,
        video_ms=times[-1] + frame_ms,
        audio_ms=audio_ms,
        max_pts_error_ms=max(
            abs(found - expected) for found, expected in zip(times, expected_ms, strict=True)
        ),
        audio_start_ms=audio_start_ms,
    )


def write_sheet(
    responses: Sequence[Response],
    path: Path,
    count: int = 20,
    file: bytes = b"",
    pictures: Mapping[str, bytes] = _NO_PICTURES,
) -> None:
    """Write `count` frames, evenly spread over the responses, with their times.

    `file` is that of the session in mode fmp4, which has the pictures; `pictures` are those below
    patches.
    """
    timed = list(_timeline(responses))
    if not timed:
        raise errors.RecordingError(str(path), "no frame was received")
    chosen = np.unique(np.linspace(0, len(timed) - 1, count).round().astype(int))
    decoder = decoding.FileDecoder(file) if file else decoding.Decoder(pictures)
    tiles = []
    for index, (at_ms, frame) in enumerate(timed):
        is_chosen = index in chosen
        if is_chosen or frame.codec == "h264":  # later frames of H.264 depend on it
            image = _picture(decoder, frame)
        if is_chosen:
            tiles.append(_tile(at_ms, image))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % _SHEET_COLUMNS)
    rows = [np.hstack(tiles[i : i + _SHEET_COLUMNS]) for i in range(0, len(tiles), _SHEET_COLUMNS)]
    if not cv2.imwrite(str(path), np.vstack(rows)):
        raise errors.RecordingError(str(path), "the image cannot be written")


def _picture(
    decoder: decoding.FileDecoder | decoding.Decoder, frame: VideoFrame
) -> NDArray[np.uint8]:
    """Return a frame; one with alpha over white."""
    image = decoder.decode(frame)
    return decoding.over(image) if frame.has_alpha else image


def _timeline(responses: Sequence[Response]) -> Iterator[tuple[Fraction, VideoFrame]]:
    """Yield each frame with its time in milliseconds, the responses one after another."""
    begin_ms = Fraction(0)
    for response in responses:
        for frame in response.frames:
            yield begin_ms + Fraction(frame.pts_ms), frame
        begin_ms += response.frames_due * response.frame_ms


def _sound(responses: Sequence[Response]) -> NDArray[np.int16]:
    """Return the audio on the same timeline: each response is padded to whole frames."""
    pcm = bytearray()
    for position, response in enumerate(responses):
        pcm += response.pcm
        if position < len(responses) - 1:
            padding = response.frames_due * response.samples_per_frame - response.audio_samples
            pcm += bytes(2 * padding)
    return np.frombuffer(bytes(pcm), dtype=np.int16)


def _sound_in_file(
    responses: Sequence[Response], decoder: decoding.FileDecoder
) -> NDArray[np.int16]:
    """Return the audio of the responses from the file of the session."""
    found, rate, parts = decoder.sound(), decoding.SOUND_RATE, []
    for position, response in enumerate(responses):
        first = response.frames[0] if response.frames else None
        if first is None or first.file_ms is None:
            continue
        begin = round((first.file_ms - first.pts_ms) * rate / 1000)
        length_ms = response.audio_ms
        if position < len(responses) - 1:
            length_ms = float(response.frames_due * response.frame_ms)
        parts.append(found[begin : begin + round(length_ms * rate / 1000)])
    return np.concatenate(parts)


def _sound_frames(samples: NDArray[np.int16], rate: int) -> Iterator[Any]:
    """Yield the audio as frames of one second."""
    for start in range(0, len(samples), rate):
        part = samples[start : start + rate]
        frame = av.AudioFrame.from_ndarray(part.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield frame


def _tile(at_ms: Fraction, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height = round(image.shape[0] * _SHEET_WIDTH / image.shape[1])
    tile = cv2.resize(image, (_SHEET_WIDTH, height), interpolation=cv2.INTER_AREA)
    label = f"{float(at_ms) / 1000:.2f} s"
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(tile, label, (8, height - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, thickness)
    return tile  # type: ignore[no-any-return]
