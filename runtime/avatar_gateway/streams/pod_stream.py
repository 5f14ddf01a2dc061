"""One stream of one pod: how it is opened, and opened again after it has ended."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import aiohttp

from avatar_gateway import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

    from avatar_contracts.backoff import Backoff
    from avatar_gateway.core.model import Pod

_UNAUTHORIZED: Final = 401

_log = logging.getLogger(__name__)


@asynccontextmanager
async def opened(
    http: aiohttp.ClientSession,
    pod: Pod,
    path: str,
    query: Mapping[str, str],
    tokens: Iterable[str],
    silence_s: float,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Open a stream on the administration port of a pod, with the first token that it accepts.

    `silence_s` is the time without data after which the connection is taken as dead.

    Raises:
        StateError: there is no token, the pod accepts none, or it has no such stream.
        ClientError, OSError, TimeoutError: the connection cannot be made, or ended.
    """
    status = None
    for token in tokens:
        async with http.get(
            f"http://{pod.host}:{pod.admin_port}{path}",
            params=query,
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=silence_s),
            allow_redirects=False,  # a pod must not make the gateway call other addresses
        ) as response:
            status = response.status
            if status == _UNAUTHORIZED:
                continue
            if status != 200:
                raise errors.StateError("status", status, "200")
            yield response
            return
    if status is None:
        raise errors.StateError("gateway key", None, "set")
    raise errors.StateError("status", status, "200")


async def keep_reading(
    name: str,
    pod: Pod,
    read: Callable[[], Awaitable[None]],
    backoff: Backoff,
    on_fault: Callable[[], None] = lambda: None,
) -> None:
    """Call `read` again whenever it ends, until cancelled; it resets the back-off.

    `on_fault` is called when it ended because of what the pod sent.
    """
    while True:
        try:
            await read()
        except (aiohttp.ClientError, OSError, TimeoutError, EOFError) as error:
            # A starting pod refuses connections for a while, so this is not a warning.
            _log.debug("%s interrupted pod=%s error=%r", name, pod.key, error)
        except (ValueError, errors.StateError) as error:
            on_fault()
            _log.warning("%s not used pod=%s error=%s", name, pod.key, error)
        except Exception:
            # Whatever one pod sends, the streams of the other pods continue.
            on_fault()
            _log.exception("%s stream failed pod=%s", name, pod.key)
        await asyncio.sleep(backoff.next_s())
