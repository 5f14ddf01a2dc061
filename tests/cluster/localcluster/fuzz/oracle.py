"""Checks everything that a session sends, by docs/wire-protocol.md alone."""

from __future__ import annotations

import binascii
import json
from typing import TYPE_CHECKING, Any, Final

from localcluster.fuzz import binary, official, orders, requests
from localcluster.fuzz.conversations import ConversationCheck, PlaybackCheck
from localcluster.fuzz.messages import View
from localcluster.fuzz.requests import RequestCheck
from localcluster.fuzz.responses import ResponseCheck
from localcluster.fuzz.video import VideoModes
from localcluster.fuzz.violation import require

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST: Final = ("session.created", "conversation.created")
_MAX_SEARCHED: Final = 4 << 20
"""Bytes of audio of a session in which the sound of its responses is searched."""


class Oracle:
    """Follows one session as its client, and raises `Violation` for what is wrong."""

    def __init__(
        self,
        *,
        is_client_right: bool = True,
        rules: requests.Rules = requests.DRIVE,
        said: Callable[[], bytes] | None = None,
    ) -> None:
        """`is_client_right` is whether the client sends only values of the official types.

        `said` returns the sound that endpoints have brought so far, if the responses say that; by
        default they say the audio of the client, and their items follow those of the user.
        """
        self._is_client_right = is_client_right
        self._said = said
        self._modes = modes = VideoModes()
        order = orders.Sequences(modes) if said is None else orders.Steps(modes)
        self.view = View()
        self.requests = RequestCheck(rules)
        self.responses = ResponseCheck(self._check_sound, order, modes)
        self.conversation = ConversationCheck(repeats=said is None)
        self.playback = PlaybackCheck(modes)
        self.events = 0
        self.is_closed = False
        """Whether the session has ended; a `response.create` may then have no answer."""
        self._seq = 0
        self._audio = bytearray()
        self._unsure: list[tuple[str | None, bytes]] = []  # audio that may still be refused
        self._heard = 0
        self._has_all_audio = True

    def send(self, content: str | bytes) -> None:
        """Take notice of a message before the session gets it."""
        self.requests.send(content)
        fields = requests.parse(content)
        if isinstance(content, bytes) and (audio := binary.audio(content)) is not None:
            self._unsure.append((None, audio))
        elif fields.get("type") == "input_audio_buffer.append":
            audio = _decoded(fields.get("audio"))
            self._unsure.append((requests.identity(fields)[0], audio))

    def read(self, text: str) -> dict[str, Any]:
        """Check one event of the session and return it.

        Raises:
            Violation: it is not allowed here.
        """
        event: dict[str, Any] = json.loads(text)
        kind = event["type"]
        self.events += 1
        if "seq" not in event:
            require(self._modes.mode != "fmp4", "a frame of a file has no seq")
            self.responses.read_idle_frame(event)
            return event
        self._seq += 1
        require(event["seq"] == self._seq, f"seq {event['seq']} after {self._seq - 1}")
        is_first = kind == _FIRST[self._seq - 1] if self._seq <= len(_FIRST) else kind not in _FIRST
        require(is_first, f"{kind} as message {self._seq}")
        require(event["event_id"].endswith(f"_{self._seq}"), f"event_id {event['event_id']}")
        official.check(kind, text, is_client_right=self._is_client_right)
        if kind == "error":
            self._refuse(event["error"]["event_id"])
        self._modes.read(event)
        self.requests.read(event)
        self.responses.read(event)
        self.conversation.read(event)
        self.playback.read(event)
        self._look(event)
        return event

    def check_quiet(self) -> None:
        """Check what holds whenever the session has nothing to send.

        Raises:
            Violation: a request has no answer, or a sequence of events is incomplete.
        """
        self.requests.check_quiet()
        self.responses.check_quiet()
        self.playback.check_quiet()
        for _, audio in self._unsure:
            self._audio += audio
        self._unsure.clear()
        if len(self._audio) > _MAX_SEARCHED:
            self._has_all_audio = False

    def check_end(self) -> None:
        """Check what holds after the session has said and played everything.

        Raises:
            Violation: something has started and never ends.
        """
        self.check_quiet()
        self.responses.check_end()
        if not self.is_closed:
            self.requests.check_end()
            self.conversation.check_end()
            self.playback.check_end()

    def _look(self, event: dict[str, Any]) -> None:
        view = self.view
        view.seq = event["seq"]
        match event["type"]:
            case "conversation.item.added":
                view.items.append(event["item"]["id"])
            case "session.created" | "session.updated":
                view.is_binary = event["session"]["avatar"]["transport"] == "binary"
            case "error" if event["error"]["code"] == "invalid_binary_frame":
                if event["error"]["param"] in ("seq", "offset_samples"):
                    view.binary_fields[event["error"]["param"]] = event["error"]["limit"]
            case "response.created":
                view.responses.append(event["response"]["id"])
                view.sent_ms = 0.0
            case "response.output_audio.delta" if self.responses.active is not None:
                active = self.responses.active
                view.sent_ms = active.samples * 1000 / active.rate

    def _refuse(self, event_id: str | None) -> None:
        if event_id is None and self._unsure:
            # Which append an error without a name has refused is unknown.
            self._has_all_audio = False
        self._unsure = [(name, audio) for name, audio in self._unsure if name != event_id]

    def _check_sound(self, sound: bytes) -> None:
        """Check that a response has said what it must, without a gap."""
        if self._has_all_audio:
            if self._said is not None:
                sent = self._said()
                self._has_all_audio = len(sent) < _MAX_SEARCHED
            else:
                sent = bytes(self._audio + b"".join(audio for _, audio in self._unsure))
            at = sent.find(sound, self._heard)
            require(at >= 0, f"{len(sound)} bytes of sound that nobody has sent")
            self._heard = at + len(sound)


def _decoded(audio: object) -> bytes:
    if not isinstance(audio, str):
        return b""
    try:
        return binascii.a2b_base64(audio, strict_mode=True)
    except ValueError:
        return b""
