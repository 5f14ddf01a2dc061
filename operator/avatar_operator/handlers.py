"""kopf's entry points: watches wake the reconciler, and nothing else happens here.

Only `on.event` is used. It writes nothing to the objects, neither annotations
nor finalizers, so that a second operator or none at all does no harm.
"""

import asyncio
import logging
import secrets
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

import kopf

from avatar_operator import definitions, health, logs, names
from avatar_operator.cluster import Cluster
from avatar_operator.core import manifests, model
from avatar_operator.core.observations import Kind
from avatar_operator.errors import ClusterError
from avatar_operator.fencing import Fence
from avatar_operator.leadership import Leadership, LeaseName
from avatar_operator.reconciler import Reconciler
from avatar_operator.settings import Settings
from avatar_operator.watching import SILENCE_S, TOLD

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
            await definitions.until_current(api)
        reconciler = Reconciler(api, settings, fence)
        lease = LeaseName(settings.namespace, settings.lease)
        leadership = Leadership(api, fence, lease, identity, settings.timing, reconciler.lead)

        def token() -> str | None:
            if settings.metrics_open:
                return None
            own = model.ServiceKey(settings.namespace, names.FIELD_MANAGER)
            return manifests.control_token(reconciler.master, own)

        def is_alive() -> bool:
            return reconciler.is_alive() and leadership.heard_s() < DEAF_S

        probes = health.probes(is_alive, reconciler.is_ready)
        async with (
            health.serving(probes, settings.health),
            health.serving(health.metrics(token), settings.metrics),
        ):
            return await _run_all(reconciler, leadership, api, settings)


async def _run_all(
    reconciler: Reconciler, leadership: Leadership, api: Cluster, settings: Settings
) -> int:
    """Run until a signal says to stop, or until one of the parts breaks."""
    stop, started = asyncio.Event(), asyncio.Event()
    ours = {
        asyncio.create_task(leadership.run(), name="leadership"),
        asyncio.create_task(reconciler.run(), name="reconciler"),
    }
    watches = kopf.operator(
        registry=registry(reconciler, api),
        settings=kopf_settings(),
        standalone=True,
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
        ready_flag=started,
        stop_flag=stop,
    )
    told = asyncio.create_task(_told_to_stop(started, stop), name="stop")
    parts = {*ours, asyncio.create_task(watches, name="kopf")}
    await asyncio.wait({*parts, told}, return_when=asyncio.FIRST_COMPLETED)
    # The Lease first: a standby may act while this process still closes its connections.
    await leadership.resign()
    for part in (*ours, told):
        part.cancel()
    await asyncio.gather(*ours, told, return_exceptions=True)
    stop.set()  # kopf waits up to 5 s for tasks of others, so they end before
    await asyncio.gather(*parts, return_exceptions=True)
    faults = [fault for part in parts if not part.cancelled() and (fault := part.exception())]
    for fault in faults:
        _log.error("the operator ends", exc_info=fault)
    return 1 if faults else 0


async def _told_to_stop(started: asyncio.Event, stop: asyncio.Event) -> None:
    """Wait for a signal, in place of kopf: the Lease is given back before all else."""
    await started.wait()  # kopf sets its own handlers before
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def kopf_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: nothing is written, and no watch stays frozen."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.watching.inactivity_timeout = SILENCE_S
    settings.watching.chunk_size = 500
    storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP, v1=False)
    settings.persistence.progress_storage = storage
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.persistence.finalizer = f"{names.GROUP}/finalizer"
    return settings


class _NoDiffs(kopf.DiffBaseStorage):
    """Compares nothing: kopf copies each object three times for a diff that nobody asks for."""

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        pass


def registry(reconciler: Reconciler, api: Cluster) -> kopf.OperatorRegistry:
    """Return kopf's handlers: the login, and one for the events of each kind."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        try:
            found = await api.credentials()
        except ClusterError as error:
            raise kopf.TemporaryError(str(error), delay=1) from error
        scheme, _space, token = (found.authorization or "").rpartition(" ")
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.ca_path,
            insecure=not found.verifies,
            scheme=scheme.title() or None,
            token=token or None,
            certificate_path=found.certificate_path,
            private_key_path=found.key_path,
        )

    def handler(kind: Kind) -> Callable[..., Coroutine[Any, Any, None]]:
        async def see(event: kopf.RawEvent, **_: Any) -> None:
            reconciler.hear(kind)
            body = event["object"]
            if event["type"] is None:  # of a listing, not of a watch
                reconciler.relist(kind)
            if event["type"] == "DELETED":
                reconciler.forget(kind, body["metadata"]["uid"])
            else:
                reconciler.observe(kind, body)

        see.__name__ = f"see_{kind.name.lower()}"
        return see

    for kind in TOLD:
        kopf.on.event(names.GROUP, names.VERSION, kind.value, registry=handlers)(handler(kind))
    return handlers
