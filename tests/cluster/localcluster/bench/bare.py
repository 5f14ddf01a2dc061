"""A bare kopf operator with one status patch per service: the baseline of the scale benchmark."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import kopf
from aiohttp import web

from avatar_operator import names

STATE = "Bare"


async def run() -> None:
    """Run until the process is terminated."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(kopf.login_with_kubeconfig)

    @kopf.on.event(names.GROUP, names.VERSION, names.SERVICES, registry=registry)
    async def see(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:
        generation = body["metadata"]["generation"]
        status = body.get("status", {})
        if status.get("observedGeneration") != generation or status.get("state") != STATE:
            patch.status.update({"observedGeneration": generation, "state": STATE})

    async def ready(_: web.BaseRequest) -> web.Response:
        return web.Response()

    runner = web.ServerRunner(web.Server(ready))
    await runner.setup()
    host, _, port = os.environ["AVATAR_HEALTH_LISTEN"].rpartition(":")
    await web.TCPSite(runner, host, int(port)).start()
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    try:
        await kopf.operator(registry=registry, settings=settings, standalone=True, clusterwide=True)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(run())
