"""Finds a pod that takes a session: asks the best ones in turn, and each has the last word."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from avatar_gateway import errors
from avatar_gateway.core import routing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_gateway.core.model import Pod
    from avatar_gateway.core.requests import Asked
    from avatar_gateway.directory import Directory, Placement

    PodSocket = aiohttp.ClientWebSocketResponse[bool]

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 21 * 2**20
"""Largest message of the protocol."""
HEARTBEAT_S: Final = 40.0
"""Silence before a ping; the pong has half of that. Longer than the 30 s after which a pod
closes a socket that takes nothing, so that a slow client hears the pod's reason and not ours."""
SERVED_AS: Final = "Avatar-Service"
"""Tells a pod that another service took over what its sessions are told that they speak with."""
_TRY_S: Final = 5.0
"""How long one pod may take to answer; a warm one needs milliseconds."""
_CLOSE: Final = aiohttp.ClientWSTimeout(ws_close=5.0)
"""How long a pod may take to answer a close."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A session that a pod has taken."""

    pod: str
    socket: PodSocket
    placement: Placement


class Placer:
    """Opens sessions on pods."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            middlewares=(_raise_refusals,),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=2),
        )

    async def close(self) -> None:
        """Close all connections to pods."""
        await self._http.close()

    async def place(
        self, asked: Asked, subprotocols: Sequence[str], headers: Mapping[str, str]
    ) -> Placed:
        """Return a session on the best pod that takes it.

        Raises:
            Refusal: no such service, or no pod takes it.
            PodAnswer: a pod found fault with the request itself; the others would as well.
        """
        if asked.model not in self._directory.services:
            raise errors.Refusal(
                "model_not_found", f"there is no service {asked.model}", param="model"
            )
        now = asyncio.get_running_loop().time()
        found = routing.order(self._directory.candidates(asked.model), now)
        if isinstance(found, routing.Shortage):
            raise errors.Refusal(found.value, _SENTENCES[found])
        for key in found:
            try:
                return await self._try(key, asked, subprotocols, headers)
            except errors.PodError as error:
                logger.info("pod took no session pod=%s problem=%s", key, error.problem)
        shortage = routing.Shortage.NO_CAPACITY
        raise errors.Refusal(shortage.value, _SENTENCES[shortage])

    def withdraw(self, placed: Placed) -> None:
        """Forget a session that is over."""
        self._directory.withdraw(placed.placement)

    async def _try(
        self,
        key: str,
        asked: Asked,
        subprotocols: Sequence[str],
        headers: Mapping[str, str],
    ) -> Placed:
        pod = self._directory.pods.get(key)
        if pod is None:
            raise errors.PodError(key, "gone")
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        placement = self._directory.place(key)
        try:
            async with asyncio.timeout(_TRY_S):
                socket = await self._http.ws_connect(
                    f"http://{host}:{pod.sessions_port}/v1/realtime",
                    params=_query(asked, pod),
                    headers=_headers(headers, asked, pod),
                    protocols=list(subprotocols),
                    heartbeat=HEARTBEAT_S,
                    timeout=_CLOSE,
                    # The library refuses what reaches its limit; the protocol what passes it.
                    max_msg_size=MAX_MESSAGE_BYTES + 1,
                    decode_text=False,
                )
        except BaseException as error:
            self._directory.withdraw(placement)
            if isinstance(error, errors.PodAnswer) and not _is_callers_fault(error):
                raise errors.PodError(key, f"{error.status} {error.code}") from error
            if isinstance(error, (aiohttp.ClientError, OSError, TimeoutError)):
                raise errors.PodError(key, repr(error)) from error
            raise
        placement.taken_at = asyncio.get_running_loop().time()
        return Placed(key, socket, placement)


def _query(asked: Asked, pod: Pod) -> Sequence[tuple[str, str]]:
    """Return what the pod is asked; it answers to the service only that it was started for."""
    return [(name, pod.origin if name == "model" else text) for name, text in asked.forwarded]


def _headers(passed: Mapping[str, str], asked: Asked, pod: Pod) -> Mapping[str, str]:
    """Add the name that the caller knows the service by, where the pod knows another one."""
    return {**passed, SERVED_AS: asked.model} if pod.origin != asked.model else passed


_SENTENCES: Final = {
    routing.Shortage.NOT_READY: "no pod of the service is ready",
    routing.Shortage.DRAINING: "all pods of the service are draining",
    routing.Shortage.NO_CAPACITY: "all pods of the service are full",
}


_KEPT: Final = ("Content-Type", "Retry-After")
_CALLERS_FAULTS: Final = frozenset({400, 403, 404})


def _is_callers_fault(answer: errors.PodAnswer) -> bool:
    """Return whether every other pod of the service would answer the same."""
    return answer.status in _CALLERS_FAULTS and answer.code != "model_not_found"


async def _raise_refusals(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep the body of a refused upgrade, which the library would throw away."""
    response = await handler(request)
    if response.status == 101:
        return response
    async with response:
        body = await response.content.read(64 * 1024)
    kept = {name: response.headers[name] for name in _KEPT if name in response.headers}
    raise errors.PodAnswer(response.status, kept, body)
