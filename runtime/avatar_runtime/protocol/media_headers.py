"""The headers of binary messages with the media of a response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_contracts.binary_messages import NO_FLAGS, Flag, Header, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.media import AudioChunk, VideoFrame, W
    from avatar_runtime.protocol.turn import Turn

_KINDS: Final[Mapping[str, Kind]] = {"jpeg": Kind.JPEG, "h264": Kind.H264, "fmp4": Kind.FMP4}


def audio(chunk: AudioChunk, turn: Turn[W], ref: int, epoch: int) -> Header:
    """Return the header of audio that `turn` has just given; `ref` is that of its response."""
    end = chunk.offset_samples + len(chunk.data) // turn.format.bytes_per_sample
    is_last = turn.has_given_all_audio and end == turn.samples
    return Header(
        Kind.OUTPUT_AUDIO,
        offset_samples=chunk.offset_samples,
        flags=Flag.LAST if is_last else NO_FLAGS,
        epoch=epoch,
        response_ref=ref,
    )


def frame(frame: VideoFrame, turn: Turn[W], ref: int, epoch: int, *, offset_samples: int) -> Header:
    """Return the header of a frame that `turn` has just given; `ref` is that of its response."""
    flags = _flags(frame)
    if turn.is_exhausted:
        flags |= Flag.LAST
    if turn.is_after_gap:
        flags |= Flag.DISCONTINUITY
    return Header(
        _KINDS[frame.mode],
        offset_samples=offset_samples,
        flags=flags,
        epoch=epoch,
        response_ref=ref,
        frame_index=frame.frame_index,
    )


def idle_frame(frame: VideoFrame, epoch: int) -> Header:
    """Return the header of a frame that belongs to no response."""
    flags = _flags(frame) | Flag.IDLE
    return Header(_KINDS[frame.mode], flags=flags, epoch=epoch, frame_index=0)


def _flags(frame: VideoFrame) -> Flag:
    flags = Flag.KEYFRAME if frame.is_keyframe else NO_FLAGS
    return flags if frame.patch is None else flags | Flag.PATCH
