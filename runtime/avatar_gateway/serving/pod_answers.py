"""Requests to the admin port of a pod, and their answers, which are at most as large as stated."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from avatar_contracts import tokens
from avatar_gateway import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_gateway.core.model import Pod

_CHUNK_BYTES: Final = 64 * 1024
REQUEST_S: Final = 10.0
"""How long a pod may take for one request. Most documents have less than 10 MB."""


async def read_body(response: aiohttp.ClientResponse, pod: str, most: int) -> bytes:
    """Return the body of a response of a pod.

    Raises:
        PodError: it has more than `most` bytes.
    """
    body = bytearray()
    async for part in response.content.iter_chunked(_CHUNK_BYTES):
        body += part
        if len(body) > most:
            raise errors.PodError(pod, f"its answer has over {most} bytes")
    return bytes(body)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a pod to a request about a session."""

    status: int
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The object of the answer, empty if there is none."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    @property
    def error(self) -> dict[str, Any]:
        """The error object, empty if there is none."""
        error = self.document.get("error")
        return error if isinstance(error, dict) else {}


class PodRequests:
    """Sends requests to the admin ports of pods, with the right of the gateway."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        read_keys: Callable[[], Sequence[str]],
    ) -> None:
        self._http = http
        self._read_keys = read_keys

    async def post(
        self, pod: Pod, path: str, body: bytes, most: int, timeout_s: float = REQUEST_S
    ) -> Answer:
        """Send a request to the admin port of a pod, with the token of each key in turn.

        Raises:
            PodError: the pod does not answer in time, or its answer is too large.
        """
        address = f"http://{pod.host}:{pod.admin_port}{path}"
        answer = Answer(401, b"")
        for key in self._read_keys():
            token = tokens.session_token(key, pod.original_service)
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await self._request(address, headers, body, most, pod)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise errors.PodError(pod.key, repr(error)) from error
            if answer.status != 401:
                break
        return answer

    async def _request(
        self, address: str, headers: dict[str, str], body: bytes, most: int, pod: Pod
    ) -> Answer:
        async with self._http.post(
            address, data=body, headers=headers, allow_redirects=False
        ) as response:
            return Answer(response.status, await read_body(response, pod.key, most))
