"""One HTTP endpoint: requests with time limits, retries before the first byte, and metrics."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from avatar_contracts.backoff import Backoff
from avatar_runtime.upstream.errors import LegError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from avatar_contracts.upstream import Endpoint
    from avatar_runtime.upstream.metrics import Outcome, UpstreamMetrics
    from avatar_runtime.upstream.settings import UpstreamSettings

MAX_TRIES: Final = 3
MAX_RETRY_AFTER_S: Final = 5.0
"""An endpoint that asks for a longer pause has failed: nobody waits for that."""
MAX_REQUEST_S: Final = 600.0
CHUNK_BYTES: Final = 16 * 1024
_FIRST_PAUSE_S: Final = 0.25
_RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504, 529})

_log = logging.getLogger(__name__)


class HttpLeg:
    """An endpoint of mode speech. `name` is that of the leg."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        settings: UpstreamSettings,
        client: aiohttp.ClientSession,
        metrics: UpstreamMetrics,
    ) -> None:
        self.name = name
        self._endpoint = endpoint
        self._settings = settings
        self._client = client
        self._metrics = metrics

    @property
    def model(self) -> dict[str, str]:
        """The field of a request that names the model; empty if the endpoint decides."""
        return {"model": self._endpoint.model} if self._endpoint.model else {}

    @asynccontextmanager
    async def post(
        self, make_body: Callable[[], dict[str, Any]]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a request whose answer has status 200; `make_body` is called for each try.

        Raises:
            LegError: the endpoint did not answer, or answered with another status, or broke off.
        """
        outcome: Outcome = "failed"
        try:
            response = await self._open(make_body)
            try:
                yield response
                outcome = "completed"
            finally:
                response.close()
        except (aiohttp.ClientError, OSError) as error:
            raise self._fault(error) from None
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        except LegError as error:
            _log.warning("upstream request failed leg=%s error=%s", self.name, error.problem)
            raise
        finally:
            self._metrics.count_request(self.name, outcome)

    async def chunks(self, response: aiohttp.ClientResponse, limit: int) -> AsyncIterator[bytes]:
        """Yield the parts of an answer as they arrive.

        Raises:
            LegError: the answer has more than `limit` bytes.
        """
        size = 0
        started_at = asyncio.get_running_loop().time()
        async for chunk in response.content.iter_any():
            for start in range(0, len(chunk), CHUNK_BYTES):
                size += len(part := chunk[start : start + CHUNK_BYTES])
                if size > limit:
                    raise LegError(self.name, f"sent more than {limit} bytes")
                yield part
            if asyncio.get_running_loop().time() - started_at > MAX_REQUEST_S:
                raise LegError(self.name, f"did not end its answer within {MAX_REQUEST_S:.0f} s")

    def check_type(self, response: aiohttp.ClientResponse, allowed: tuple[str, ...]) -> str:
        """Return the media type of an answer; empty if it states none.

        Raises:
            LegError: the type is not in `allowed`.
        """
        if "Content-Type" not in response.headers:
            return ""
        found = response.content_type.lower()
        if found not in allowed:
            raise LegError(
                self.name, f"sent content type {found[:64]}, must be one of {', '.join(allowed)}"
            )
        return found

    async def _open(self, make_body: Callable[[], dict[str, Any]]) -> aiohttp.ClientResponse:
        clock = asyncio.get_running_loop().time
        started_at = clock()
        backoff = Backoff(_FIRST_PAUSE_S, MAX_RETRY_AFTER_S, random.random)
        for is_last in (*(False,) * (MAX_TRIES - 1), True):
            fault, retry_after_s = None, 0.0
            try:
                response = await self._request(make_body())
            except (aiohttp.ClientConnectionError, TimeoutError) as error:
                fault = self._fault(error)
                is_late = isinstance(error, TimeoutError)
                if is_last or (is_late and not isinstance(error, aiohttp.ConnectionTimeoutError)):
                    raise fault from None
            else:
                if response.status == 200:
                    self._metrics.observe_first_byte(self.name, clock() - started_at)
                    return response
                response.close()
                fault = LegError(
                    self.name, f"answered with status {response.status}", response.status
                )
                retry_after_s = _retry_after_s(response.headers.get("Retry-After", ""))
                if is_last or response.status not in _RETRIED or retry_after_s > MAX_RETRY_AFTER_S:
                    raise fault
            pause_s = backoff.next_s(retry_after_s)
            _log.info("upstream request repeated leg=%s error=%s", self.name, fault.problem)
            self._metrics.count_retry(self.name)
            await asyncio.sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    async def _request(self, body: dict[str, Any]) -> aiohttp.ClientResponse:
        endpoint = self._endpoint
        async with asyncio.timeout(endpoint.connect_timeout_s + endpoint.timeout_s):
            return await self._client.post(
                endpoint.url,
                headers=self._settings.headers(endpoint),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=endpoint.connect_timeout_s,
                    sock_connect=endpoint.connect_timeout_s,
                    sock_read=endpoint.timeout_s,
                ),
                **body,
            )

    def _fault(self, error: Exception) -> LegError:
        """Return the error without the URL, which may contain a key."""
        if isinstance(error, TimeoutError):
            is_connect = isinstance(error, aiohttp.ConnectionTimeoutError)
            seconds = self._endpoint.connect_timeout_s if is_connect else self._endpoint.timeout_s
            what = "did not accept a connection" if is_connect else "sent nothing"
            return LegError(self.name, f"{what} for {seconds} s")
        if isinstance(error, aiohttp.ClientConnectorError):
            return LegError(self.name, "cannot be reached")
        return LegError(self.name, "broke the connection")


def _retry_after_s(text: str) -> float:
    """Return the seconds of a Retry-After header; a date counts as no wish."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0.0
