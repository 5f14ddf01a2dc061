"""The state streams of the runtime pods: one connection to each pod while it exists."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import aiohttp

from avatar_contracts import labels, socket_buffers, tokens
from avatar_contracts.documents import MAX_LINE_BYTES, parse_object, take_lines
from avatar_contracts.rate_limit import RateLimit
from avatar_contracts.state import LONGEST_PAUSE_S, POD_RATE
from avatar_gateway import errors
from avatar_gateway.core import model, routing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from avatar_contracts.backoff import Backoff
    from avatar_gateway.core.model import Pod
    from avatar_gateway.pod_registry import PodRegistry

_log = logging.getLogger(__name__)

_UNAUTHORIZED: Final = 401
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=2 * routing.STALE_S)


def new_http_session() -> aiohttp.ClientSession:
    """Return a session that keeps one connection to each pod, without aiohttp's limit of 100."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


class StateStreams:
    """Updates the states in the pod registry."""

    def __init__(
        self,
        registry: PodRegistry,
        http: aiohttp.ClientSession,
        read_keys: Callable[[], tuple[str, ...]],
        new_backoff: Callable[[], Backoff],
        on_fault: Callable[[], None] = lambda: None,
    ) -> None:
        """`read_keys` returns the gateway keys, the current one first.

        `on_fault` is called for each stream that ends because of what a pod sent.
        """
        self._registry = registry
        self._http = http
        self._read_keys = read_keys
        self._new_backoff = new_backoff
        self._on_fault = on_fault
        self._readers: dict[tuple[str, str, bool], asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Start a reader for each pod with an IP address, and stop it when the pod is deleted.

        A pod that becomes ready gets a new reader, which connects without a back-off delay.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                self._registry.pods_changed.clear()
                expected = {
                    (pod.uid, pod.ip, pod.ready): pod
                    for pod in self._registry.pods.values()
                    if pod.ip and not pod.terminating
                }
                for key in self._readers.keys() - expected.keys():
                    self._readers.pop(key).cancel()
                for key in expected.keys() - self._readers.keys():
                    pod = expected[key]
                    self._readers[key] = group.create_task(self._read(pod), name=f"state-{pod.key}")
                await self._registry.pods_changed.wait()

    async def _read(self, pod: Pod) -> None:
        backoff, pace = self._new_backoff(), RateLimit(POD_RATE)
        while True:
            try:
                await self._follow(pod, backoff, pace)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                # A starting pod refuses connections for a while, so this is not a warning.
                _log.debug("state interrupted pod=%s error=%r", pod.key, error)
            except (ValueError, errors.StateError) as error:
                self._on_fault()
                _log.warning("state not used pod=%s error=%s", pod.key, error)
            except Exception:
                # Whatever one pod sends, the streams of the other pods continue.
                self._on_fault()
                _log.exception("state stream failed pod=%s", pod.key)
            await asyncio.sleep(backoff.next_s())

    async def _follow(self, pod: Pod, backoff: Backoff, pace: RateLimit) -> None:
        """Read the stream, with the token of the key that the pod accepts."""
        keys = self._read_keys()
        if not keys:
            raise errors.StateError("gateway key", None, "set")
        for key in keys:
            token = tokens.state_token(key, pod.original_service)
            if await self._follow_with(token, pod, backoff, pace):
                return
        raise errors.StateError("status", _UNAUTHORIZED, "200")

    async def _follow_with(self, token: str, pod: Pod, backoff: Backoff, pace: RateLimit) -> bool:
        """Read the stream until it ends; return whether the pod accepted the token."""
        loop = asyncio.get_running_loop()
        async with self._http.get(
            f"http://{_host(pod.ip)}:{pod.admin_port}{labels.STATE_PATH}",
            params={"watch": "1"},
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT,
            allow_redirects=False,  # a pod must not make the gateway call other addresses
        ) as response:
            if response.status == _UNAUTHORIZED:
                return False
            if response.status != 200:
                raise errors.StateError("status", response.status, "200")
            if response.connection is not None and response.connection.transport is not None:
                socket_buffers.limit_unread(response.connection.transport)
            async for line in _lines(response.content, pace):
                state = model.parse_state(parse_object(line), pod, loop.time())
                self._registry.update_state(pod, state)
                backoff.reset()
        return True


async def _lines(content: aiohttp.StreamReader, pace: RateLimit) -> AsyncIterator[bytearray]:
    """Yield the lines of a state stream, no faster than `pace` allows.

    The author of a service chooses the image of its pods. A pod that sends as fast as it can must
    not keep the event loop busy that carries the sessions of all services.

    Raises:
        StateError: a line is longer than `MAX_LINE_BYTES`.
    """
    rest = bytearray()
    async for data in content.iter_any():
        rest += data
        lines = take_lines(rest)
        for line in lines:
            yield line
        pause_s = pace.delay(asyncio.get_running_loop().time(), len(lines), len(data))
        if pause_s > 0:
            await asyncio.sleep(min(LONGEST_PAUSE_S, pause_s))
        if len(rest) > MAX_LINE_BYTES:
            limit = f"a line of no more than {MAX_LINE_BYTES} bytes"
            raise errors.StateError("state", f"a line of more than {len(rest)} bytes", limit)


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
