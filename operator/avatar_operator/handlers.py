"""kopf's entry points: watches wake the reconciler, and nothing else happens here.

Only `on.event` is used. It writes nothing to the objects, neither annotations
nor finalizers, so that a second operator or none at all does no harm.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

import kopf

from avatar_operator import health, logs, names
from avatar_operator.cluster import Cluster
from avatar_operator.core import manifests, model
from avatar_operator.core.observations import Kind
from avatar_operator.errors import ClusterError
from avatar_operator.reconciler import Reconciler
from avatar_operator.settings import Settings

INACTIVITY_S: Final = 70.0  # bookmarks come every 60 s: a watch that is silent longer is frozen

_log = logging.getLogger(__name__)


async def run(settings: Settings) -> int:
    """Run the operator until it is told to stop; return the exit status."""
    logs.configure(settings.log_format)
    async with await Cluster.open() as api:
        reconciler = Reconciler(api, settings)

        def token() -> str | None:
            if settings.metrics_open:
                return None
            own = model.ServiceKey(settings.namespace, names.FIELD_MANAGER)
            return manifests.control_token(reconciler.master, own)

        probes = health.probes(reconciler.is_alive, reconciler.is_ready)
        async with (
            health.serving(probes, settings.health),
            health.serving(health.metrics(token), settings.metrics),
        ):
            return await _run_both(reconciler, api, settings)


async def _run_both(reconciler: Reconciler, api: Cluster, settings: Settings) -> int:
    """Run until kopf was told to stop, or until one of the two breaks."""
    work = asyncio.create_task(reconciler.run(), name="reconciler")
    watches = kopf.operator(
        registry=registry(reconciler, api, work.cancel),
        settings=kopf_settings(),
        standalone=True,
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
    )
    watching = asyncio.create_task(watches, name="kopf")
    await asyncio.wait({work, watching}, return_when=asyncio.FIRST_COMPLETED)
    broke = work.done() and not work.cancelled()  # else kopf stops, and has stopped the work
    if broke:
        watching.cancel()
    await asyncio.gather(work, watching, return_exceptions=True)
    faults = [
        fault for task in (work, watching) if not task.cancelled() and (fault := task.exception())
    ]
    for fault in faults:
        _log.error("the operator ends", exc_info=fault)
    return 1 if broke or faults else 0


def kopf_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: nothing is written, and no watch stays frozen."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.watching.inactivity_timeout = INACTIVITY_S
    settings.watching.chunk_size = 500
    storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP, v1=False)
    settings.persistence.progress_storage = storage
    settings.persistence.finalizer = f"{names.GROUP}/finalizer"
    return settings


def registry(
    reconciler: Reconciler, api: Cluster, stop: Callable[[], object]
) -> kopf.OperatorRegistry:
    """Return kopf's handlers: the login, one for the events of each kind, and the end."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.cleanup(registry=handlers)
    async def end(**_: Any) -> None:
        stop()  # kopf waits 5 s for tasks that still run when it has stopped itself

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
            body = event["object"]
            if event["type"] is None:  # of a listing, not of a watch
                reconciler.relist(kind)
            if event["type"] == "DELETED":
                reconciler.forget(kind, body["metadata"]["uid"])
            else:
                reconciler.observe(kind, body)

        see.__name__ = f"see_{kind.name.lower()}"
        return see

    for kind in Kind:
        if kind in (Kind.SERVICES, Kind.PROFILES):
            kopf.on.event(names.GROUP, names.VERSION, kind.value, registry=handlers)(handler(kind))
        else:
            kopf.on.event("", "v1", kind.value, registry=handlers)(handler(kind))
    return handlers
