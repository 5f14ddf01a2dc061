"""Keeps up with the cluster: listings of every kind, and watches of our own beside kopf's.

kopf watches services and profiles. For each object that it sees it keeps a record,
a queue and for a while a task, and it copies the body several times: too much for
every pod and node of a cluster, most of which are not ours. Those are followed here,
and so are the budgets of services; what is kept of them is what plans need.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from avatar_operator import metrics, names
from avatar_operator.core.cache.store import Kind, News, Observations
from avatar_operator.core.cache.watch_health import Watches
from avatar_operator.core.manifests.objects import pdb_content, pdb_service
from avatar_operator.errors import ClusterError, NotFound, TemporaryError
from avatar_operator.kube import client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.service import ServiceKey

TOLD: Final = (Kind.SERVICES, Kind.PROFILES)
"""The kinds that kopf watches."""

FOLLOWED: Final = (Kind.NODES, Kind.PODS)
"""The kinds that are watched here."""

SILENCE_S: Final = 70.0  # bookmarks come every 60 s: a watch that is silent longer is frozen
REWATCH_S: Final = (0.1, 10.0)  # first and longest delay before a watch is opened again
RETRY_S: Final = 2.0
RELIST_S: Final = 1.0
SECOND_LOOK_S: Final = 5.0  # kopf lists at the start too; nobody tells of what went between the two
BREATH: Final = 50  # objects of a listing that are taken in at a stretch: some milliseconds

BUDGETS: Final = "poddisruptionbudgets"
_BUDGETS_PATH: Final = client.PATHS[BUDGETS]
_OURS: Final = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Source:
    """What one watch follows."""

    name: str
    path: str
    list: Callable[[], Awaitable[str]]  # takes everything in and returns the version to go on from
    take: Callable[[str, Body], None]  # takes one event in
    selector: str = ""


class Watching:
    """The owner of all listings, and of the watches of nodes, pods and budgets."""

    def __init__(
        self,
        api: client.Cluster,
        seen: Observations,
        resync_s: float,
        *,
        observe: Callable[[Kind, Body], News],
        forget: Callable[[Kind, str], None],
        budget: Callable[[ServiceKey, str | None], None],
        budgets: Callable[[Collection[str]], None],
        looked: Callable[[], None],
    ) -> None:
        """What is found goes to the first four; `looked` is called after each look at everything.

        `budget` gets the name of a service and the UID of the one that its budget protects as it
        should, `budgets` the UIDs of all those.
        """
        self._api = api
        self._seen = seen
        self._resync_s = resync_s
        self._observe = observe
        self._forget = forget
        self._budget = budget
        self._budgets = budgets
        self._looked = looked
        self._listed = {name: asyncio.Event() for name in (*(k.value for k in FOLLOWED), BUDGETS)}
        self._relisted: set[Kind] = set()
        self._relisting = asyncio.Event()
        self._synced = False
        self._watches = Watches(asyncio.get_running_loop().time())

    @property
    def synced(self) -> bool:
        """Whether everything was listed once."""
        return self._synced

    def frozen(self) -> tuple[Kind, ...]:
        """Return the kinds whose watch has died without a word."""
        return self._watches.frozen()

    def ages(self) -> Mapping[Kind, float]:
        """Return the seconds since each watch told anything."""
        return self._watches.ages(asyncio.get_running_loop().time())

    def hear(self, kind: Kind) -> None:
        """Take in that the watch of a kind said something."""
        self._watches.hear(kind, asyncio.get_running_loop().time())

    def relist(self, kind: Kind) -> None:
        """Take in that kopf's watch may have begun anew: what went before is never told of."""
        if self._synced:  # else everything is listed anyway
            self._relisted.add(kind)
            self._relisting.set()

    async def run(self) -> None:
        """Look at everything, and keep up with it until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for source in self._sources():
                tasks.create_task(self._follow_forever(source), name=f"watch of {source.name}")
            tasks.create_task(self._resync_forever(), name="resync")
            tasks.create_task(self._relist_forever(), name="relist")

    async def _resync_forever(self) -> None:
        await self._resync(TOLD)  # the others are listed by those who follow them
        await asyncio.gather(*(listed.wait() for listed in self._listed.values()))
        _log.info("everything is listed services=%d", len(self._seen.services.uids()))
        self._synced = True
        self._looked()
        await asyncio.sleep(min(SECOND_LOOK_S, self._resync_s))
        kinds: tuple[Kind, ...] = TOLD
        while True:
            await self._resync(kinds)
            await self._list_budgets()
            self._looked()
            await asyncio.sleep(self._resync_s)
            kinds = tuple(Kind)

    async def _resync(self, kinds: Collection[Kind]) -> None:
        """List some kinds, however long that takes."""
        for kind in kinds:
            while True:
                try:
                    await self._list(kind)
                    break
                except ClusterError as error:
                    # The CRDs may not be there yet, or the API server is gone: all stays known.
                    _log.warning("cannot list kind=%s fault=%s", kind.value, error)
                    await asyncio.sleep(RETRY_S)

    async def _relist_forever(self) -> None:
        """Find what was deleted while kopf's watch was down, once for each time that it may be."""
        while True:
            await self._relisting.wait()
            await asyncio.sleep(RELIST_S)  # the watch tells of one object after the other
            self._relisting.clear()
            for kind in tuple(self._relisted):
                self._relisted.discard(kind)
                try:
                    await self._list(kind)
                except ClusterError as error:
                    _log.warning("cannot list kind=%s fault=%s", kind.value, error)
                    self.relist(kind)

    async def _list(self, kind: Kind) -> str:
        """Take in a whole listing and return its version; what was known and is not there is gone.

        Raises:
            ClusterError: it was not read to its end, and nothing is forgotten.
        """
        known = self._seen.known(kind)
        listed: set[str] = set()
        changes, version = 0, ""
        async for page in self._api.list(client.PATHS[kind.value]):
            version = page.version
            for body in page.items:
                listed.add(_metadata(body)["uid"])
                changes += self._observe(kind, body) != News()
                if not len(listed) % BREATH:
                    await asyncio.sleep(0)  # others have their turn too
        for uid in known - listed:
            self._forget(kind, uid)
        changes += len(known - listed)
        if changes and self._synced:
            _log.info("a listing found what was not told kind=%s changes=%d", kind.value, changes)
        self._watches.list(kind, changes, asyncio.get_running_loop().time())
        return version

    async def _list_budgets(self) -> str:
        """Take in whose budget is there and right, and return of which version that is."""
        while True:
            found: set[str | None] = set()
            version = ""
            try:
                async for page in self._api.list(_BUDGETS_PATH, _OURS):
                    found.update(map(pdb_content, page.items))
                    version = page.version
            except ClusterError as error:
                _log.warning("cannot list budgets fault=%s", error)
                await asyncio.sleep(RETRY_S)
            else:
                self._budgets({uid for uid in found if uid is not None})
                return version

    async def _list_budgets_anew(self) -> str:
        """Do the same for the watch: what it missed is looked at by every service."""
        version = await self._list_budgets()
        if self._synced:
            self._looked()
        return version

    def _sources(self) -> tuple[_Source, ...]:
        kinds = (
            _Source(
                kind.value,
                client.PATHS[kind.value],
                partial(self._list, kind),
                partial(self._take, kind),
            )
            for kind in FOLLOWED
        )
        budgets = (self._list_budgets_anew, self._take_budget, _OURS)
        return (*kinds, _Source(BUDGETS, _BUDGETS_PATH, *budgets))

    def _take(self, kind: Kind, told: str, body: Body) -> None:
        self.hear(kind)
        if told == "DELETED":
            self._forget(kind, _metadata(body)["uid"])
        elif told != "BOOKMARK":
            self._observe(kind, body)

    def _take_budget(self, told: str, body: Body) -> None:
        key = None if told == "BOOKMARK" else pdb_service(body)
        if key is not None:
            self._budget(key, None if told == "DELETED" else pdb_content(body))

    async def _follow_forever(self, source: _Source) -> None:
        """List and watch from there; list again only if the server forgot the version."""
        version = ""
        first, longest = REWATCH_S
        delay_s = first
        while True:
            try:
                if not version:
                    version = await source.list()
                    self._listed[source.name].set()
                watch = self._api.watch(source.path, version, SILENCE_S, source.selector)
                async for told, body in watch:
                    version = _version(source.name, told, body)
                    if not version:
                        break
                    source.take(told, body)
                    delay_s = first
            except NotFound as error:
                version = ""
                _log.info("the watch must begin anew kind=%s fault=%s", source.name, error)
            except ClusterError as error:
                asked_s = error.delay_s if isinstance(error, TemporaryError) else None
                delay_s = max(delay_s, asked_s or 0.0)
                _log.info("the watch ended kind=%s fault=%s", source.name, error)
            for kind in TOLD:
                self.relist(kind)  # what ended this watch may have hit kopf's, which says nothing
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(longest, delay_s * 2)

    def tell(self) -> None:
        """Let the metrics say how old the watches are."""
        for kind, age_s in self.ages().items():
            metrics.set_watch_age(kind.value, age_s)


def _version(kind: str, told: str, body: Body) -> str:
    """Return the version that a watch has come to, "" if it cannot go on."""
    if told not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK"):
        # Mostly 410: the version is too old.
        _log.info("the watch told %s kind=%s message=%s", told, kind, body.get("message"))
        return ""
    return _metadata(body)["resourceVersion"]


def _metadata(body: Body) -> Mapping[str, str]:
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    return metadata
