"""The operator's process: its parts, its probes, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from typing import TYPE_CHECKING, Final

from avatar_operator import health, logs, names
from avatar_operator.controllers.service_controller import Reconciler
from avatar_operator.core.manifests.objects import control_token
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.fence import Fence
from avatar_operator.kube import crds
from avatar_operator.kube.client import Cluster
from avatar_operator.kube.kopf_informer import Listener
from avatar_operator.kube.leader_election import Leadership, LeaseName

if TYPE_CHECKING:
    from avatar_operator.settings import Settings

DEAF_S: Final = 180.0  # the Lease is heard of twice a second, and else its watch fails sooner

_log = logging.getLogger(__name__)


async def run(settings: Settings) -> int:
    """Run the operator until it is told to stop; return the exit status."""
    logs.configure(settings.log_format)
    # A process that starts anew in the same pod is another candidate.
    identity = f"{settings.identity}_{secrets.token_hex(4)}"
    fence = Fence()
    async with await Cluster.open(fence, identity) as api:
        waiting = health.probes(is_alive=lambda: True, is_ready=lambda: False)
        async with health.serving(waiting, settings.health):
            await crds.until_current(api)
        reconciler = Reconciler(api, settings, fence)
        lease = LeaseName(settings.namespace, settings.lease)
        leadership = Leadership(api, fence, lease, identity, settings.timing, reconciler.lead)
        listener = Listener(reconciler, api.credentials, settings.watch_namespaces)

        def token() -> str | None:
            if settings.metrics_open:
                return None
            own = ServiceKey(settings.namespace, names.FIELD_MANAGER)
            return control_token(reconciler.master, own)

        def is_alive() -> bool:
            return reconciler.is_alive() and leadership.heard_s() < DEAF_S

        probes = health.probes(is_alive, reconciler.is_ready)
        async with (
            health.serving(probes, settings.health),
            health.serving(health.metrics(token), settings.metrics),
        ):
            return await _run_all(leadership, reconciler, listener)


async def _run_all(leadership: Leadership, reconciler: Reconciler, listener: Listener) -> int:
    """Run until a signal says to stop, or until one of the parts breaks."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    told = asyncio.create_task(stop.wait(), name="stop")
    parts = {
        asyncio.create_task(leadership.run(), name="leadership"),
        asyncio.create_task(reconciler.run(), name="reconciler"),
        asyncio.create_task(listener.run(), name="listener"),
    }
    await asyncio.wait({*parts, told}, return_when=asyncio.FIRST_COMPLETED)
    # The Lease first: a standby may act while this process still closes its connections.
    await leadership.resign()
    for part in (*parts, told):
        part.cancel()
    await asyncio.gather(*parts, told, return_exceptions=True)
    faults = [fault for part in parts if not part.cancelled() and (fault := part.exception())]
    for fault in faults:
        _log.error("the operator ends", exc_info=fault)
    return 1 if faults else 0
