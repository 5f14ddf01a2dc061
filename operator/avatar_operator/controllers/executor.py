"""Carries out what was planned for a service: actions in order, then its status, then Events."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, assert_never

from avatar_contracts import tokens
from avatar_operator import metrics, names
from avatar_operator.core.cache.store import Kind
from avatar_operator.core.manifests.objects import (
    adoption_patch,
    control_secret,
    event_body,
    held_by_pod,
    live_marks,
    pdb,
    reserve_role,
)
from avatar_operator.core.manifests.pod import PodSettings, runtime_pod, set_annotation
from avatar_operator.core.planning import disruption, planner
from avatar_operator.core.resources.service import Service, ServiceKey
from avatar_operator.core.status import service_status
from avatar_operator.core.text import rfc3339
from avatar_operator.errors import (
    AvatarOperatorError,
    ClusterError,
    Conflict,
    Contested,
    NotFound,
    Refused,
    RuntimeUnreachable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from avatar_operator.core.autoscaling import scaling
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.fence import Fence
    from avatar_operator.kube import client
    from avatar_operator.streams import runtimes

STATUS_EVERY_S: Final = 1.0  # numbers change faster than anyone reads them

_REMEMBERED_EVENTS: Final = 256

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Memory:
    """What is remembered of a service, since it could not be observed."""

    written_at: float = float("-inf")  # the status; of the loop's clock
    has_secret: bool = False  # looked at since the last resync
    term: int = 0  # the one of leading in which it was planned last
    calm_until: float = float("-inf")  # nothing is taken away before; of the loop's clock
    history: scaling.History | None = None  # of its scaling
    contested: dict[str, str] = field(default_factory=dict)  # action: who keeps our field
    told: set[int] = field(default_factory=set)  # Events, by the hash of what they say


@dataclass(slots=True)
class Round:
    """What became of the actions of one plan."""

    done: list[planner.Action] = field(default_factory=list)
    faults: list[AvatarOperatorError] = field(default_factory=list)
    outdated: list[ClusterError] = field(default_factory=list)  # what was seen is not what is


class Executor:
    """The writer of everything that belongs to services."""

    def __init__(
        self,
        api: client.Cluster,
        pods: runtimes.Runtimes,
        fence: Fence,
        settings: PodSettings,
        *,
        observe: Callable[[Kind, Body], None],
        forget: Callable[[Kind, str], None],
        master: Callable[[], str],
    ) -> None:
        """Answers of the API server go to `observe`, so that the next plan knows them."""
        self._api = api
        self._runtimes = pods
        self._fence = fence
        self._settings = settings
        self._observe = observe
        self._forget = forget
        self._master = master
        self._budgeted: set[str] = set()  # UIDs of services whose budget was seen as it should be

    def is_budgeted(self, uid: str) -> bool:
        """Return whether a service's budget is as it should be, as far as is known."""
        return uid in self._budgeted

    def note_budget(self, uid: str, *, right: bool) -> None:
        """Take in whether a service's budget is as it should be."""
        (self._budgeted.add if right else self._budgeted.discard)(uid)

    def set_budgeted(self, uids: Collection[str]) -> None:
        """Take in which services have their budget; the others' are applied again."""
        self._budgeted = set(uids)

    def forget(self, uid: str) -> None:
        """Take in that a service is gone."""
        self._budgeted.discard(uid)

    async def apply(
        self, service: Service, actions: Sequence[planner.Action], memory: Memory
    ) -> Round:
        """Carry out the actions in order; one that fails does not stop the others."""
        ended = Round()
        for action in actions:
            try:
                acted = await self._carry_out(service, action, memory)
            except (Conflict, NotFound) as error:
                # News is on its way, or was lost; and a quota answers with a conflict, too.
                _log.info("outdated action service=%s fault=%s", service.key, error)
                ended.outdated.append(error)
                if isinstance(error, NotFound) and isinstance(action, planner.DeletePod):
                    self._forget(Kind.PODS, action.uid)
            except Contested as error:
                _log.warning("field contested service=%s fault=%s", service.key, error)
                memory.contested[type(action).__name__] = error.message
            except (ClusterError, RuntimeUnreachable) as error:
                ended.faults.append(error)
            else:
                if not acted:
                    continue
                ended.done.append(action)
                metrics.count_action(type(action).__name__)
                what = (type(action).__name__, service.key, action.name, self._fence.epoch)
                _log.info("action=%s service=%s name=%s epoch=%d reason=%s", *what, action.reason)
        return ended

    async def _carry_out(self, service: Service, action: planner.Action, memory: Memory) -> bool:
        """Carry out one action, and return whether it changed anything."""
        match action:
            case planner.ApplyControlSecret():
                token = tokens.control_token(self._master(), str(service.key))
                wrote = await self._api.apply_secret(control_secret(service, token))
                memory.has_secret = True
                return wrote
            case planner.ApplyBudget():
                await self._api.apply_budget(pdb(service))
                self._budgeted.add(service.uid)
            case disruption.ProtectPod() | disruption.ReleasePod():
                marks = live_marks(live=isinstance(action, disruption.ProtectPod))
                namespace = service.key.namespace
                answer = await self._api.mark_pod(namespace, action.name, action.uid, marks)
                self._observe(Kind.PODS, answer)
            case planner.CreatePod():
                pods, kept = self._settings, action.reserve
                body = runtime_pod(service, action.name, action.pool, pods, reserve=kept)
                set_annotation(body, names.ANNOTATION_EPOCH, str(self._fence.epoch))
                self._observe(Kind.PODS, await self._api.create_pod(body))
            case planner.AdoptPod():
                await self._adopt(service, action)
            case planner.PromotePod() | planner.ReservePod():
                role = reserve_role(reserve=isinstance(action, planner.ReservePod))
                namespace = service.key.namespace
                answer = await self._api.mark_pod(namespace, action.name, action.uid, role)
                self._observe(Kind.PODS, answer)
            case planner.DrainPod():
                await self._runtimes.drain(action.uid, draining=True)
            case planner.UndrainPod():
                await self._runtimes.drain(action.uid, draining=False)
            case planner.DeletePod():
                await self._delete(service.key.namespace, action)
            case _:
                assert_never(action)
        return True

    async def _adopt(self, service: Service, action: planner.AdoptPod) -> None:
        """Take a pod over; from then on it goes with this service, and not with its first one."""
        namespace = service.key.namespace
        secret = names.control_secret(action.origin)
        try:
            # It would go with the first service, and a container that starts anew reads it.
            held = held_by_pod(action.name, action.uid)
            await self._api.hold_secret(namespace, secret, held)
        except (NotFound, Refused) as error:
            _log.warning("secret not held pod=%s fault=%s", action.name, error)
        changes, version = adoption_patch(service, action.origin), action.resource_version
        answer = await self._api.mark_pod(namespace, action.name, action.uid, changes, version)
        self._observe(Kind.PODS, answer)

    async def take_leave(self, uid: str, pods: Sequence[RuntimePod]) -> None:
        """Delete the pods of a service that is gone; each waits for its own sessions."""
        actions = planner.delete_orphans(pods)
        if not actions:
            return
        key = ServiceKey(pods[0].namespace, pods[0].service)
        # Pods may be seen before their service: only the API server knows that it is gone.
        if await self._api.serves(key, uid):
            return
        for action in actions:
            try:
                await self._delete(key.namespace, action)
            except (Conflict, NotFound) as error:
                _log.info("outdated action pod=%s fault=%s", action.name, error)
            else:
                _log.info("action=DeletePod pod=%s reason=%s", action.name, action.reason)

    async def _delete(self, namespace: str, action: planner.DeletePod) -> None:
        version = action.resource_version
        answer = await self._api.delete_pod(namespace, action.name, action.uid, version)
        if answer.get("kind") == "Pod":
            self._observe(Kind.PODS, answer)  # so that the next plan knows it is going

    async def write_status(
        self,
        uid: str,
        key: ServiceKey,
        written: Mapping[str, object],
        wanted: Mapping[str, object],
        memory: Memory,
    ) -> None:
        """Write a status, if it says something else than the one that was written last."""
        if wanted == written:
            return
        try:
            answer = await self._api.apply_status(key, uid, dict(wanted))
        except NotFound as error:
            _log.info("service went service=%s fault=%s", key, error)
            return
        memory.written_at = asyncio.get_running_loop().time()
        self._observe(Kind.SERVICES, answer)

    async def tell(
        self,
        service: Service,
        notices: Sequence[service_status.Notice],
        memory: Memory,
        now: float,
    ) -> None:
        """Post Events, each sentence once; they are a courtesy, so a failure is only logged."""
        for notice in notices:
            says = hash((notice.reason, notice.message))
            if says in memory.told:
                continue
            if len(memory.told) >= _REMEMBERED_EVENTS:
                memory.told.clear()
            memory.told.add(says)
            at = rfc3339(now)
            body = event_body(service, notice.reason, notice.message, warning=notice.warning, at=at)
            try:
                await self._api.create_event(body)
            except ClusterError as error:
                _log.warning("event not posted service=%s fault=%s", service.key, error)


def too_soon_s(
    memory: Memory, old: Mapping[str, object], new: Mapping[str, object], now: float
) -> float | None:
    """Return how long a status that differs in numbers alone should wait, None if it should not.

    `now` is of the loop's clock, as are the times in the memory.
    """
    if old == new or service_status.is_urgent(old, new):
        return None
    wait_s = memory.written_at + STATUS_EVERY_S - now
    return wait_s if wait_s > 0 else None
