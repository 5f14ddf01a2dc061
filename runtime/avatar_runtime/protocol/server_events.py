"""The bodies of the larger server events: docs/wire-protocol.md, "Server events"."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.errors import ProtocolError
    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.media import AudioChunk, DroppedFrames, VideoFrame, W
    from avatar_runtime.protocol.turn import Turn

PART: Final[Mapping[str, object]] = {"type": "audio", "transcript": ""}
"""A content part in the events of a response; in an item its type is `output_audio`."""


def content_part_ids(
    response_id: str, item_id: str, output_index: int = 0, content_index: int = 0
) -> dict[str, object]:
    """Return the four fields that identify a content part."""
    return {
        "response_id": response_id,
        "item_id": item_id,
        "output_index": output_index,
        "content_index": content_index,
    }


def audio_delta(
    part_ids: Mapping[str, object], epoch: int, audio: AudioFormat, chunk: AudioChunk
) -> dict[str, object]:
    """Return the fields of `response.output_audio.delta`; `part_ids` are `content_part_ids`."""
    return {
        **part_ids,
        "epoch": epoch,
        "pts_ms": milliseconds(chunk.offset_samples, audio.rate),
        "offset_samples": chunk.offset_samples,
        "delta": b64encode(chunk.data).decode("ascii"),
    }


def video_delta(
    response_id: str,
    item_id: str,
    epoch: int,
    frame: VideoFrame,
    *,
    offset_samples: int,
    rate: int,
    fps: int,
) -> dict[str, object]:
    """Return the fields of `response.video.delta`."""
    return {
        "response_id": response_id,
        "item_id": item_id,
        "output_index": 0,
        "codec": frame.codec,
        "mode": frame.mode,
        "epoch": epoch,
        "frame_index": frame.frame_index,
        "offset_samples": offset_samples,
        "pts_ms": milliseconds(offset_samples, rate),
        "keyframe": frame.is_keyframe,
        "idle": False,
        **_in_file(frame, fps),
        **_in_picture(frame),
        "delta": frame.delta,
    }


def _in_picture(frame: VideoFrame) -> dict[str, object]:
    """Return where a patch is, and over which picture; nothing for a whole frame."""
    patch = frame.patch
    if patch is None:
        return {}
    return {"rect": list(patch.rect), "source_frame": patch.source_frame}


def _in_file(frame: VideoFrame, fps: int) -> dict[str, object]:
    """Return where a frame starts in the file of its session; nothing without a file."""
    part = frame.part
    if part is None:
        return {}
    return {"file_ms": compact_number((part.position + part.frames - 1) * 1000 / fps)}


def dropped_frames(response_id: str, dropped: DroppedFrames) -> dict[str, object]:
    """Return the fields of `response.video.dropped`."""
    return {
        "response_id": response_id,
        "first_frame_index": dropped.first,
        "last_frame_index": dropped.last,
        "reason": dropped.reason.value,
    }


def video_done(
    response_id: str,
    item_id: str | None,
    epoch: int,
    status: str,
    *,
    turn: Turn[W],
    fps: int,
) -> dict[str, object]:
    """Return the fields of `response.video.done`; `item_id` is that of the last audio."""
    return {
        "response_id": response_id,
        "item_id": item_id,
        "output_index": 0,
        "epoch": epoch,
        "status": status,
        "frames": turn.frames_sent,
        "dropped": turn.frames_dropped,
        "audio_samples": turn.samples_sent,
        "audio_ms": milliseconds(turn.samples_sent, turn.format.rate),
        "video_ms": compact_number(turn.positions * 1000 / fps),
    }


def idle_frame(epoch: int, frame: VideoFrame, fps: int) -> dict[str, object]:
    """Return the fields of a `response.video.delta` that belongs to no response."""
    return {
        "response_id": None,
        "item_id": None,
        "output_index": 0,
        "codec": frame.codec,
        "mode": frame.mode,
        "epoch": epoch,
        "frame_index": 0,
        "offset_samples": 0,
        "pts_ms": 0,
        "keyframe": frame.is_keyframe,
        "idle": True,
        **_in_file(frame, fps),
        **_in_picture(frame),
        "delta": frame.delta,
    }


def response(
    response_id: str,
    conversation_id: str,
    status: str,
    output: list[dict[str, object]],
    *,
    audio: AudioFormat,
    details: Mapping[str, object] | None,
    metadata: Mapping[str, str] | None,
) -> dict[str, object]:
    """Return the response object of `response.created` and `response.done`."""
    return {
        "id": response_id,
        "object": "realtime.response",
        "status": status,
        "status_details": details,
        "output": output,
        "conversation_id": conversation_id,
        "output_modalities": ["audio"],
        "audio": {"output": {"format": audio.describe()}},
        "metadata": metadata,
        "usage": None,
    }


def error(
    fault: ProtocolError, event_id: str | None, kind: str = "invalid_request_error"
) -> dict[str, object]:
    """Return the error object: docs/wire-protocol.md, "Errors"."""
    return {
        "type": kind,
        "code": fault.code,
        "message": fault.message,
        "param": fault.param,
        "event_id": event_id,
        "value": fault.value,
        "limit": fault.limit,
    }


def milliseconds(samples: int, rate: int) -> int | float:
    """Return a duration in milliseconds, as an integer if it is a whole number."""
    return compact_number(samples * 1000 / rate)


def compact_number(number: float) -> int | float:
    """Return an integer if the number is whole, otherwise round it to three decimals."""
    return int(number) if number == int(number) else round(number, 3)
