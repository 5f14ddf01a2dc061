"""Speaks an audio file or a text, records the response, and returns measurements."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from avatar_client import idle_loop, record, session, sound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from avatar_client.traces import Response


_FRAMES_BEHIND: Final = 5
"""Frames after which the file of a session has the sound of a frame."""
FRAMES_DROPPED: Final = "frames_dropped"
"""Code of the warning of this client about a video with gaps."""


@dataclass(frozen=True, slots=True)
class Request:
    """The audio to speak, and the files to write."""

    audio: Path
    out: Path | None
    """Video file; `None` writes no video."""
    sheet: Path | None
    """Contact sheet; `None` writes no sheet."""
    chunk_ms: int
    realtime: bool
    """Whether audio is sent at the rate of a microphone; otherwise in one burst."""
    settings: Mapping[str, Any] | None = None
    """Fields of a `session.update` at the start; `None` sends no update."""


@dataclass(frozen=True, slots=True)
class Text:
    """The text to say, and the files to write."""

    text: str
    out: Path | None
    """Video file; `None` writes no video."""
    sheet: Path | None
    """Contact sheet; `None` writes no sheet."""
    settings: Mapping[str, Any] | None = None
    """Fields of a `session.update` at the start; `None` sends no update."""


async def run(target: session.Target, request: Request) -> Mapping[str, Any]:
    """Run one session with one utterance and return its measurements.

    `ok` is true if the response is complete and no message violates the protocol.
    """
    speech = sound.read(request.audio)
    started_at = monotonic()
    async with session.connect(target) as live:
        connected = monotonic()
        if request.settings is not None:
            await live.update(request.settings)
        response = await live.speak(speech, chunk_ms=request.chunk_ms, realtime=request.realtime)
        await _rest_of_file(live)
        pictures = await _pictures(target, request, response)
    measurements = {
        **describe(live, response),
        "connect_ms": round((connected - started_at) * 1000, 1),
    }
    measurements |= _write(live, response, request, measurements, pictures)
    # The sound of a file is compressed.
    same_sound = None if live.trace.file else bytes(response.pcm) == speech.pcm
    complete = response.status == "completed" and response.audio_samples == speech.samples
    ok = complete and same_sound is not False and not live.trace.violations
    return {"ok": ok, **measurements, "audio_unchanged": same_sound}


async def say(target: session.Target, request: Text) -> Mapping[str, Any]:
    """Run one session of a service in mode speech with one text and return its measurements.

    `ok` is true if the response is complete and no message violates the protocol.
    """
    started_at = monotonic()
    async with session.connect(target) as live:
        connected = monotonic()
        if request.settings is not None:
            await live.update(request.settings)
        response = await live.say(request.text)
        await _rest_of_file(live)
        pictures = await _pictures(target, request, response)
    measurements = {
        **describe(live, response),
        "connect_ms": round((connected - started_at) * 1000, 1),
    }
    measurements |= _write(live, response, request, measurements, pictures)
    ok = response.status == "completed" and response.audio_samples > 0
    return {"ok": ok and not live.trace.violations, **measurements}


async def _rest_of_file(live: session.Session) -> None:
    """Wait for the sound of the last frames, which in a file is a little behind them."""
    if live.trace.file:
        for _ in range(_FRAMES_BEHIND):
            await live.wait_for("response.video.delta")


async def _pictures(
    target: session.Target, request: Request | Text, response: Response
) -> Mapping[str, bytes]:
    """Return the pictures below the patches of a response that is recorded."""
    is_recorded = request.out is not None or request.sheet is not None
    return await idle_loop.fetch(target, response.frames) if is_recorded else {}


def _write(
    live: session.Session,
    response: Response,
    request: Request | Text,
    measurements: Mapping[str, Any],
    pictures: Mapping[str, bytes],
) -> Mapping[str, Any]:
    """Write the files of a request, and return what the video file changes."""
    recorded: Mapping[str, Any] = {}
    if request.out is not None:
        recording = record.write_mp4(
            [response], request.out, live.trace.disclosure, bytes(live.trace.file), pictures
        )
        recorded = _recorded(recording, measurements)
    if request.sheet is not None:
        file = bytes(live.trace.file)
        record.write_sheet([response], request.sheet, file=file, pictures=pictures)
    return recorded


def _video_kbps(response: Response) -> float | None:
    """Return what the frames took of the connection, kbit per second of video."""
    if not response.video_ms:
        return None
    return round(sum(frame.wire_bytes for frame in response.frames) * 8 / response.video_ms, 1)


def describe(live: session.Session, response: Response) -> Mapping[str, Any]:
    """Return the measurements of the response to the last utterance."""
    said = live.utterances[-1]
    first = response.frames[0].at if response.frames else None
    wall_s = (response.done_at or response.created_at) - response.created_at
    return {
        "session_id": live.trace.session_id,
        "response_id": response.response_id,
        "status": response.status,
        "first_frame_ms": _since(said.started_at, first),
        "first_frame_after_audio_ms": _since(said.enough_at or said.started_at, first),
        "frames": len(response.frames),
        "frames_dropped": len(response.dropped),
        "video_kbps": _video_kbps(response),
        "frames_due": response.frames_due,
        "fps": _media_fps(response),
        "wall_s": round(wall_s, 3),
        "realtime_factor": round(response.audio_ms / 1000 / wall_s, 3) if wall_s else None,
        "audio_ms": response.audio_ms,
        "video_ms": response.video_ms,
        "max_pts_error_ms": response.max_pts_error_ms,
        "violations": live.trace.violations,
        "errors": live.trace.errors,
        "warnings": [*live.trace.warnings, *_drop_warnings(response)],
    }


def _drop_warnings(response: Response) -> Sequence[Mapping[str, Any]]:
    """Return the warning that the server dropped frames, which is allowed, or nothing."""
    if not response.dropped:
        return []
    message = (
        f"{len(response.dropped)} of {response.frames_due} frames were dropped by the server; "
        "the image before each of them is shown longer; --every-frame receives all frames"
    )
    return [{"code": FRAMES_DROPPED, "message": message}]


def _recorded(recording: record.Recording, measurements: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the measurements of the file; the time error is the larger of wire and file."""
    return {
        "fps": round(recording.fps, 4),
        "audio_ms": round(recording.audio_ms, 3),
        "video_ms": round(recording.video_ms, 3),
        "max_pts_error_ms": round(
            max(
                measurements["max_pts_error_ms"],
                recording.max_pts_error_ms,
                abs(recording.audio_start_ms),
            ),
            3,
        ),
    }


def _media_fps(response: Response) -> float | None:
    if len(response.frames) < 2:
        return None
    first, last = response.frames[0], response.frames[-1]
    return round((len(response.frames) - 1) * 1000 / (last.pts_ms - first.pts_ms), 4)


def _since(begin: float, end: float | None) -> float | None:
    return None if end is None else round((end - begin) * 1000, 1)
