"""The chat endpoint: the conversation in, the text of the answer out as it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from avatar_contracts import documents
from avatar_runtime.upstream.errors import LegError
from avatar_runtime.upstream.event_stream import EventStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from avatar_runtime.upstream.http_leg import HttpLeg

MAX_CHARACTERS: Final = 16 * 1024
"""Text of one answer, at most: about 18 minutes of speech."""
_MAX_BYTES: Final = 8 * 1024 * 1024
_STREAM: Final = "text/event-stream"
_JSON: Final = "application/json"


class ChatLeg:
    """Asks the endpoint for one answer at a time."""

    def __init__(self, http: HttpLeg) -> None:
        self._http = http

    async def answer(self, messages: Sequence[Mapping[str, str]]) -> AsyncGenerator[str]:
        """Yield the text of the answer in parts.

        Raises:
            LegError: the endpoint failed, or sent something else than an answer.
        """
        body = {**self._http.model, "messages": list(messages), "stream": True}
        characters = 0
        async with self._http.post(lambda: {"json": body}) as response:
            kind = self._http.check_type(response, (_STREAM, _JSON))
            parts = self._whole(response) if kind == _JSON else self._streamed(response)
            async for text in parts:
                characters += len(text)
                if characters > MAX_CHARACTERS:
                    limit = f"an answer of more than {MAX_CHARACTERS} characters"
                    raise LegError(self._http.name, f"sent {limit}")
                yield text

    async def _streamed(self, response: Any) -> AsyncGenerator[str]:
        stream, is_ended = EventStream(), False
        async for chunk in self._http.chunks(response, _MAX_BYTES):
            try:
                events = stream.push(chunk)
            except ValueError as error:
                raise LegError(self._http.name, f"sent {error}") from None
            for data in events:
                if data == b"[DONE]":
                    return
                choice = self._choice(data)
                if text := _text(choice.get("delta")):
                    yield text
                is_ended = is_ended or choice.get("finish_reason") is not None
        if not is_ended:
            raise LegError(self._http.name, "broke off its answer")

    async def _whole(self, response: Any) -> AsyncGenerator[str]:
        data = bytearray()
        async for chunk in self._http.chunks(response, _MAX_BYTES):
            data += chunk
        yield _text(self._choice(bytes(data)).get("message"))

    def _choice(self, data: bytes) -> dict[str, Any]:
        """Return the first choice of a document, which is empty if there is none."""
        try:
            document = documents.parse_object(data)
        except ValueError:
            raise LegError(self._http.name, "sent something else than JSON") from None
        if document.get("error"):
            raise LegError(self._http.name, "reported an error in its answer")
        choices = document.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else {}
        return first if isinstance(first, dict) else {}


def _text(message: object) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""
