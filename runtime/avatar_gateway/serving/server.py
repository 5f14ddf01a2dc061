"""A listener for one application."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from avatar_gateway.settings import Address

logger = logging.getLogger(__name__)


@asynccontextmanager
async def listening(application: web.Application, address: Address) -> AsyncIterator[int]:
    """Serve an application while the body runs, and give the body the port."""
    # No access log: an address may hold a credential. State watchers hold their connections
    # for ever, so nobody gets much time to end by itself.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, address.host, address.port).start()
        port = int(runner.addresses[0][1])
        logger.info("listening host=%s port=%d", address.host, port)
        yield port
    finally:
        await runner.cleanup()
