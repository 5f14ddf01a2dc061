"""Right and wrong values for every field of `session.update`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from localcluster.fuzz import values

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    Choices = tuple[tuple[Any, ...], tuple[Any, ...]]

_PCM: Final = {"type": "audio/pcm", "rate": 24000}
_SERVER_VAD: Final = {"type": "server_vad"}
FIELDS: Final[Mapping[str, Choices]] = {
    "type": (("realtime",), ("transcription", None)),
    "id": (("sess_0f",), ("sess_1",)),
    "expires_at": ((1_800_000_000,), (1, "now")),
    "output_modalities": (
        (["audio"], ["audio", "avatar"], ["audio", "avatar"]),
        ("audio", ["text"], [], [1]),
    ),
    "instructions": (("Answer in one sentence.", "", "\u4f60\u597d", "x" * 20_000), ()),
    "tools": (([],), ()),
    "tool_choice": (("auto",), ()),
    "max_output_tokens": (("inf", 100), ()),
    "prompt": ((None,), ()),
    "tracing": ((None, "auto"), ()),
    "audio.input.format": (
        (
            _PCM,
            {"type": "audio/pcm", "rate": 16000},
            {"type": "audio/pcmu"},
            {"type": "audio/pcma"},
        ),
        ({"type": "audio/opus"}, {"type": "audio/pcm", "rate": 44100}, {"rate": 24000}, "pcm16"),
    ),
    "audio.input.turn_detection": (
        (None, _SERVER_VAD, {"type": "semantic_vad", "eagerness": "low"}),
        ({}, {"type": "none"}, "server_vad", {"type": "server_vad", "threshold": "high"}),
    ),
    "audio.input.turn_detection.threshold": ((0, 0.5, 1, 0.95), (-0.1, 1.1, True)),
    "audio.input.turn_detection.prefix_padding_ms": ((0, 300, 5000), (-1, 5001, 0.5)),
    "audio.input.turn_detection.silence_duration_ms": ((100, 200, 500), (0, 10_001)),
    "audio.input.turn_detection.idle_timeout_ms": ((None, 5000, 30_000), (4999, 0)),
    "audio.input.turn_detection.create_response": ((True, False), (0, "yes")),
    "audio.input.turn_detection.interrupt_response": ((True, False), (1, "no")),
    "audio.input.noise_reduction": ((None, {"type": "near_field"}), ()),
    "audio.input.transcription": ((None, {"model": "whisper-1"}), ()),
    "audio.output.format": ((_PCM,), ({"type": "audio/pcmu"}, {}, 1)),
    "audio.output.voice": (("alloy",), ()),
    "audio.output.speed": ((1.0,), ()),
    "avatar.character": (("anna", "ben", "gone"), ("", "carl", None)),
    "avatar.output_protocol": (("websocket",), ("webrtc",)),
    "avatar.video.mode": (
        ("jpeg", "jpeg", "h264", "h264", "fmp4", "fmp4", "none"),
        ("mp4", "H264"),
    ),
    "avatar.video.codec": (("jpeg", "h264"), ("vp9",)),
    "avatar.video.quality": ((1, 80, 100), (0, 101, 80.5)),
    "avatar.video.bitrate": ((100_000, 2_000_000), (1, 10**9)),
    "avatar.video.resolution": (
        ({"width": 64, "height": 2048}, {"width": 256, "height": 256}),
        ({"width": 63, "height": 64}, {"width": 64}, [64, 64]),
    ),
    "avatar.video.region": (("full", "patch", "patch"), ("mouth", None)),
    "avatar.video.crop": (
        (
            None,
            {"top_left": [0, 0], "bottom_right": [64, 64]},
            {"top_left": [10, 0], "bottom_right": [101, 99]},
        ),
        ({"x": 0}, {"top_left": [0, 0], "bottom_right": [5000, 64]}, {"top_left": [0, 0]}),
    ),
    "avatar.background": ((None, "#00FF00", "alpha"), ("green", "#0f0", {"color": "#00ff00"})),
    "avatar.audio_deltas": ((True, True, False), (1,)),
    "avatar.idle": (("none", "stream"), ("stop",)),
    "avatar.transport": (("json", "binary", "binary"), ("BINARY",)),
    "avatar.flow.mode": (("clock", "ack", "ack"), ("none",)),
    "avatar.flow.window_ms": ((200, 1000, 10_000), (199, 10_001, 1e3)),
    "avatar.flow.overrun": (("drop", "pause"), ("grow",)),
    "avatar.drive.start": (("append", "commit", "response.create"), ("create",)),
    "avatar.fps": ((25,), (30,)),
    "avatar.idle_frames": ((0,), (3,)),
    "avatar.idle_url": (("",), ("//evil.example/{frame}",)),
    "avatar.disclosure": (("", "Made by a machine."), (3,)),
    "avatar.scene": (({"zoom": 1},), ()),
}
"""By path: values that a session accepts, and some that it refuses."""
_PATHS: Final = tuple(FIELDS)


def update(random: Random, wrongness: float) -> dict[str, Any]:
    """Return the `session` of an update; each field is wrong with a probability."""
    session: dict[str, Any] = {"type": "realtime"}
    for path in random.sample(_PATHS, random.choice((1, 1, 2, 3, 5))):
        _set(session, path, _value(path, random, wrongness))
    detection = session.get("audio", {}).get("input", {}).get("turn_detection")
    if isinstance(detection, dict) and random.random() > wrongness:
        detection.setdefault("type", "server_vad")
    return session


def _value(path: str, random: Random, wrongness: float) -> Any:
    right, wrong = FIELDS[path]
    if random.random() >= wrongness:
        return random.choice(right)
    if wrong and random.random() < 0.6:
        return random.choice(wrong)
    return values.wrong(random)


def _set(session: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    target = session
    for name in parents:
        inner = target.get(name)
        target[name] = dict(inner) if isinstance(inner, dict) else {}
        target = target[name]
    target[last] = value
