"""WebSocket frames by hand: right ones in any pieces, and wrong ones (RFC 6455, section 5)."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from random import Random

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
_MAX_SERVER_FRAME: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerFrame:
    """One frame of the server."""

    opcode: int
    payload: bytes


def handshake(host: str, random: Random) -> bytes:
    """Return the request that opens a session."""
    key = base64.b64encode(random.randbytes(16)).decode()
    lines = (
        "GET /v1/realtime HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        "\r\n",
    )
    return "\r\n".join(lines).encode()


def encode(
    opcode: int, payload: bytes, *, is_final: bool = True, reserved: int = 0, masked: bool = True
) -> bytes:
    """Return a frame of a client; the mask is zeros, so that the payload stays as it is."""
    head = bytearray([(0x80 if is_final else 0) | reserved << 4 | opcode])
    mask = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head.append(mask | size)
    elif size < 1 << 16:
        head.append(mask | 126)
        head += size.to_bytes(2, "big")
    else:
        head.append(mask | 127)
        head += size.to_bytes(8, "big")
    return bytes(head) + (bytes(4) if masked else b"") + payload


def fragmented(opcode: int, payload: bytes, random: Random) -> bytes:
    """Return a message in several frames, with pings between them."""
    cuts = sorted(random.randrange(len(payload) + 1) for _ in range(random.randint(1, 5)))
    parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    sent = b""
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        sent += encode(CONTINUATION if index else opcode, part, is_final=is_last)
        if not is_last and random.random() < 0.5:
            sent += encode(PING, b"still here")
    return sent


def wrong(random: Random) -> bytes:
    """Return bytes that no client may send."""
    text = b'{"type": "input_audio_buffer.commit"}'
    return random.choice(
        (
            encode(TEXT, text, masked=False),
            encode(TEXT, text, reserved=random.randint(1, 7)),
            encode(random.choice((3, 4, 7, 0xB, 0xF)), text),
            encode(CONTINUATION, text),
            encode(TEXT, text, is_final=False) + encode(TEXT, text),
            encode(TEXT, b"\xff\xfe" + text),
            encode(TEXT, b'{"type": "\xed\xa0\x80"}'),
            encode(PING, bytes(126)),
            encode(PING, b"", is_final=False),
            encode(CLOSE, b"\x03"),
            encode(CLOSE, b"\x00\x00"),
            encode(CLOSE, b"\x03\xe8\xff"),
            bytes([0x81, 0xFF]) + b"\xff" * 8 + bytes(4),
            bytes([0x81, 0xFF]) + (1 << 40).to_bytes(8, "big") + bytes(4),
            bytes([0x81, 0xFE, 0x00, 0x01]) + bytes(4) + b"x",
            random.randbytes(random.choice((1, 2, 50, 5000))),
        )
    )


async def read(reader: asyncio.StreamReader) -> ServerFrame:
    """Return the next frame of the server.

    Raises:
        asyncio.IncompleteReadError: the server has closed the connection.
        ValueError: the frame is masked, in pieces or too large.
    """
    first, second = await reader.readexactly(2)
    if first & 0x70 or not first & 0x80 or second & 0x80:
        raise ValueError(f"a frame of the server starts with {first:#x} {second:#x}")
    size = second
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    elif size == 127:
        size = int.from_bytes(await reader.readexactly(8), "big")
    if size > _MAX_SERVER_FRAME:
        raise ValueError(f"a frame of the server has {size} bytes")
    return ServerFrame(first & 0xF, await reader.readexactly(size))
