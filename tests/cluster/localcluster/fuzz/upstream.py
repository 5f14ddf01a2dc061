"""A Realtime endpoint at random: it answers, speaks, is silent, sends nonsense and vanishes."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

from localcluster.fuzz import forms, values

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    Event = dict[str, Any]

_PCM: Final = {"type": "audio/pcm", "rate": 24000}
_SESSION: Final[Mapping[str, Any]] = {
    "type": "realtime",
    "object": "realtime.session",
    "id": "sess_upstream",
    "model": "gpt-realtime",
    "output_modalities": ["audio"],
    "audio": {
        "input": {"format": _PCM, "turn_detection": {"type": "server_vad"}},
        "output": {"format": _PCM, "voice": "marin"},
    },
}
_SIZES: Final = (0, 1, 2, 3, 1919, 1920, 4800, 9600, 24_000, 96_000)
_ANSWERS: Final[Mapping[str, str]] = {
    "session.update": "session.updated",
    "input_audio_buffer.commit": "input_audio_buffer.committed",
    "input_audio_buffer.clear": "input_audio_buffer.cleared",
    "conversation.item.create": "conversation.item.added",
    "conversation.item.retrieve": "conversation.item.retrieved",
    "conversation.item.delete": "conversation.item.deleted",
    "conversation.item.truncate": "conversation.item.truncated",
    "response.create": "response.created",
}


class Upstream:
    """Draws the events of one upstream; `wrongness` is how often one has a fault."""

    def __init__(self, random: Random, wrongness: float, *, is_beta: bool = False) -> None:
        """`is_beta` is whether it uses the names of the beta interface."""
        self._random = random
        self._is_beta = is_beta
        self._wrongness = wrongness
        self._responses: list[str] = []
        self._asked: list[Event] = []
        self._count = 0

    def greet(self) -> str:
        """Return the first message of a connection."""
        self._responses.clear()
        self._asked.clear()
        return self._text({"type": "session.created", "session": dict(_SESSION)})

    def ask(self, text: str) -> None:
        """Take a message of the session."""
        event = json.loads(text)
        if event["type"] in _ANSWERS:
            self._asked.append(event)

    def draw(self) -> str:
        """Return the next message."""
        random = self._random
        if self._asked and random.random() < 0.6:
            return self._text(self._answer(self._asked.pop(0)))
        if self._responses and random.random() < 0.85:
            return self._text(self._speak(random.choice(self._responses[-3:])))
        return self._text(self._other())

    def _text(self, event: Event) -> str:
        random = self._random
        self._count += 1
        event["event_id"] = f"event_up_{self._count}"
        if self._is_beta:
            event["type"] = forms.BETA_EVENTS.get(event["type"], event["type"])
        if random.random() < self._wrongness:
            event = values.mutate(event, random)
        elif random.random() < self._wrongness:
            event = values.scramble(event, random)
        text = json.dumps(event)
        if random.random() < self._wrongness / 4:
            text = values.corrupt(text, random)
        return text

    def _answer(self, asked: Event) -> Event:
        random, kind = self._random, asked["type"]
        if random.random() < 0.15:
            error = {"type": "invalid_request_error", "code": "x", "message": "no", "param": None}
            return {"type": "error", "error": {**error, "event_id": asked.get("event_id")}}
        item_id = asked.get("item_id", f"item_up_{self._count}")
        match kind:
            case "session.update":
                return {"type": "session.updated", "session": {**_SESSION, **asked["session"]}}
            case "response.create":
                return self._created()
            case "conversation.item.truncate":
                fields = {name: asked[name] for name in ("content_index", "audio_end_ms")}
                return {"type": _ANSWERS[kind], "item_id": item_id, **fields}
            case "conversation.item.create" | "conversation.item.retrieve":
                item = {"id": item_id, "type": "message", "role": "user", "content": []}
                return {"type": _ANSWERS[kind], "item": item, "previous_item_id": None}
        return {"type": _ANSWERS[kind], "item_id": item_id, "previous_item_id": None}

    def _created(self) -> Event:
        response_id = f"resp_up_{self._count}"
        if self._responses and self._random.random() < 0.05:
            response_id = self._responses[-1]
        self._responses.append(response_id)
        return {"type": "response.created", "response": _response(response_id, "in_progress")}

    def _speak(self, response_id: str) -> Event:
        random = self._random
        ids = {"response_id": response_id, "item_id": f"item_{response_id}", "output_index": 0}
        part = {**ids, "content_index": 0}
        item = {"id": ids["item_id"], "type": "message", "role": "assistant", "content": []}
        match random.choices(range(6), (3, 1, 12, 4, 2, 3))[0]:
            case 0:
                kind = random.choice(("response.output_item.added", "response.output_item.done"))
                item = {**item, "type": random.choice(("message", "function_call"))}
                return {"type": kind, "response_id": response_id, "output_index": 0, "item": item}
            case 1:
                kind = random.choice(("response.content_part.added", "response.content_part.done"))
                return {"type": kind, **part, "part": {"type": "audio", "transcript": ""}}
            case 2:
                audio = base64.b64encode(random.randbytes(random.choice(_SIZES))).decode()
                return {"type": "response.output_audio.delta", **part, "delta": audio}
            case 3:
                return {"type": "response.output_audio_transcript.delta", **part, "delta": "Hm."}
            case 4:
                return {"type": "response.output_audio.done", **part}
        self._responses.remove(response_id)
        status = random.choice(("completed", "completed", "cancelled", "failed", "incomplete"))
        return {"type": "response.done", "response": _response(response_id, status)}

    def _other(self) -> Event:
        random = self._random
        item_id = f"item_up_{self._count // 3}"
        match random.randrange(10):
            case 0:
                kind = "input_audio_buffer.speech_started"
                return {"type": kind, "audio_start_ms": self._count, "item_id": item_id}
            case 1:
                kind = "input_audio_buffer.speech_stopped"
                return {"type": kind, "audio_end_ms": self._count, "item_id": item_id}
            case 2:
                kind = "input_audio_buffer.committed"
                return {"type": kind, "item_id": item_id, "previous_item_id": None}
            case 3:
                return {"type": "rate_limits.updated", "rate_limits": []}
            case 4:
                kind = "conversation.item.input_audio_transcription.completed"
                return {"type": kind, "item_id": item_id, "content_index": 0, "transcript": "Hi"}
            case 5:
                return {"type": "something.new", "value": values.wrong(random)}
            case 6:
                kind = "conversation.item.truncated"
                return {"type": kind, "item_id": item_id, "content_index": 0, "audio_end_ms": 3}
            case 7:
                error = {"type": "t", "message": "m", "event_id": f"evt_{self._count}"}
                return {"type": "error", "error": error}
            case 8:
                return {"type": "response.mcp_call.failed", "item_id": item_id, "output_index": 0}
        return self._created()


def _response(response_id: str, status: str) -> Event:
    return {
        "id": response_id,
        "object": "realtime.response",
        "status": status,
        "status_details": None,
        "output": [],
        "conversation_id": "conv_up",
        "output_modalities": ["audio"],
        "metadata": None,
        "usage": None,
    }
