"""The errors of `input_audio_buffer` events that every mode reports alike."""

from __future__ import annotations

from avatar_runtime.errors import ProtocolError


def check_length(seconds: float, limit_s: int) -> None:
    """Check how much audio would wait, seconds.

    Raises:
        ProtocolError: it is more than the limit.
    """
    if seconds > limit_s:
        raise ProtocolError(
            "input_audio_buffer_full",
            f"{seconds:.1f} s of audio would wait, must be at most {limit_s} s",
            param="audio",
            value=round(seconds, 1),
            limit=limit_s,
        )


def nothing_to_commit() -> ProtocolError:
    """Return the error for a commit without an open utterance."""
    message = "input_audio_buffer.commit found no audio to commit"
    return ProtocolError("input_audio_buffer_commit_empty", message, param="type")
