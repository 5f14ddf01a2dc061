"""Runs the requests of a session in mode speech, and ends those that it no longer wants."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from avatar_runtime.protocol.pipeline.legs import (
    CHAT,
    SPEECH,
    TRANSCRIPTION,
    ChatRequest,
    LegFailure,
    SpeechRequest,
    TranscriptionRequest,
)
from avatar_runtime.upstream.chat_leg import ChatLeg
from avatar_runtime.upstream.errors import LegError
from avatar_runtime.upstream.http_leg import HttpLeg
from avatar_runtime.upstream.speech_leg import SpeechLeg
from avatar_runtime.upstream.transcription_leg import TranscriptionLeg

if TYPE_CHECKING:
    from collections.abc import Callable

    import aiohttp

    from avatar_contracts.upstream import Pipeline as PipelineSettings
    from avatar_runtime.protocol.pipeline.dialogue import Dialogue
    from avatar_runtime.protocol.pipeline.legs import LegRequest
    from avatar_runtime.protocol.pipeline.turn_times import Leg
    from avatar_runtime.upstream.metrics import UpstreamMetrics
    from avatar_runtime.upstream.settings import UpstreamSettings


class Legs:
    """The endpoints of a service; all sessions share their connections."""

    def __init__(
        self,
        upstream: PipelineSettings,
        settings: UpstreamSettings,
        client: aiohttp.ClientSession,
        metrics: UpstreamMetrics,
    ) -> None:
        speech, chat, heard = upstream.speech, upstream.chat, upstream.transcription
        parts = (settings, client, metrics)
        self.speech = SpeechLeg(HttpLeg(SPEECH, speech.endpoint, *parts), speech)
        self.chat = ChatLeg(HttpLeg(CHAT, chat.endpoint, *parts)) if chat else None
        self.transcription = None
        if heard is not None:
            http = HttpLeg(TRANSCRIPTION, heard.endpoint, *parts)
            self.transcription = TranscriptionLeg(http, heard)


class PipelineShell:
    """Moves text and sound between the dialogue of a session and the endpoints."""

    def __init__(
        self,
        dialogue: Dialogue[Any],
        legs: Legs,
        clock: Callable[[], float],
        changed: Callable[[], None],
        observe_turn: Callable[[Leg, float], None],
    ) -> None:
        """`changed` is called after each change of the session.

        `observe_turn` takes a leg of a turn and its seconds.
        """
        self._dialogue = dialogue
        self._legs = legs
        self._clock = clock
        self._changed = changed
        self._observe_turn = observe_turn
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def notify(self) -> None:
        """Look at the session, which has changed."""
        for leg, seconds in self._dialogue.take_latencies():
            self._observe_turn(leg, seconds)
        if self._dialogue.has_room:
            self._room.set()
        else:
            self._room.clear()
        for request_id, task in self._tasks.items():
            if not self._dialogue.is_wanted(request_id):
                task.cancel()
        self._wake.set()

    async def run(self) -> None:
        """Start requests until cancelled; all that run are cancelled then."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    requests = self._dialogue.take_requests(self._clock())
                    for request in requests:
                        name = f"{type(request).__name__} {request.id}"
                        task = group.create_task(self._serve(request), name=name)
                        self._tasks[request.id] = task
                        task.add_done_callback(partial(self._forget, request.id))
                    if requests:
                        self._changed()
        finally:
            self._tasks.clear()

    def _forget(self, request_id: int, task: asyncio.Task[None]) -> None:
        self._tasks.pop(request_id, None)

    async def _serve(self, request: LegRequest) -> None:
        try:
            match request:
                case SpeechRequest():
                    await self._speak(request)
                case ChatRequest():
                    await self._answer(request)
                case TranscriptionRequest():
                    await self._transcribe(request)
        except LegError as error:
            failure = LegFailure(error.leg, str(error), error.status)
            self._dialogue.receive_failure(request.id, failure, self._clock())
        self._changed()

    async def _speak(self, request: SpeechRequest) -> None:
        sounds = self._legs.speech.speak(request.text, request.audio, request.voice)
        async with aclosing(sounds):  # a cancelled request leaves the endpoint at once
            async for sound in sounds:
                self._dialogue.receive_sound(request.id, sound, self._clock())
                self._changed()
                await self._room.wait()
        self._dialogue.receive_end(request.id, self._clock())

    async def _answer(self, request: ChatRequest) -> None:
        assert self._legs.chat is not None
        texts = self._legs.chat.answer(request.messages)
        async with aclosing(texts):
            async for text in texts:
                self._dialogue.receive_text(request.id, text, self._clock())
                self._changed()
        self._dialogue.receive_end(request.id, self._clock())

    async def _transcribe(self, request: TranscriptionRequest) -> None:
        assert self._legs.transcription is not None
        text = await self._legs.transcription.transcribe(request.sound, request.audio)
        self._dialogue.receive_transcript(request.id, text)
