"""A small server that follows the protocol, or violates it on request."""

from __future__ import annotations

import base64
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

RATE, PER_FRAME = 24000, 960


def jpeg(shade: int) -> bytes:
    """Return a small image whose grey value identifies the frame."""
    image = np.full((48, 64, 3), shade % 256, np.uint8)
    ok, data = cv2.imencode(".jpg", image)
    assert ok
    return data.tobytes()


def utterance(pcm: bytes, number: int) -> Iterator[dict[str, Any]]:
    """Yield the messages of one response to `pcm`, without seq."""
    name, samples = f"resp_{number}", len(pcm) // 2
    frames = -(-samples // PER_FRAME)
    yield {"type": "response.created", "response": {"id": name}, "epoch": 1}
    for index in range(frames):
        offset = index * PER_FRAME
        media = {"response_id": name, "epoch": 1, "offset_samples": offset, "pts_ms": index * 40}
        piece = pcm[offset * 2 : (offset + PER_FRAME) * 2]
        delta = base64.b64encode(piece).decode()
        yield {"type": "response.output_audio.delta", "delta": delta, **media}
        image = base64.b64encode(jpeg(index)).decode()
        yield {"type": "response.video.delta", "delta": image, "frame_index": index, **media}
    yield {"type": "response.output_audio.done", "response_id": name}
    yield {
        "type": "response.video.done",
        "response_id": name,
        "epoch": 1,
        "status": "completed",
        "frames": frames,
        "dropped": 0,
        "audio_samples": samples,
        "audio_ms": samples * 1000 / RATE,
        "video_ms": frames * 40,
    }
    yield {"type": "response.done", "response": {"id": name, "status": "completed"}, "epoch": 1}


@dataclass
class Avatar:
    """The behaviour of the server; `tamper` can change, drop or repeat any message."""

    tamper: Callable[[dict[str, Any]], list[dict[str, Any]]] = lambda message: [message]
    refuse: tuple[int, str] | None = None
    garbage: str | None = None
    """Sent instead of all other messages."""
    close_after: int | None = None
    """Message after which the connection is closed with 1012."""
    port: int = 0
    requests: list[Any] = field(default_factory=list)
    received: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Return the URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    def answer_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse before the upgrade, if a test requests it."""
        self.requests.append(request)
        if self.refuse is None:
            return None
        status, code = self.refuse
        response = connection.respond(
            HTTPStatus(status), json.dumps({"error": {"code": code, "message": "not today"}})
        )
        response.headers["Retry-After"] = "3"
        return response

    async def serve_session(self, socket: ServerConnection) -> None:
        """Serve one session."""
        if self.garbage is not None:
            await socket.send(self.garbage)
            return
        sent, number, pcm = 0, 0, bytearray()

        async def say(message: dict[str, Any]) -> None:
            nonlocal sent
            for changed in self.tamper({"event_id": "e", "seq": sent + 1, **message}):
                await socket.send(json.dumps(changed))
                sent += 1
                if sent == self.close_after:
                    await socket.close(1012, "moved")

        session = {
            "id": "sess_1",
            "audio": {"output": {"format": {"type": "audio/pcm", "rate": RATE}}},
            "avatar": {"samples_per_frame": PER_FRAME, "fps": 25},
        }
        try:
            await say({"type": "session.created", "session": session})
            async for text in socket:
                event = json.loads(text)
                self.received.append(event)
                match event["type"]:
                    case "session.update":
                        await say({"type": "session.updated", "session": session})
                    case "input_audio_buffer.append":
                        pcm += base64.b64decode(event["audio"])
                    case "input_audio_buffer.commit":
                        number += 1
                        for message in utterance(bytes(pcm), number):
                            await say(message)
                        pcm.clear()
                    case kind:
                        error = {"code": "unknown_event", "message": f"no event {kind}"}
                        await say({"type": "error", "error": error})
        except ConnectionClosed:
            return


@asynccontextmanager
async def _serving(avatar: Avatar) -> AsyncIterator[Avatar]:
    async with serve(
        avatar.serve_session, "127.0.0.1", 0, process_request=avatar.answer_request
    ) as server:
        avatar.port = next(iter(server.sockets)).getsockname()[1]
        yield avatar


@pytest.fixture
async def avatar() -> AsyncIterator[Avatar]:
    """Return a server that follows the protocol by default."""
    async with _serving(Avatar()) as serving:
        yield serving


@pytest.fixture
def messages() -> Callable[[bytes, int], list[dict[str, Any]]]:
    """Return a function that returns the numbered messages of complete, correct sessions."""

    def make(pcm: bytes, utterances: int = 1) -> list[dict[str, Any]]:
        session = {
            "id": "sess_1",
            "audio": {"output": {"format": {"type": "audio/pcm", "rate": RATE}}},
            "avatar": {"samples_per_frame": PER_FRAME},
        }
        made: list[dict[str, Any]] = [{"type": "session.created", "session": session}]
        for number in range(1, utterances + 1):
            made += utterance(pcm, number)
        return [{"seq": seq, **message} for seq, message in enumerate(made, start=1)]

    return make
