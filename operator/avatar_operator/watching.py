"""Keeps up with the cluster: listings of every kind, and watches of our own beside kopf's.

kopf watches services and profiles. For each object that it sees it keeps a record,
a queue and for a while a task, and it copies the body several times: too much for
every pod and node of a cluster, most of which are not ours. Those are followed here;
what is kept of them is what plans need.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping
from typing import Final

from avatar_operator import cluster, metrics, names
from avatar_operator.core import manifests
from avatar_operator.core.manifests import Body
from avatar_operator.core.observations import Kind, News, Observations
from avatar_operator.core.watches import Watches
from avatar_operator.errors import ClusterError, NotFound, TemporaryError

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

_log = logging.getLogger(__name__)


class Watching:
    """The owner of all listings, and of the watches of nodes and pods."""

    def __init__(
        self,
        api: cluster.Cluster,
        seen: Observations,
        resync_s: float,
        *,
        observe: Callable[[Kind, Body], News],
        forget: Callable[[Kind, str], None],
        looked: Callable[[Collection[str]], None],
    ) -> None:
        """`looked` is called after each look at everything, with the UIDs of budgets found right.

        What is found in between goes to `observe` and `forget`.
        """
        self._api = api
        self._seen = seen
        self._resync_s = resync_s
        self._observe = observe
        self._forget = forget
        self._looked = looked
        self._listed = {kind: asyncio.Event() for kind in FOLLOWED}
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
        """Take in that kopf's watch began anew: what was deleted before is never told of."""
        if self._synced:  # else everything is listed anyway
            self._relisted.add(kind)
            self._relisting.set()

    async def run(self) -> None:
        """Look at everything, and keep up with it until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for kind in FOLLOWED:
                tasks.create_task(self._follow_forever(kind), name=f"watch of {kind.value}")
            tasks.create_task(self._resync_forever(), name="resync")
            tasks.create_task(self._relist_forever(), name="relist")

    async def _resync_forever(self) -> None:
        await self._resync(TOLD)  # the others are listed by those who follow them
        await asyncio.gather(*(listed.wait() for listed in self._listed.values()))
        budgeted = await self._budgeted()
        _log.info("everything is listed services=%d", len(self._seen.services.uids()))
        self._synced = True
        self._looked(budgeted)
        await asyncio.sleep(min(SECOND_LOOK_S, self._resync_s))
        kinds: tuple[Kind, ...] = TOLD
        while True:
            await self._resync(kinds)
            self._looked(await self._budgeted())
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
        """Find what was deleted while kopf's watch was down, once for each time that it was."""
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
        async for page in self._api.list(cluster.PATHS[kind.value]):
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

    async def _budgeted(self) -> Collection[str]:
        """Return the UIDs of services whose budget is there and right."""
        selector = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"
        while True:
            try:
                pages = self._api.list(cluster.PATHS["poddisruptionbudgets"], selector)
                found = [manifests.budgeted(body) async for page in pages for body in page.items]
            except ClusterError as error:
                _log.warning("cannot list budgets fault=%s", error)
                await asyncio.sleep(RETRY_S)
            else:
                return {uid for uid in found if uid is not None}

    async def _follow_forever(self, kind: Kind) -> None:
        """List a kind and watch it from there; list again only if the server forgot the version."""
        version = ""
        first, longest = REWATCH_S
        delay_s = first
        while True:
            try:
                if not version:
                    version = await self._list(kind)
                    self._listed[kind].set()
                path = cluster.PATHS[kind.value]
                async for told, body in self._api.watch(path, version, SILENCE_S):
                    self.hear(kind)
                    version = self._take(kind, told, body)
                    delay_s = first
                    if not version:
                        break
            except NotFound as error:
                version = ""
                _log.info("the watch must begin anew kind=%s fault=%s", kind.value, error)
            except ClusterError as error:
                asked_s = error.delay_s if isinstance(error, TemporaryError) else None
                delay_s = max(delay_s, asked_s or 0.0)
                _log.info("the watch ended kind=%s fault=%s", kind.value, error)
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(longest, delay_s * 2)

    def _take(self, kind: Kind, told: str, body: Body) -> str:
        """Take in one event and return the version to go on from, "" if there is none."""
        if told not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK"):
            # Mostly 410: the version is too old.
            _log.info("the watch told %s kind=%s message=%s", told, kind.value, body.get("message"))
            return ""
        metadata = _metadata(body)
        if told == "DELETED":
            self._forget(kind, metadata["uid"])
        elif told != "BOOKMARK":
            self._observe(kind, body)
        return metadata["resourceVersion"]

    def tell(self) -> None:
        """Let the metrics say how old the watches are."""
        for kind, age_s in self.ages().items():
            metrics.set_watch_age(kind.value, age_s)


def _metadata(body: Body) -> Mapping[str, str]:
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    return metadata
