"""The operator's process: builds the parts, serves probes and metrics, and shuts down in order."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from typing import TYPE_CHECKING, Final

from avatar_contracts import descriptors, logs, tokens
from avatar_operator import health, names
from avatar_operator.controllers.manager import Manager
from avatar_operator.core import leader_election
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.fence import Fence
from avatar_operator.kube import crds
from avatar_operator.kube.client import KubernetesClient
from avatar_operator.kube.kopf_informer import KopfInformer
from avatar_operator.kube.leader_election import LeaderElector, LeaseName
from avatar_operator.metrics import Metrics

if TYPE_CHECKING:
    from avatar_operator.core.keys import KeyRing
    from avatar_operator.settings import Settings

NO_CONTACT_S: Final = 180.0
"""Time without any event of the Lease after which the process is not alive. The Lease is renewed
several times a second or, with long durations, its watch is opened again within 70 s."""

LOG_LEVELS: Final = {
    # kopf logs each event that it passes on: one line for each change of each object.
    "kopf.objects": logging.WARNING,
    # kopf warns that it ignores signals; the operator handles them.
    "kopf._core.reactor.running": logging.ERROR,
}

_log = logging.getLogger(__name__)


async def run(settings: Settings) -> int:
    """Run the operator until a signal stops it; return the exit status."""
    logs.configure(settings.log_format, LOG_LEVELS)
    descriptors.raise_limit()
    # A restarted process in the same pod is another candidate.
    identity = f"{settings.identity}_{secrets.token_hex(4)}"
    fence, metrics = Fence(), Metrics()
    async with await KubernetesClient.open(fence, identity) as api:
        starting = health.probes(is_alive=lambda: True, is_ready=lambda: False)
        async with health.serving(starting, settings.health):
            await crds.wait_until_current(api)
        manager = Manager(api, settings, fence, metrics)
        elector = LeaderElector(
            api,
            fence,
            LeaseName(settings.namespace, settings.lease),
            leader_election.Candidate(identity, settings.timing),
            metrics,
            manager.lead,
        )
        kopf_informer = KopfInformer(manager, api.credentials, settings.watch_namespaces)

        def token() -> str | None:
            return metrics_token(settings, manager.keys)

        def is_alive() -> bool:
            return manager.is_alive() and elector.seconds_since_contact() < NO_CONTACT_S

        async with (
            health.serving(
                health.probes(is_alive, manager.is_ready, lambda: manager.waits_for),
                settings.health,
            ),
            health.serving(health.metrics_app(metrics, token), settings.metrics),
        ):
            return await _run_all(elector, manager, kopf_informer)


def metrics_token(settings: Settings, keys: KeyRing | None) -> str | None:
    """Return the token that /metrics requires now, None if it is open."""
    if settings.metrics_open:
        return None
    if keys is None:
        return secrets.token_hex()  # before a key is known, nobody has access
    own = ServiceKey(settings.namespace, names.FIELD_MANAGER)
    return tokens.control_token(keys.current, str(own))


async def _run_all(elector: LeaderElector, manager: Manager, kopf_informer: KopfInformer) -> int:
    """Run until a signal arrives or one of the parts fails."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait(), name="stop")
    parts = {
        asyncio.create_task(elector.run(), name="leader elector"),
        asyncio.create_task(manager.run(), name="manager"),
        asyncio.create_task(kopf_informer.run(), name="kopf informer"),
    }
    await asyncio.wait({*parts, stopping}, return_when=asyncio.FIRST_COMPLETED)
    # The Lease first: a standby may lead while this process still closes its connections.
    await elector.resign()
    for part in (*parts, stopping):
        part.cancel()
    await asyncio.gather(*parts, stopping, return_exceptions=True)
    faults = [fault for part in parts if not part.cancelled() and (fault := part.exception())]
    for fault in faults:
        _log.error("operator failed", exc_info=fault)
    return 1 if faults else 0
