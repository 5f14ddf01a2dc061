"""Keeps the store current: lists of every kind, and watches of nodes, pods, Jobs and PDBs.

kopf watches services, profiles, avatars and tenants. For each object that it sees, kopf keeps a
record, a queue and for a while a task, and it copies the body several times. This costs too much
for every pod and node of a cluster, most of which do not belong to the operator. They are watched
here, and so are the Jobs of avatars, the PodDisruptionBudgets of services, and the namespaces if a
tenant selects them; only what plans need is kept.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from avatar_contracts.backoff import Backoff
from avatar_contracts.list_watch import (
    BOOKMARK,
    DELETED,
    ExpiredError,
    ListWatchError,
    Reflector,
)
from avatar_operator import names
from avatar_operator.core.cache.entries import DEVICE_KINDS, ChangeImpact, Kind
from avatar_operator.core.cache.watch_health import WatchHealth
from avatar_operator.core.manifests.objects import pdb_content
from avatar_operator.errors import ClusterError, NotFound, TemporaryError
from avatar_operator.kube import client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping

    from avatar_operator.core.cache.store import Store
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.metrics import Metrics

KOPF_KINDS: Final = (Kind.SERVICES, Kind.PROFILES, Kind.AVATARS, Kind.TENANTS)
"""The kinds that kopf watches."""

WATCHED_KINDS: Final = (Kind.NODES, Kind.PODS, Kind.JOBS, Kind.NAMESPACES, *DEVICE_KINDS)
"""The kinds that are watched here: namespaces only while a tenant selects them by labels, the
kinds of resource.k8s.io/v1 only while the cluster serves them."""

SILENCE_S: Final = 70.0  # bookmarks arrive every 60 s: a watch that is silent longer is frozen
REWATCH_S: Final = (0.1, 10.0)  # first and longest delay before a watch is opened again
RETRY_S: Final = 2.0
RELIST_S: Final = 1.0
SECOND_LIST_S: Final = 5.0  # kopf lists at startup too; nothing reports a deletion between the two
YIELD_EVERY: Final = 50  # objects of a list between two yields to the event loop: some ms

PDBS: Final = "poddisruptionbudgets"
_PDBS_PATH: Final = client.PATHS[PDBS]
_OWN_OBJECTS: Final = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"
_DEVICES: Final = frozenset(kind.value for kind in DEVICE_KINDS)
_SELECTORS: Final = {Kind.JOBS: _OWN_OBJECTS}
"""Label selectors of the kinds of which only own objects are needed."""

_log = logging.getLogger(__name__)


class ChangeHandler(Protocol):
    """The receiver of everything that the informers find."""

    def observe(self, kind: Kind, body: Mapping[str, object]) -> ChangeImpact:
        """Handle an object that exists, and return the impact of what changed."""
        ...

    def observe_deletion(self, kind: Kind, uid: str) -> None:
        """Handle the deletion of an object."""
        ...

    def on_pdb(self, uid: str, protects: str | None) -> None:
        """Handle a PDB; `protects` is the UID of the service that it is correct for."""
        ...

    def on_pdbs_listed(self, protects: Mapping[str, str]) -> None:
        """Handle a list of all PDBs: for the UID of each correct one, the UID of its service."""
        ...

    def on_resync(self) -> None:
        """Handle the end of a full list."""
        ...


@dataclass(frozen=True, slots=True)
class _Source:
    """What one reflector follows."""

    api: client.KubernetesClient
    path: str
    list_all: Callable[[], Awaitable[str]]
    """Lists and handles all objects, and returns the version to watch from."""

    on_event: Callable[[str, Body], None]
    on_interrupted: Callable[[], None]
    selector: str = ""

    async def list(self) -> str:
        with _list_watch_errors():
            return await self.list_all()

    async def watch(self, version: str) -> AsyncIterator[tuple[str, Body]]:
        with _list_watch_errors():
            async for event in self.api.watch(self.path, version, SILENCE_S, self.selector):
                yield event


class Informers:
    """Owns all lists, and the watches of nodes, pods and PDBs."""

    def __init__(
        self,
        api: client.KubernetesClient,
        store: Store,
        resync_s: float,
        handler: ChangeHandler,
        metrics: Metrics,
    ) -> None:
        self._api = api
        self._store = store
        self._resync_s = resync_s
        self._handler = handler
        self._metrics = metrics
        self._reflectors = {
            name: Reflector(name, source, Backoff(*REWATCH_S, random.random))
            for name, source in self._sources().items()
        }
        self._needs_namespaces = asyncio.Event()
        self._serves_devices = asyncio.Event()
        self._said_no_devices = False
        self._to_relist: set[Kind] = set()
        self._relist_requested = asyncio.Event()
        self._synced = False
        self._health = WatchHealth(asyncio.get_running_loop().time())

    @property
    def synced(self) -> bool:
        """Whether every kind was listed at least once."""
        return self._synced

    def frozen(self) -> tuple[Kind, ...]:
        """Return the kinds whose watch stopped delivering events without an error."""
        return self._health.frozen()

    def on_event(self, kind: Kind) -> None:
        """Record that the watch of a kind delivered an event."""
        self._health.on_event(kind, asyncio.get_running_loop().time())

    def relist(self, kind: Kind) -> None:
        """List a kind again, because its watch in kopf may have missed deletions."""
        if self._synced:  # otherwise everything is about to be listed
            self._to_relist.add(kind)
            self._relist_requested.set()

    def export_metrics(self) -> None:
        """Set the metric of the time since the last event of each watch."""
        for kind, age_s in self._health.ages(asyncio.get_running_loop().time()).items():
            if not self._is_needed(kind.value):
                continue
            self._metrics.set_watch_age(kind.value, age_s)

    async def run(self) -> None:
        """List everything, and keep the store current until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name in self._reflectors:
                tasks.create_task(self._follow(name), name=f"watch of {name}")
            tasks.create_task(self._resync_forever(), name="resync")
            tasks.create_task(self._relist_forever(), name="relist")

    def check_namespaces(self) -> None:
        """Start to watch the namespaces if a tenant selects them by their labels."""
        if self._store.tenants.needs_namespaces():
            self._needs_namespaces.set()

    async def _check_devices(self) -> None:
        """Start to watch the kinds of resource.k8s.io/v1 if all may be listed; else say so once."""
        if self._serves_devices.is_set():
            return
        try:
            why = [await self._api.serves(client.PATHS[kind.value]) for kind in DEVICE_KINDS]
        except ClusterError as error:
            why = [str(error)]  # tried again at the next resync
        if not any(why):
            self._serves_devices.set()
        elif not self._said_no_devices:
            self._said_no_devices = True
            fault = next(each for each in why if each)
            _log.info("GPUs of DRA drivers are not used until they can be listed fault=%s", fault)

    def _is_needed(self, name: str) -> bool:
        """Return whether a kind is watched now."""
        if name == Kind.NAMESPACES.value:
            return self._needs_namespaces.is_set()
        return name not in _DEVICES or self._serves_devices.is_set()

    async def _follow(self, name: str) -> None:
        if name == Kind.NAMESPACES.value:
            await self._needs_namespaces.wait()
        if name in _DEVICES:
            await self._serves_devices.wait()
        await self._reflectors[name].run()

    async def _resync_forever(self) -> None:
        await self._resync(KOPF_KINDS)  # the watches of this module list the other kinds
        self.check_namespaces()
        await self._check_devices()
        awaited = [
            reflector for name, reflector in self._reflectors.items() if self._is_needed(name)
        ]
        await asyncio.gather(*(each.synced.wait() for each in awaited))
        _log.info("caches synced services=%d", len(self._store.services.uids()))
        self._synced = True
        self._handler.on_resync()
        await asyncio.sleep(min(SECOND_LIST_S, self._resync_s))
        kinds: tuple[Kind, ...] = KOPF_KINDS
        while True:
            await self._resync(kinds)
            await self._list_pdbs()
            self._handler.on_resync()
            await asyncio.sleep(self._resync_s)
            await self._check_devices()
            kinds = tuple(kind for kind in Kind if self._is_needed(kind.value))

    async def _resync(self, kinds: Collection[Kind]) -> None:
        """List some kinds, and retry each until it succeeds."""
        for kind in kinds:
            while True:
                try:
                    await self._list(kind)
                    break
                except ClusterError as error:
                    # The CRDs are missing or the API server is down: the store stays as it is.
                    _log.warning("cannot list kind=%s fault=%s", kind.value, error)
                    await asyncio.sleep(RETRY_S)

    async def _relist_forever(self) -> None:
        """Find the objects that were deleted while kopf's watch was down."""
        while True:
            await self._relist_requested.wait()
            await asyncio.sleep(RELIST_S)  # kopf reports the objects of a list one by one
            self._relist_requested.clear()
            for kind in tuple(self._to_relist):
                self._to_relist.discard(kind)
                try:
                    await self._list(kind)
                except ClusterError as error:
                    _log.warning("cannot list kind=%s fault=%s", kind.value, error)
                    self.relist(kind)

    async def _list(self, kind: Kind) -> str:
        """List a kind and return the version; a known object that is not listed was deleted.

        Raises:
            ClusterError: the list was not read to its end; no object is removed.
        """
        known = self._store.uids(kind)
        listed: set[str] = set()
        changes, version = 0, ""
        async for page in self._api.list(client.PATHS[kind.value], _SELECTORS.get(kind, "")):
            version = page.version
            for body in page.items:
                listed.add(_metadata(body)["uid"])
                changes += self._handler.observe(kind, body) != ChangeImpact()
                if not len(listed) % YIELD_EVERY:
                    await asyncio.sleep(0)
        for uid in known - listed:
            self._handler.observe_deletion(kind, uid)
        changes += len(known - listed)
        if changes and self._synced:
            _log.info(
                "relist found changes that the watch missed kind=%s changes=%d", kind.value, changes
            )
        self._health.on_list(kind, changes, asyncio.get_running_loop().time())
        return version

    async def _list_pdbs(self) -> str:
        """List the PDBs, report the correct ones and return the version; retry on errors."""
        while True:
            found: dict[str, str] = {}
            version = ""
            try:
                async for page in self._api.list(_PDBS_PATH, _OWN_OBJECTS):
                    for body in page.items:
                        if (service := pdb_content(body)) is not None:
                            found[_metadata(body)["uid"]] = service
                    version = page.version
            except ClusterError as error:
                _log.warning("cannot list kind=%s fault=%s", PDBS, error)
                await asyncio.sleep(RETRY_S)
            else:
                self._handler.on_pdbs_listed(found)
                return version

    async def _relist_pdbs(self) -> str:
        """List the PDBs for their watch; every service checks for the events that it missed."""
        version = await self._list_pdbs()
        if self._synced:
            self._handler.on_resync()
        return version

    def _sources(self) -> dict[str, _Source]:
        sources = {
            kind.value: _Source(
                self._api,
                client.PATHS[kind.value],
                partial(self._list, kind),
                partial(self._on_object_event, kind),
                self._relist_kopf_kinds,
                _SELECTORS.get(kind, ""),
            )
            for kind in WATCHED_KINDS
        }
        sources[PDBS] = _Source(
            self._api,
            _PDBS_PATH,
            self._relist_pdbs,
            self._on_pdb_event,
            self._relist_kopf_kinds,
            _OWN_OBJECTS,
        )
        return sources

    def _relist_kopf_kinds(self) -> None:
        """List kopf's kinds: what ended a watch here may have ended kopf's, without a report."""
        for kind in KOPF_KINDS:
            self.relist(kind)

    def _on_object_event(self, kind: Kind, event_type: str, body: Body) -> None:
        self.on_event(kind)
        if event_type == DELETED:
            self._handler.observe_deletion(kind, _metadata(body)["uid"])
        elif event_type != BOOKMARK:
            self._handler.observe(kind, body)

    def _on_pdb_event(self, event_type: str, body: Body) -> None:
        if event_type != BOOKMARK:
            protects = None if event_type == DELETED else pdb_content(body)
            self._handler.on_pdb(_metadata(body)["uid"], protects)


@contextmanager
def _list_watch_errors() -> Iterator[None]:
    """Translate the errors of the API server into those of the reflector."""
    try:
        yield
    except NotFound as error:
        raise ExpiredError(str(error)) from error
    except ClusterError as error:
        delay_s = error.delay_s if isinstance(error, TemporaryError) else None
        raise ListWatchError(str(error), delay_s or 0.0) from error


def _metadata(body: Body) -> Mapping[str, str]:
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    return metadata
