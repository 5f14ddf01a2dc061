"""Keeps the shares of the services in GPUs that are short.

Each plan records the demand of its service. While a service lacks GPUs, the shares are computed
again after changes, at most once a second, and the services whose share changed are reconciled.
While no service lacks GPUs, nothing is computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from avatar_operator.core.planning.sharing import gpu_cells, shares
from avatar_operator.errors import AvatarOperatorError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from avatar_operator.controllers.triggers import Triggers
    from avatar_operator.core.cache.store import Store
    from avatar_operator.core.planning.sharing.gpu_cells import Demand
    from avatar_operator.core.planning.sharing.shares import Share, Shares
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState

COLLECT_S: Final = 0.1  # services that are applied together are shared out together
EVERY_S: Final = 1.0  # between two computations
DUTY: Final = 20  # a long computation is followed by a pause of this many times its duration
PRIORITIES_S: Final = 60.0  # between two reads of the PriorityClasses
UNKNOWN_PRIORITY_S: Final = 2.0  # the same, while a service names a class that is not known
OFFER_S: Final = 2.5  # a GPU is kept free this long for the service that it was freed for
DECLINED_S: Final = 60.0  # no GPU is kept for a service this long after it did not take one
SHARE_S: Final = 0.02  # before a service with a new share is reconciled

_log = logging.getLogger(__name__)


class GPUShares:
    """The demands of all services, and the shares that follow from them."""

    def __init__(
        self,
        store: Store,
        triggers: Triggers,
        states: Callable[[Iterable[str]], Mapping[str, PodState]],
        read_priorities: Callable[[], Awaitable[Mapping[str, int]]],
    ) -> None:
        """`read_priorities` returns the values of all PriorityClasses; "" is the default."""
        self._store = store
        self._triggers = triggers
        self._states = states
        self._read_priorities = read_priorities
        self._demands: dict[str, Demand] = {}
        self._equal: dict[Any, Any] = {}  # values that many demands contain, once each
        self._stated: set[str] = set()  # UIDs of services that were reconciled in this term
        self._complete = False  # whether every service was reconciled in this term
        self._lacking: set[str] = set()
        self._shares: Shares | None = None
        self._offered: dict[str, float] = {}  # since when a GPU is kept free for a service
        self._declined: dict[str, float] = {}  # until when no GPU is kept for a service
        self._term = 0
        self._changed = asyncio.Event()  # a service lacks GPUs, and something has changed
        self._priorities: Mapping[str, int] = {}
        self._priorities_at = float("-inf")  # when they were read last

    def begin_term(self) -> None:
        """Forget the demands: another replica may have led."""
        self._demands.clear()
        self._equal.clear()
        self._stated.clear()
        self._lacking.clear()
        self._offered.clear()
        self._declined.clear()
        self._complete, self._shares = False, None
        self._term += 1

    def of(self, uid: str) -> Share | None:
        """Return the share of a service, None if no shortage concerns it."""
        if self._shares is None:
            return None
        return self._shares.of(uid, stated=uid in self._stated)

    def lacking_classes(self) -> frozenset[str]:
        """Return the GPU classes that a service accepts and of which it lacks a GPU."""
        lacking = (self._demands[uid] for uid in self._lacking if uid in self._demands)
        return frozenset(gpu_class for demand in lacking for gpu_class in demand.classes)

    def record(self, uid: str, demand: Demand) -> None:
        """Record the demand of a service after a plan."""
        if self._demands.get(uid) != demand:  # an equal copy would only use memory
            self._demands[uid] = self._compact(uid, demand)
        self._on_record(uid, lacks=demand.lacks)

    def record_failure(self, uid: str) -> None:
        """Record that a service could not use GPUs: it wants no more than it has for now."""
        known = self._demands.get(uid)
        if known is not None and known.lacks:
            self.record(uid, known.without_more())

    def record_none(self, uid: str) -> None:
        """Record that a service wants no GPU, because it is invalid or deleted."""
        self._demands.pop(uid, None)
        self._on_record(uid, lacks=False)

    async def run(self) -> None:
        """Compute the shares after changes until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            # Time alone ends an offer, and the pause after one that was not taken.
            wait_s = OFFER_S if self._offered or self._declined else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            await asyncio.sleep(COLLECT_S)
            self._changed.clear()
            await self._update_priorities()
            started = loop.time()
            try:
                await self._compute()
            except Exception:  # a bug must not stop the operator: without shares, plans go on
                self._shares = None
                _log.exception("cannot compute the shares of GPUs")
            await asyncio.sleep(max(EVERY_S, DUTY * (loop.time() - started)))

    def _compact(self, uid: str, demand: Demand) -> Demand:
        """Return a demand that shares what is equal: there are thousands of services."""
        body = self._store.services.get(uid)
        return replace(
            demand,
            key=demand.key if body is None else body.key,
            classes=self._equal.setdefault(demand.classes, demand.classes),
            placement=self._equal.setdefault(demand.placement, demand.placement),
        )

    def _on_record(self, uid: str, *, lacks: bool) -> None:
        exists = self._store.services.get(uid) is not None
        (self._stated.add if exists else self._stated.discard)(uid)
        (self._lacking.add if lacks else self._lacking.discard)(uid)
        if not self._complete:
            self._complete = len(self._stated) >= len(self._store.services.uids())
        if self._lacking:
            self._changed.set()
        else:
            self._shares = None

    async def _update_priorities(self) -> None:
        """Read the PriorityClasses if a service names one; their values never change."""
        loop = asyncio.get_running_loop()
        names = {demand.priority_class for demand in self._demands.values()} - {None}
        known_s = PRIORITIES_S if names <= self._priorities.keys() else UNKNOWN_PRIORITY_S
        if not names or loop.time() < self._priorities_at + known_s:
            return
        try:
            self._priorities = await self._read_priorities()
        except AvatarOperatorError as error:
            _log.warning("cannot read PriorityClasses, all priorities count as 0 fault=%s", error)
        self._priorities_at = loop.time()

    async def _compute(self) -> None:
        before, term = self._shares, self._term
        competition = self._collect()
        computed = None
        if competition is not None:
            computed = await asyncio.to_thread(competition.divide)
        if term != self._term or not self._lacking:
            self._note_offers(frozenset())
            return
        self._shares = computed
        self._note_offers(frozenset() if computed is None else computed.offered)
        for uid, share in () if computed is None else computed.by_service.items():
            if before is not None and before.by_service.get(uid) == share:
                continue
            if share.keep or uid in self._lacking:
                self._triggers.trigger(uid, SHARE_S)

    def _note_offers(self, offered: frozenset[str]) -> None:
        """Note how long GPUs are kept for services; one that does not take it gets none for now.

        Whatever keeps the service from it, the GPU must not stay idle beside others that lack one.
        """
        now = asyncio.get_running_loop().time()
        self._offered = {uid: self._offered.get(uid, now) for uid in offered}
        self._declined = {uid: until for uid, until in self._declined.items() if now < until}
        for uid, since in self._offered.items():
            if now - since >= OFFER_S:
                self._declined[uid] = now + DECLINED_S
                self._changed.set()

    def _collect(self) -> shares.Competition | None:
        if not (self._lacking and self._complete):
            return None
        return shares.collect(
            self._demands,
            gpu_cells.Observation(
                nodes=self._store.nodes(),
                profiles=self._store.profiles(),
                uses=self._store.gpu_uses(time.time()),
                node_classes=self._store.node_class_cache(),
                pods=self._pods,
                states=self._states,
                priorities=self._priorities,
            ),
            self._declined,
        )

    def _pods(self, uid: str) -> Sequence[RuntimePod]:
        """Return the pods of a service; pods of other namespaces only name it as their owner."""
        namespace = self._demands[uid].key.namespace
        return [pod for pod in self._store.owned_by(uid) if pod.namespace == namespace]
