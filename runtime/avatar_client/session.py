"""One session with an avatar: connect, speak, and receive its frames and audio."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from websockets.exceptions import ConnectionClosed

from avatar_client import dialing, errors
from avatar_client.binary_media import BinaryMediaReader
from avatar_client.playout import Playout
from avatar_client.resuming import ResumingSocket
from avatar_client.traces import Response, Trace
from avatar_contracts.binary_messages import Header, Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from avatar_client.options import Options
    from avatar_client.sound import Sound

Target = dialing.Target
ACK_PERIOD_S: Final = 0.2
"""How often a session in flow mode `ack` acknowledges what was played."""

_NO_TEXT: Final = "unsupported_in_mode"
"""Code of the warning of a service in whose mode a message says nothing."""


@dataclass(slots=True)
class Utterance:
    """The audio sent for one utterance. Times are seconds of the monotonic clock."""

    started_at: float
    samples: int = 0
    enough_at: float | None = None
    """When the audio of frame 0 was sent: 120 ms, docs/wire-protocol.md, "Drive mode"."""


class Session:
    """A connected session; `connect` opens it.

    The caller sends and waits in one task. A second task reads the socket all the time, so that
    messages of the server do not wait for the caller.
    """

    def __init__(self, socket: ResumingSocket, trace: Trace) -> None:
        self.trace = trace
        self.utterances: list[Utterance] = []
        self.playout = Playout()
        """What a player has played that plays the sound when it arrives."""
        self.received_bytes = 0
        """Size of the messages of the server; of JSON in characters, which are bytes."""
        self._socket = socket
        self._media = BinaryMediaReader()
        self._sent_messages = 0  # binary ones
        self._sent_samples = 0
        self._acknowledged: tuple[str, float] | None = None
        self._waiters: list[tuple[frozenset[str], asyncio.Future[Mapping[str, Any]]]] = []
        self._ended: errors.SessionEnded | None = None
        self._is_over = asyncio.Event()

    @property
    def resumed(self) -> int:
        """How often the session went on after its connection was lost."""
        return self._socket.resumed

    @property
    def lost_ms(self) -> float:
        """Speech that was lost with pods that ended without a warning, milliseconds."""
        return self._socket.lost_ms

    @property
    def ended(self) -> errors.SessionEnded | None:
        """Return how the connection closed, or `None` while it is open."""
        return self._ended

    async def update(self, session: Mapping[str, Any], timeout_s: float = 10.0) -> None:
        """Change the session, and wait until the server has accepted the change.

        Raises:
            ServerError: the server rejected it; nothing changed.
        """
        body = {"type": "realtime", **session}
        async with self._answer(("session.updated",), timeout_s):
            await self.send({"type": "session.update", "session": body})

    async def speak(
        self, sound: Sound, *, chunk_ms: int = 40, realtime: bool = True, timeout_s: float = 30.0
    ) -> Response:
        """Send one utterance and return the whole response to it.

        With `realtime`, the audio is sent at the rate of a microphone, otherwise in one burst.
        `timeout_s` is the maximum time from the end of the audio to the end of the response.

        Raises:
            AnswerTimeout: the response did not end in time.
            ServerError: the server rejected an event.
            SessionEnded: the connection closed.
        """
        longest_s = timeout_s + sound.duration_s
        async with self._answer(("response.done",), longest_s) as answer:
            await self.stream(sound, chunk_ms=chunk_ms, realtime=realtime)
        return self.trace.responses[answer["response"]["id"]]

    async def say(self, text: str, timeout_s: float = 120.0) -> Response:
        """Write a message and return the whole response to it; the service is in mode speech.

        Raises:
            AnswerTimeout: the response did not end in time.
            ServerError: the server rejected an event, an endpoint of the service failed, or the
                service is in another mode.
            SessionEnded: the connection closed.
        """
        self.utterances.append(Utterance(monotonic()))
        part = {"type": "input_text", "text": text}
        item = {"type": "message", "role": "user", "content": [part]}
        before = len(self.trace.warnings)
        try:
            async with self._answer(("response.done",), timeout_s) as answer:
                await self.send({"type": "conversation.item.create", "item": item})
                await self.send({"type": "response.create"})
        except errors.ServerError as error:
            # A service that takes no text warns about it, and finds nothing to answer.
            if any(each.get("code") == _NO_TEXT for each in self.trace.warnings[before:]):
                raise errors.ServerError(_NO_TEXT, "this service does not say text") from error
            raise
        return self.trace.responses[answer["response"]["id"]]

    async def stream(self, sound: Sound, *, chunk_ms: int = 40, realtime: bool = True) -> None:
        """Append the audio, chunk by chunk, and commit it."""
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        utterance = Utterance(monotonic())
        self.utterances.append(utterance)
        needed = sound.rate * 120 // 1000
        for index, chunk in enumerate(sound.chunks(chunk_ms)):
            if realtime:
                await asyncio.sleep(started_at + index * chunk_ms / 1000 - loop.time())
            await self.append(chunk)
            utterance.samples += len(chunk) // 2
            if utterance.enough_at is None and utterance.samples >= needed:
                utterance.enough_at = monotonic()
        await self.send({"type": "input_audio_buffer.commit"})

    async def append(self, pcm: bytes) -> None:
        """Send one chunk of audio; the server answers only if it is invalid.

        `pcm` has whole samples in the input format of the session.

        Raises:
            SessionEnded: the connection closed.
        """
        before, self._sent_samples = self._sent_samples, self._sent_samples + len(pcm) // 2
        if self._setting("transport") == "binary":
            self._sent_messages += 1
            header = Header(Kind.INPUT_AUDIO, self._sent_messages, before)
            await self._send(header.pack(pcm))
            return
        audio = base64.b64encode(pcm).decode("ascii")
        # Base64 needs no escaping: formatting saves the load generator a JSON encoder.
        await self._send(f'{{"type":"input_audio_buffer.append","audio":"{audio}"}}')

    async def acknowledge(self, response_id: str, pts_ms: float) -> None:
        """Tell the server that a response was played up to `pts_ms`, milliseconds of its sound.

        A program with its own player calls it about every 200 ms in flow mode `ack`, and opens the
        session with `acknowledges=False`. A position that goes back is ignored.

        Raises:
            SessionEnded: the connection closed.
        """
        fields = {"response_id": response_id, "pts_ms": pts_ms, "seq": self.trace.seq}
        await self.send({"type": "output_video_buffer.ack", **fields})

    async def pause(self, seconds: float) -> None:
        """Wait for a time.

        Raises:
            SessionEnded: the connection closed meanwhile.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._is_over.wait()
        except TimeoutError:
            return
        assert self._ended is not None
        raise self._ended

    async def cancel(self, timeout_s: float = 5.0) -> None:
        """Cancel the active response and wait for its end."""
        async with self._answer(("response.done",), timeout_s):
            await self.send({"type": "response.cancel"})

    async def send(self, event: Mapping[str, Any]) -> None:
        """Send one client event as it is."""
        await self._send(json.dumps(event, separators=(",", ":")))

    async def wait_for(self, *kinds: str, timeout_s: float = 10.0) -> Mapping[str, Any]:
        """Return the next event of one of the given types.

        Raises:
            ServerError: an `error` arrived first, and is not one of the types.
        """
        async with self._answer(kinds, timeout_s) as answer:
            pass
        return answer

    async def read(self) -> None:
        """Add all messages to the trace until the connection closes; a task of `connect`."""
        try:
            while True:
                message = await self._socket.recv()
                self.received_bytes += len(message)
                event = self._event(message)
                self._socket.took(event)
                now = monotonic()
                self.trace.receive(event, now)
                self.playout.receive(event, now)
                if self._waiters:
                    self._answer_waiters(event)
        except ConnectionClosed as closed:
            self._end(_ended(closed))
        except (ValueError, KeyError, TypeError) as error:
            self.trace.violations.append(f"unreadable message: {error!r}")
            self._end(errors.SessionEnded(1002, "unreadable message"))

    async def acknowledge_playout(self) -> None:
        """Acknowledge what `playout` has played while flow mode is `ack`; a task of `connect`."""
        try:
            while True:
                await asyncio.sleep(ACK_PERIOD_S)
                position = self.playout.position(monotonic())
                if position in (None, self._acknowledged) or self._flow_mode != "ack":
                    continue
                self._acknowledged = position
                await self.acknowledge(*position)
        except errors.SessionEnded:
            return

    @property
    def _flow_mode(self) -> object:
        flow = self._setting("flow")
        return flow.get("mode") if isinstance(flow, dict) else None

    def _setting(self, name: str) -> object:
        """Return a field of `avatar` in the session as the server has confirmed it."""
        avatar = self.trace.session.get("avatar")
        return avatar.get(name) if isinstance(avatar, dict) else None

    def _event(self, message: str | bytes) -> Mapping[str, Any]:
        """Return the event of a message; of a binary one, that with the same media."""
        if isinstance(message, bytes):
            return self._media.read(message)
        event = _parsed(message)
        self._media.observe(event)
        return event

    async def _send(self, message: str | bytes) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed as closed:
            raise _ended(closed) from closed

    @asynccontextmanager
    async def _answer(
        self, kinds: tuple[str, ...], timeout_s: float
    ) -> AsyncIterator[dict[str, Any]]:
        """Register for an answer, run the body, then wait; the yielded dict gets the answer.

        The registration comes before the body sends anything, so that no answer is missed.
        """
        if self._ended is not None:
            raise self._ended
        future = asyncio.get_running_loop().create_future()
        waiter = (frozenset({*kinds, "error"}), future)
        self._waiters.append(waiter)
        answer: dict[str, Any] = {}
        try:
            async with asyncio.timeout(timeout_s):
                yield answer
                answer.update(await future)
        except TimeoutError as error:
            raise errors.AnswerTimeout(" or ".join(kinds), timeout_s) from error
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if not future.cancel() and not future.cancelled():
                future.exception()  # marks it as retrieved: the body may have failed first
        if answer["type"] == "error" and "error" not in kinds:
            raise errors.ServerError(answer["error"]["code"], answer["error"]["message"])

    def _answer_waiters(self, event: Mapping[str, Any]) -> None:
        for waiter in list(self._waiters):
            kinds, future = waiter
            if not future.done() and event.get("type") in kinds:
                future.set_result(event)
                self._waiters.remove(waiter)

    def _end(self, ended: errors.SessionEnded) -> None:
        self._ended = ended
        self._is_over.set()
        for _, future in self._waiters:
            if not future.done():
                future.set_exception(self._ended)
        self._waiters.clear()


@asynccontextmanager
async def connect(
    target: Target,
    options: Options | None = None,
    *,
    keep_media: bool = True,
    acknowledges: bool = True,
    resumes: bool = True,
) -> AsyncIterator[Session]:
    """Open a session without turn detection, and close it at the end of the body.

    `options` are asked for before the body starts. `keep_media` is whether the trace keeps the
    frames and the sound. `acknowledges` is whether the session itself acknowledges in flow mode
    `ack`, as a player would that plays each sound when it arrives. `resumes` is whether the session
    goes on when its connection is lost; otherwise it has ended.

    Raises:
        Refused: the server refused the connection.
        SessionEnded: the connection closed before the session started.
        AnswerTimeout: the session did not start in time.
        ServerError: the server does not serve an option.
    """
    again = partial(dialing.dial, target) if resumes else None
    socket = ResumingSocket(await dialing.dial(target, resumes=resumes), again)
    session = Session(socket, Trace(keep_media=keep_media))
    reader = asyncio.create_task(session.read(), name="avatar-session-reader")
    player = None
    if acknowledges:
        player = asyncio.create_task(session.acknowledge_playout(), name="avatar-session-acks")
    try:
        wait_s = (target.wait_ms or 0) / 1000
        await _wait_until_created(session, target.open_timeout_s + wait_s)
        await _turn_detection_off(session, target.open_timeout_s)
        if options is not None and (fields := options.fields()) is not None:
            await session.update(fields, target.open_timeout_s)
        yield session
    finally:
        if player is not None:
            player.cancel()
        await socket.close()
        await reader


async def _turn_detection_off(session: Session, timeout_s: float) -> None:
    """Leave the turns to `Session.stream`, which commits; all audio of a file is spoken."""
    audio = session.trace.session.get("audio")
    received = audio.get("input") if isinstance(audio, dict) else None
    if isinstance(received, dict) and received.get("turn_detection") is not None:
        await session.update({"audio": {"input": {"turn_detection": None}}}, timeout_s)


async def _wait_until_created(session: Session, timeout_s: float) -> None:
    try:
        await session.wait_for("session.created", timeout_s=timeout_s)
    except errors.ServerError as error:
        raise errors.Refused(None, error.code, error.message, None) from error


def _ended(closed: ConnectionClosed) -> errors.SessionEnded:
    frame = closed.rcvd or closed.sent
    return errors.SessionEnded(frame.code if frame else 1006, frame.reason if frame else "")


def _parsed(message: str) -> Mapping[str, Any]:
    event = json.loads(message)
    if not isinstance(event, dict):
        raise TypeError(f"a message is not a JSON object but: {type(event).__name__}")
    return event
