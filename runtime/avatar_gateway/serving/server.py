"""The listener of one application."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from avatar_gateway.settings import Address

_log = logging.getLogger(__name__)


@asynccontextmanager
async def listening(application: web.Application, address: Address) -> AsyncIterator[int]:
    """Serve an application while the body runs, and yield the port."""
    # No access log: a URL may contain a credential. The shutdown timeout is short because the
    # connections of state watchers never end by themselves.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, address.host, address.port).start()
        port = int(runner.addresses[0][1])
        _log.info("listening host=%s port=%d", address.host, port)
        yield port
    finally:
        await runner.cleanup()
