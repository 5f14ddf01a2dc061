"""Azure Voice Live: the beta form with fields of its own, and video only for who asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_runtime.protocol.dialects.beta import Beta

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.dialects.beta import Fields

PATH: Final = "/voice-live/realtime"
_PCM_RATES: Final = {"pcm16_8000hz": 8000, "pcm16_16000hz": 16000}
_DEFAULT_RATE: Final = 24000


class VoiceLive(Beta):
    """Translates between the form of Azure Voice Live and the GA form of a session."""

    def session_to_ga(self, session: Fields) -> Fields:
        """Return the `session` of a `session.update` in the GA form."""
        rest = dict(session)
        rate = rest.pop("input_audio_sampling_rate", None)
        if rate is not None and rest.get("input_audio_format", "pcm16") == "pcm16":
            audio = rest.get("audio")
            received = audio.get("input") if isinstance(audio, dict) else None
            rest["audio"] = {
                **(audio if isinstance(audio, dict) else {}),
                "input": {
                    **(received if isinstance(received, dict) else {}),
                    "format": {"type": "audio/pcm", "rate": rate},
                },
            }
            rest.pop("input_audio_format", None)
        return super().session_to_ga(rest)

    def format_to_ga(self, name: object) -> Fields:
        """Return a format of audio."""
        if isinstance(name, str) and name in _PCM_RATES:
            return {"type": "audio/pcm", "rate": _PCM_RATES[name]}
        return super().format_to_ga(name)

    def session_from_ga(self, session: Fields) -> Fields:
        """Return a session object in the form of the client."""
        translated = dict(super().session_from_ga(session))
        rate = _rate_of(session)
        if rate is not None:
            translated["input_audio_sampling_rate"] = rate
        if str(translated["input_audio_format"]).startswith("pcm16"):
            translated["input_audio_format"] = "pcm16"
        return translated

    def format_from_ga(self, audio: Fields) -> object:
        """Return the name of a format of audio."""
        if audio.get("type") == "audio/pcm":
            for name, rate in _PCM_RATES.items():
                if audio.get("rate") == rate:
                    return name
        return super().format_from_ga(audio)

    def modalities_from_ga(self, modalities: object, session: Fields) -> list[object]:
        """Return the modalities; `avatar` is one of them if the client gets video."""
        named = super().modalities_from_ga(modalities, session)
        return [*named, "avatar"] if _has_video(session) else named


def _rate_of(session: Fields) -> object:
    found: object = session
    for name in ("audio", "input", "format"):
        found = found.get(name) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        return None
    return found.get("rate", 8000 if found.get("type") != "audio/pcm" else _DEFAULT_RATE)


def _has_video(session: Mapping[str, object]) -> bool:
    avatar = session.get("avatar")
    video = avatar.get("video") if isinstance(avatar, dict) else None
    return isinstance(video, dict) and video.get("mode") != "none"
