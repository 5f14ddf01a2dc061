"""The messages of a client at random: right, nearly right, wrong and hostile."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

from localcluster.fuzz import binary, settings, values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

POOL: Final = 1 << 20
_SIZES: Final = (
    *(0, 1, 2, 3, 5, 319, 320, 321, 640, 641, 767, 1280, 1535, 1919, 1920, 1921, 3841, 5760, 9999),
    *(1536, 1536, 1536, 1536, 3072, 4608, 4800, 9600, 14_400, 24_000),
)
_LARGE_SIZES: Final = (48_000, 96_001, 480_000)
_MOST_SIZES: Final = (4_800_000, 14_400_000, 15 * 1024 * 1024, 15 * 1024 * 1024 + 3)
_TEXTS: Final = (
    *("Good morning. How are you?", "One. Two! Three?", "...", "\U0001f600", " ", "no end"),
    *("x" * 700, "word " * 200, "y" * 16_384, "z" * 16_385),
)
_RIFF: Final = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\x00\x00\x00\x01\x00\x02\x00\x44\xac\x00\x00"


BY_CLOCK: Final = {"type": "realtime", "avatar": {"flow": {"mode": "clock"}}}
"""A session whose end of playback needs no acknowledgement."""


def event(kind: str, **fields: Any) -> str:
    """Return a message without faults."""
    return json.dumps({"type": kind, **fields})


@dataclass(slots=True)
class View:
    """What a client knows of its session; `oracle` keeps it."""

    items: list[str] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    sent_ms: float = 0.0
    """Audio of the newest response that has arrived, milliseconds."""
    is_binary: bool = False
    """Whether the session takes binary messages."""
    seq: int = 0
    """Number of the message that has arrived last."""
    binary_fields: dict[str, int] = field(default_factory=dict)
    """What the next binary message must have, by the last errors about one."""


@dataclass(slots=True)
class Style:
    """How one client behaves."""

    weights: Mapping[str, float]
    """How often each kind of message occurs, relative to the others."""
    wrongness: float
    """How often a field is wrong."""
    mutations: float
    """How often a right message is changed afterwards."""
    corruptions: float
    """How often the text of a message is damaged."""
    voice: float
    """How often a piece of audio is speech."""
    large: float = 0.002
    """How often audio is large."""


STYLES: Final = (
    Style({}, 0.05, 0.02, 0.01, 1.0),
    Style({}, 0.0, 0.0, 0.0, 0.6),
    Style({"append": 60, "update": 1}, 0.0, 0.0, 0.0, 0.5),
    Style({"append": 120, "commit": 1, "create": 1, "cancel": 1}, 0.02, 0.0, 0.0, 0.4),
    Style({"cancel": 30, "create": 30, "clear_output": 20}, 0.05, 0.0, 0.0, 1.0),
    Style({"clear_input": 20, "truncate": 20, "delete": 10, "retrieve": 10}, 0.05, 0.0, 0.0, 1.0),
    Style({"update": 60}, 0.4, 0.1, 0.02, 0.5),
    Style({"ack": 30, "append": 60}, 0.2, 0.05, 0.02, 0.7),
    Style({}, 0.3, 0.5, 0.3, 0.5, large=0.01),
)
_USUAL: Final[Mapping[str, float]] = {
    "append": 35,
    "commit": 8,
    "clear_input": 3,
    "clear_output": 3,
    "cancel": 5,
    "create": 9,
    "truncate": 4,
    "retrieve": 3,
    "delete": 2,
    "update": 7,
    "ack": 5,
    "keyframe": 1,
    "create_item": 2,
    "unknown": 1,
    "binary": 0.5,
}


class Client:
    """Draws the messages of one client."""

    def __init__(
        self,
        random: Random,
        style: Style,
        view: View,
        in_form: Callable[[dict[str, Any]], dict[str, Any]] = lambda document: document,
    ) -> None:
        """`in_form` writes a message of the GA form in the form of the client."""
        self._random = random
        self._in_form = in_form
        self._style = style
        self._view = view
        self._makers: Mapping[str, Callable[[], dict[str, Any]]] = {
            "append": self._append,
            "commit": lambda: {"type": "input_audio_buffer.commit"},
            "clear_input": lambda: {"type": "input_audio_buffer.clear"},
            "clear_output": lambda: {"type": "output_audio_buffer.clear"},
            "cancel": self._cancel,
            "create": self._create,
            "truncate": self._truncate,
            "retrieve": lambda: {"type": "conversation.item.retrieve", "item_id": self._item()},
            "delete": lambda: {"type": "conversation.item.delete", "item_id": self._item()},
            "update": self._update,
            "ack": self._ack,
            "keyframe": lambda: {"type": "output_video_buffer.request_keyframe"},
            "create_item": self._create_item,
            "unknown": self._unknown,
        }
        weights = {**_USUAL, **style.weights}
        self._kinds, self._weights = tuple(weights), tuple(weights.values())
        self._count = 0
        self._at = random.randrange(POOL)
        self._is_voice = False
        self._microphone = binary.Microphone(
            random, self.sound, style.wrongness / 4, view.binary_fields
        )

    def draw(self) -> str | bytes:
        """Return the next message."""
        random, style = self._random, self._style
        self._count += 1
        [kind] = random.choices(self._kinds, self._weights)
        if self._view.is_binary and kind in ("append", "binary") and random.random() < 0.6:
            return self._microphone.draw()
        if kind == "binary":
            return random.randbytes(random.choice((0, 1, 100)))
        document = self._makers[kind]()
        if random.random() > style.wrongness / 4:
            document["event_id"] = f"evt_{self._count}"
        if random.random() < 0.9:
            document = self._in_form(document)
        if random.random() < style.mutations:
            document = values.mutate(document, random)
        text = json.dumps(document, ensure_ascii=random.random() < 0.5)
        if random.random() < style.corruptions:
            text = values.corrupt(text, random)
        return text

    def sound(self, size: int) -> bytes:
        """Return the next bytes of speech or of silence."""
        pool = _VOICE if self._is_voice else _QUIET
        self._at = (self._at + size) % POOL
        start = (self._at - size) % POOL
        piece = pool[start : start + size]
        while len(piece) < size:
            piece += pool[: size - len(piece)]
        return piece

    def _append(self) -> dict[str, Any]:
        random, style = self._random, self._style
        if random.random() < 0.15:
            self._is_voice = random.random() < style.voice
        size = random.choice(_SIZES)
        if random.random() < style.large:
            size = random.choice(_LARGE_SIZES if random.random() < 0.98 else _MOST_SIZES)
        audio = self.sound(size)
        if random.random() < 0.002:
            audio = (_RIFF + audio)[: random.randrange(60)]
        text = base64.b64encode(audio).decode()
        if random.random() < style.wrongness / 4:
            text = random.choice(
                (text + "=", text[:-1] + "*", "\n" + text + "\n", "====", "é", "A")
            )
        else:
            self._microphone.skip(len(audio))
        return {"type": "input_audio_buffer.append", "audio": text}

    def _cancel(self) -> dict[str, Any]:
        event: dict[str, Any] = {"type": "response.cancel"}
        if self._random.random() < 0.4:
            event["response_id"] = self._response()
        return event

    def _create(self) -> dict[str, Any]:
        random = self._random
        event: dict[str, Any] = {"type": "response.create"}
        if random.random() < 0.9:
            event["response"] = {"metadata": {"number": str(self._count)}}
            if random.random() < 0.2:
                extra = random.choice(
                    ("instructions", "tools", "conversation", "output_modalities")
                )
                event["response"][extra] = values.wrong(random)
            elif random.random() < 0.2:
                event["response"]["instructions"] = random.choice(_TEXTS)
            elif random.random() < 0.1:
                event["response"]["input"] = [self._message() for _ in range(random.randint(0, 2))]
        return event

    def _truncate(self) -> dict[str, Any]:
        random = self._random
        sent = int(self._view.sent_ms)
        end = random.choice((0, sent // 2, sent, sent + 1, -1, 86_400_000))
        return {
            "type": "conversation.item.truncate",
            "item_id": self._item(),
            "content_index": 0 if random.random() > self._style.wrongness else 1,
            "audio_end_ms": end,
        }

    def _update(self) -> dict[str, Any]:
        session = settings.update(self._random, self._style.wrongness)
        return {"type": "session.update", "session": session}

    def _ack(self) -> dict[str, Any]:
        sent = self._view.sent_ms
        pts = self._random.choice((0, 0.5, sent / 2, sent, sent, sent + 1000, 86_400_001, -1))
        fields = {"type": "output_video_buffer.ack", "response_id": self._response(), "pts_ms": pts}
        if self._random.random() < 0.5:
            fields["seq"] = self._view.seq
            if self._random.random() < self._style.wrongness:
                fields["seq"] = self._random.choice((-1, "1", 10**6, 2**32))
        return fields

    def _create_item(self) -> dict[str, Any]:
        return {"type": "conversation.item.create", "item": self._message()}

    def _message(self) -> dict[str, Any]:
        random = self._random
        role = random.choice(("user", "user", "user", "system", "assistant"))
        kind = "output_text" if role == "assistant" else "input_text"
        texts = random.choices(_TEXTS, k=random.choice((1, 1, 1, 3)))
        content = [{"type": kind, "text": text} for text in texts]
        item: dict[str, Any] = {"type": "message", "role": role, "content": content}
        if random.random() < 0.2:
            item["id"] = random.choice(
                (f"note_{self._count}", "note_1", "item_0f_a2", "item_0f_u1")
            )
        if random.random() < self._style.wrongness:
            item[random.choice(("role", "id", "content", "type"))] = values.wrong(random)
        return item

    def _unknown(self) -> dict[str, Any]:
        kinds = (
            *("session.avatar.connect", "session.resume", "session.destroy", "", "error"),
            *("transcription_session.update", "response.done", "input_audio_buffer.append "),
        )
        return {"type": self._random.choice(kinds), "session_id": "sess_0f", "last_seq": 3}

    def _item(self) -> str:
        if self._view.items and self._random.random() < 0.9:
            return self._random.choice(self._view.items[-4:])
        return self._random.choice(("item_none", "", "x" * 100))

    def _response(self) -> str:
        if self._view.responses and self._random.random() < 0.9:
            return self._random.choice(self._view.responses[-3:])
        return self._random.choice(("resp_none", ""))


def _pools() -> tuple[bytes, bytes]:
    noise = Random(1).randbytes(POOL)
    # Both bytes of a sample, so that the level does not depend on the format.
    return noise.translate(bytes(32 + n // 2 for n in range(256))), noise.translate(
        bytes(n % 8 for n in range(256))
    )


_VOICE, _QUIET = _pools()
