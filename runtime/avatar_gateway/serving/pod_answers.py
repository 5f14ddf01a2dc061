"""Reads the answers of pods, which may be those of strangers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_gateway import errors

if TYPE_CHECKING:
    import aiohttp

_CHUNK_BYTES: Final = 64 * 1024


async def read_body(response: aiohttp.ClientResponse, pod: str, most: int) -> bytes:
    """Return the body of an answer of a pod, which has at most `most` bytes.

    Raises:
        PodError: it has more.
    """
    body = bytearray()
    async for part in response.content.iter_chunked(_CHUNK_BYTES):
        body += part
        if len(body) > most:
            raise errors.PodError(pod, f"its answer has over {most} bytes")
    return bytes(body)
