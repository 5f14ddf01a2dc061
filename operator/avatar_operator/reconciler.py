"""Brings one service after the other nearer to its spec: read, plan, apply, write the status.

Events only wake a service; what to do is read from what was seen, each time. A
status is written once a round, and only if it changed.
"""

import asyncio
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from avatar_operator import cluster, gateways, metrics, names, runtimes, streams
from avatar_operator.calibrating import Calibrator
from avatar_operator.core import (
    conditions,
    contracts,
    manifests,
    model,
    planning,
    protection,
    rollout,
    scaling,
    sizing,
    status,
)
from avatar_operator.core.agenda import Agenda
from avatar_operator.core.observations import Kind, News, Observations, ServiceBody
from avatar_operator.core.watches import Watches
from avatar_operator.errors import (
    AvatarOperatorError,
    ClusterError,
    Conflict,
    Contested,
    InvalidResource,
    NotFound,
    NotLeading,
    RuntimeUnreachable,
    TemporaryError,
)
from avatar_operator.fencing import Fence
from avatar_operator.settings import Settings
from avatar_operator.streams import Endpoint

WORKERS: Final = 16  # services in work at once: nearly all of their time they wait for answers
TICK_S: Final = 1.0  # the longest that nothing is looked at
STALLED_S: Final = 30.0  # a loop that did not turn for so long is not alive
GATHER_S: Final = 0.02  # news that comes together is answered together
NEWS_S: Final = 0.25  # news of nodes and foreign pods, which comes in swarms and concerns everyone
STATUS_EVERY_S: Final = 1.0  # numbers of sessions change faster than anyone reads them
RETRY_S: Final = 2.0
RELIST_S: Final = 1.0
SECOND_LOOK_S: Final = 5.0  # kopf lists at the start too; nobody tells of what went between the two
MASTER_S: Final = 0.25  # from one look for the master key to the next, until a leader has made it
SETTLE_S: Final = 2.0  # for which a new leader waits to hear of the sessions of every pod
CALM_S: Final = 1.0  # from the first plan of a new leader to the first one that may take away

_COUNTS: Final = frozenset({"sessions", "capacity", "freeSessions"})

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Memory:
    """What is remembered of a service, since it could not be observed."""

    written_at: float = float("-inf")  # the status; of the loop's clock
    has_secret: bool = False  # looked at since the last resync
    term: int = 0  # the one of leading in which it was planned last
    calm_until: float = float("-inf")  # nothing is taken away before; of the loop's clock
    history: scaling.History | None = None  # of its scaling
    contested: dict[str, str] = field(default_factory=dict)  # action: who keeps our field
    told: set[tuple[names.Reason, str]] = field(default_factory=set)  # Events


@dataclass(slots=True)
class _Round:
    """What became of the actions of one plan."""

    done: list[planning.Action] = field(default_factory=list)
    faults: list[AvatarOperatorError] = field(default_factory=list)
    outdated: list[ClusterError] = field(default_factory=list)  # what was seen is not what is


class Reconciler:
    """The owner of everything that was seen, and of the loop that acts on it."""

    def __init__(self, api: cluster.Cluster, settings: Settings, fence: Fence) -> None:
        self._api = api
        self._fence = fence
        self._settings = settings
        self._rules = planning.Rules(settings.pods.image, settings.memory_share, settings.rollout)
        self._seen = Observations(settings.watch_namespaces, settings.namespace)
        self._runtimes = runtimes.Runtimes(self._state_changed, fence)
        self._gateways = gateways.Gateways(self._demand_changed)
        self._silent: frozenset[str] = frozenset()  # UIDs of pods and gateways not heard of
        states = self._runtimes.states
        self._calibrator = Calibrator(api, self._seen, states, fence.is_open, self.observe)
        self._memories: dict[str, _Memory] = {}
        self._short: set[str] = set()  # UIDs of services that no GPU was found for
        self._relisted: set[Kind] = set()
        self._relisting = asyncio.Event()
        self._budgeted: set[str] = set()  # UIDs of services whose budget was seen as it should be
        self._agenda: Agenda[str] = Agenda()
        self._awake = asyncio.Event()
        self._master = ""
        self._synced = False
        self._turned_at = asyncio.get_running_loop().time()
        self._watches = Watches(self._turned_at)
        self._term = 0  # counts the times that this process began to lead
        self._elected_at = self._turned_at

    def lead(self, epoch: int | None) -> None:
        """Take in that this process leads from now on, or (None) does no more."""
        if epoch is None:
            metrics.forget_services()  # whoever leads tells them now
            return
        self._term += 1
        self._elected_at = asyncio.get_running_loop().time()
        self._wake_all()
        self._calibrator.wake()
        self._awake.set()

    def hear(self, kind: Kind) -> None:
        """Take in that the watch of a kind said something."""
        self._watches.hear(kind, asyncio.get_running_loop().time())

    def observe(self, kind: Kind, body: Mapping[str, object]) -> None:
        """Take in an object that was added or changed."""
        self._take_in(self._seen.observe(kind, body))
        if kind is Kind.PROFILES:
            self._calibrator.wake()

    def forget(self, kind: Kind, uid: str) -> None:
        """Take in that an object was deleted."""
        self._take_in(self._seen.forget(kind, uid))
        if kind is Kind.SERVICES:
            self._memories.pop(uid, None)
            self._short.discard(uid)
            self._agenda.forget(uid)
            self._budgeted.discard(uid)
            self._wake(uid, GATHER_S)  # its pods are left

    def relist(self, kind: Kind) -> None:
        """Take in that a watch began anew: what was deleted before is never told of."""
        if self._synced:  # else everything is listed anyway
            self._relisted.add(kind)
            self._relisting.set()

    def is_ready(self) -> bool:
        """Return whether everything was listed once, so that plans can be trusted."""
        return self._synced

    def is_alive(self) -> bool:
        """Return whether the central loop still turns, and news still reaches it."""
        turns = asyncio.get_running_loop().time() - self._turned_at < STALLED_S
        return turns and not self._watches.frozen()

    @property
    def master(self) -> str:
        """The key that all tokens derive from, "" until it was read."""
        return self._master

    async def run(self) -> None:
        """List everything, then reconcile until cancelled."""
        try:
            self._master = await self._read_master()
            for uid in self._seen.pods.uids():
                self._follow(uid)  # those that were seen before their tokens were known
            for uid in self._seen.gateways.uids():
                self._follow_gateway(uid)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._resync_forever(), name="resync")
                tasks.create_task(self._relist_forever(), name="relist")
                tasks.create_task(self._tick_forever(), name="tick")
                tasks.create_task(self._calibrator.run(), name="calibrations")
                for number in range(WORKERS):
                    tasks.create_task(self._work_forever(), name=f"worker {number}")
        finally:
            await self._runtimes.close()
            await self._gateways.close()

    def _take_in(self, news: News) -> None:
        if news.fault:
            _log.warning("not used: %s", news.fault)
        if news.pod is not None:
            self._follow(news.pod)
        if news.gateway is not None:
            self._follow_gateway(news.gateway)
        if news.gone is not None:
            metrics.forget_service(news.gone)
        if news.renewed is not None:
            self._agenda.pardon(news.renewed)
        for uid in news.services:
            self._wake(uid, GATHER_S)
        if news.everyone:
            self._wake_all()
            self._calibrator.wake()
        elif news.freed:
            for uid in self._short:
                self._wake(uid, NEWS_S)

    def _follow(self, uid: str) -> None:
        """Read the state of a pod as long as there is one to read."""
        pod = self._seen.pods.get(uid)
        if pod is None or not (pod.ip and pod.running and self._master):
            self._runtimes.unfollow(uid)
            self._calibrator.forget(uid)
            return
        key = model.ServiceKey(pod.namespace, pod.service)
        token = manifests.control_token(self._master, key)
        address = streams.admin_address(pod.ip)
        self._runtimes.follow(uid, Endpoint(pod.name, address, token, pod.ready))

    def _follow_gateway(self, uid: str) -> None:
        """Read what a gateway says of its callers."""
        pod = self._seen.gateways.get(uid)
        if pod is None or not (pod.ip and pod.running and self._master):
            self._gateways.unfollow(uid)
            return
        token = manifests.gateway_token(self._master)
        self._gateways.follow(uid, Endpoint(pod.name, streams.admin_address(pod.ip), token))

    def _demand_changed(self, key: model.ServiceKey) -> None:
        uid = self._seen.uid_of(key)
        if uid is not None:
            self._wake(uid, GATHER_S)

    def _note_silence(self) -> None:
        """Wake the services of pods that fell silent or speak again; a gateway concerns all."""
        before, self._silent = self._silent, self._runtimes.silent() | self._gateways.silent()
        for uid in before ^ self._silent:
            pod = self._seen.pods.get(uid)
            if pod is not None:
                self._wake(pod.owner_uid, GATHER_S)
            elif self._seen.gateways.get(uid) is not None:
                self._wake_all()

    def _state_changed(self, pod_uid: str) -> None:
        self._calibrator.hear(pod_uid)
        pod = self._seen.pods.get(pod_uid)
        if pod is not None:
            self._wake(pod.owner_uid, GATHER_S)

    def _wake(self, uid: str, after_s: float) -> None:
        if self._seen.services.get(uid) is not None or self._orphans(uid):
            self._agenda.wake(uid, asyncio.get_running_loop().time() + after_s)
            self._awake.set()

    def _wake_all(self) -> None:
        for uid in self._seen.services.uids():
            self._wake(uid, NEWS_S)

    async def _read_master(self) -> str:
        while True:
            try:
                settings = self._settings
                return await self._api.master_key(settings.namespace, settings.control_secret)
            except NotLeading:
                await self._pause(MASTER_S)  # there is none yet, and the leader makes it
            except ClusterError as error:
                _log.warning("cannot read the control Secret fault=%s", error)
                await self._pause(RETRY_S)

    async def _pause(self, seconds: float) -> None:
        self._turned_at = asyncio.get_running_loop().time()
        await asyncio.sleep(seconds)

    async def _resync_forever(self) -> None:
        pause_s = min(SECOND_LOOK_S, self._settings.resync_s)
        while True:
            try:
                for kind in Kind:
                    await self._resync(kind)
                await self._resync_budgets()
            except ClusterError as error:
                # The CRDs may not be there yet, or the API server is gone: nothing is forgotten.
                _log.warning("cannot list fault=%s", error)
                await asyncio.sleep(RETRY_S)
                continue
            if not self._synced:
                _log.info("everything is listed services=%d", len(self._seen.services.uids()))
                self._synced = True
            for memory in self._memories.values():
                memory.has_secret = False  # someone may have changed them: look again, once
                memory.contested.clear()
            self._wake_all()
            await asyncio.sleep(pause_s)
            pause_s = self._settings.resync_s

    async def _relist_forever(self) -> None:
        """Find what was deleted while a watch was down, once for each time that it was."""
        while True:
            await self._relisting.wait()
            await asyncio.sleep(RELIST_S)  # the watch tells of one object after the other
            self._relisting.clear()
            for kind in tuple(self._relisted):
                self._relisted.discard(kind)
                try:
                    await self._resync(kind)
                except ClusterError as error:
                    _log.warning("cannot list kind=%s fault=%s", kind.value, error)
                    self.relist(kind)

    async def _resync(self, kind: Kind) -> None:
        """Take in a whole listing; what was known before and is not in it is gone."""
        known = self._seen.known(kind)
        listed: set[str] = set()
        changes = 0
        async for body in self._api.list(cluster.PATHS[kind.value]):
            metadata = body["metadata"]
            assert isinstance(metadata, dict)
            listed.add(metadata["uid"])
            news = self._seen.observe(kind, body)
            changes += news != News()
            self._take_in(news)
        for uid in known - listed:
            self.forget(kind, uid)
        changes += len(known - listed)
        if changes and self._synced:
            _log.info("a listing found what was not told kind=%s changes=%d", kind.value, changes)
        self._watches.list(kind, changes, asyncio.get_running_loop().time())

    async def _resync_budgets(self) -> None:
        """Find the budgets that are there and right; the others are applied again."""
        selector = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"
        path = cluster.PATHS["poddisruptionbudgets"]
        found = [manifests.budgeted(body) async for body in self._api.list(path, selector)]
        self._budgeted = {uid for uid in found if uid is not None}

    async def _tick_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._note_silence()
            metrics.set_state_age(self._runtimes.oldest_s())
            for kind, age_s in self._watches.ages(loop.time()).items():
                metrics.set_watch_age(kind.value, age_s)
            await self._pause(TICK_S)
            metrics.set_loop_lag(loop.time() - self._turned_at - TICK_S)

    async def _work_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            acts = self._synced and self._fence.is_open()
            uid = self._agenda.take(loop.time()) if acts else None
            if uid is not None:
                await self._work(uid)
                self._awake.set()  # it may be due again, sooner than the others wait
                continue
            self._awake.clear()
            due_at = self._agenda.next_at() if acts else None
            wait_s = TICK_S if due_at is None else min(TICK_S, max(0.0, due_at - loop.time()))
            try:
                async with asyncio.timeout(wait_s):
                    await self._awake.wait()
            except TimeoutError:
                pass

    async def _work(self, uid: str) -> None:
        """Reconcile once; whatever goes wrong is tried again, less and less often."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            wake_after_s = await self._reconcile(uid)
        except NotLeading:
            self._agenda.finish(uid)
            self._wake(uid, 0.0)  # for the day that this process leads again
        except AvatarOperatorError as error:
            asked_s = error.delay_s if isinstance(error, TemporaryError) else None
            delay_s = self._agenda.fail(uid, loop.time(), random.random(), asked_s or 0.0)
            metrics.observe_reconcile(loop.time() - started, succeeded=False)
            _log.warning("reconcile failed uid=%s retry_s=%.1f fault=%s", uid, delay_s, error)
        except Exception:
            # A fault of ours in one service must not end the service of all others.
            self._agenda.fail(uid, loop.time(), random.random())
            metrics.observe_reconcile(loop.time() - started, succeeded=False)
            _log.exception("reconcile broke uid=%s", uid)
        else:
            self._agenda.finish(uid)
            metrics.observe_reconcile(loop.time() - started, succeeded=True)
            if wake_after_s is not None:
                self._wake(uid, wake_after_s)

    async def _reconcile(self, uid: str) -> float | None:
        """Go one round, and return when to look again if nothing is heard until then.

        Raises:
            AvatarOperatorError: an action or the status write failed; the rest was done.
        """
        seen = self._seen.services.get(uid)
        if seen is None or seen.deleting:
            await self._take_leave(uid)
            return None
        now = time.time()
        try:
            service = contracts.parse_service(seen.body)
        except InvalidResource as error:
            findings = conditions.invalid("; ".join(map(str, error.faults)))
            invalid = status.build_invalid(seen.generation, findings, seen.status, now)
            await self._write_status(uid, seen, invalid)
            return None
        memory = self._memories.setdefault(uid, _Memory())
        observed = self._observed(service, memory, seen.status)
        if memory.term != self._term:
            if not self._has_heard(observed):
                return NEWS_S  # a state that comes wakes it sooner
            memory.term = self._term
            memory.calm_until = asyncio.get_running_loop().time() + CALM_S
        plan = planning.plan(service, observed, self._rules, now)
        metrics.set_desired(service.key, plan.desired)
        lacks_gpus = plan.missing or status.is_short(plan)
        (self._short.add if lacks_gpus else self._short.discard)(uid)
        if plan.decision is not None:
            memory.history = plan.decision.history
        # What others knew when they led is not known here: at first nothing is taken away.
        calm_s = memory.calm_until - asyncio.get_running_loop().time()
        actions = tuple(each for each in plan.actions if calm_s <= 0 or not _removes(each))
        ended = await self._apply(service, actions, memory)
        faults = [str(fault) for fault in ended.faults if isinstance(fault, ClusterError)]
        contested = sorted(memory.contested.values())
        findings = conditions.find(service, plan, observed.states, faults, contested)
        wanted = status.build(service, plan, observed.states, findings, seen.status, now)
        wait_s = self._too_soon_s(memory, seen.status, wanted)
        if wait_s is None:
            await self._write_status(uid, seen, wanted)
            await self._tell(
                service, status.notices(ended.done, findings, seen.status, plan), memory, now
            )
            metrics.count_scaling(plan.desired, seen.status.get("desiredReplicas"))
        if ended.faults or ended.outdated:
            raise (*ended.faults, *ended.outdated)[0]  # looked at again, however little is heard
        held_s = calm_s if len(actions) < len(plan.actions) else None
        waits = [each for each in (wait_s, plan.wake_after_s, held_s) if each is not None]
        return min(waits, default=None)

    def _orphans(self, uid: str) -> tuple[model.RuntimePod, ...]:
        """Return the pods that a service owns or owned, in the namespaces that are ours."""
        ours = self._settings.watch_namespaces
        return tuple(
            pod
            for pod in self._seen.pods.values()
            if uid and pod.owner_uid == uid and (not ours or pod.namespace in ours)
        )

    async def _take_leave(self, uid: str) -> None:
        """Delete the pods of a service that is gone; each waits for its own sessions."""
        actions = planning.farewell(self._orphans(uid))
        if not actions:
            return
        pod = self._seen.pods.get(actions[0].uid)
        assert pod is not None
        # Pods may be seen before their service: only the API server knows that it is gone.
        if await self._api.serves(model.ServiceKey(pod.namespace, pod.service), uid):
            return
        for action in actions:
            try:
                await self._delete(pod.namespace, action)
            except (Conflict, NotFound) as error:
                _log.info("outdated action pod=%s fault=%s", action.name, error)
            else:
                _log.info("action=DeletePod pod=%s reason=%s", action.name, action.reason)

    async def _delete(self, namespace: str, action: planning.DeletePod) -> None:
        version = action.resource_version
        answer = await self._api.delete_pod(namespace, action.name, action.uid, version)
        if answer.get("kind") == "Pod":
            self.observe(Kind.PODS, answer)  # so that the next plan knows it is going

    def _observed(
        self, service: model.Service, memory: _Memory, written: Mapping[str, object]
    ) -> planning.Observed:
        pods = self._seen.pods_of(service.key)
        return planning.Observed(
            nodes=self._seen.nodes(),
            uses=self._seen.uses(),
            profiles=self._seen.profiles(),
            census=self._seen.census(),
            pods=pods,
            states=self._runtimes.states(pod.uid for pod in pods),
            has_control_secret=memory.has_secret or "ApplyControlSecret" in memory.contested,
            has_budget=service.uid in self._budgeted or "ApplyBudget" in memory.contested,
            halted=rollout.remembered(written, service.generation),
            scene=sizing.Scene(
                self._gateways.demand(service.key),
                memory.history if memory.term == self._term else None,  # others decided since
                asyncio.get_running_loop().time(),
            ),
        )

    def _has_heard(self, observed: planning.Observed) -> bool:
        """Return whether every pod has told of its sessions, or had time enough to do so."""
        if asyncio.get_running_loop().time() >= self._elected_at + SETTLE_S:
            return True
        fresh = {uid for uid, s in observed.states.items() if s.age_s < streams.SILENCE_S}
        return fresh.issuperset(pod.uid for pod in observed.pods if pod.running and pod.ip)

    async def _apply(
        self, service: model.Service, actions: Sequence[planning.Action], memory: _Memory
    ) -> _Round:
        """Carry out the actions in order; one that fails does not stop the others."""
        ended = _Round()
        for action in actions:
            try:
                acted = await self._carry_out(service, action, memory)
            except (Conflict, NotFound) as error:
                # News is on its way, or was lost; and a quota answers with a conflict, too.
                _log.info("outdated action service=%s fault=%s", service.key, error)
                ended.outdated.append(error)
                if isinstance(error, NotFound) and isinstance(action, planning.DeletePod):
                    self.forget(Kind.PODS, action.uid)
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

    async def _carry_out(
        self, service: model.Service, action: planning.Action, memory: _Memory
    ) -> bool:
        """Carry out one action, and return whether it changed anything."""
        match action:
            case planning.ApplyControlSecret():
                token = manifests.control_token(self._master, service.key)
                wrote = await self._api.apply_secret(manifests.control_secret(service, token))
                memory.has_secret = True
                return wrote
            case planning.ApplyBudget():
                await self._api.apply_budget(manifests.budget(service))
                self._budgeted.add(service.uid)
            case protection.ProtectPod() | protection.ReleasePod():
                marks = manifests.marks(live=isinstance(action, protection.ProtectPod))
                namespace = service.key.namespace
                answer = await self._api.mark_pod(namespace, action.name, action.uid, marks)
                self.observe(Kind.PODS, answer)
            case planning.CreatePod():
                body = manifests.pod(service, action.name, action.pool, self._settings.pods)
                manifests.annotate(body, names.ANNOTATION_EPOCH, str(self._fence.epoch))
                self.observe(Kind.PODS, await self._api.create_pod(body))
            case planning.DrainPod():
                await self._runtimes.drain(action.uid, draining=True)
            case planning.UndrainPod():
                await self._runtimes.drain(action.uid, draining=False)
            case planning.DeletePod():
                await self._delete(service.key.namespace, action)
            case _:
                assert_never(action)
        return True

    def _too_soon_s(
        self, memory: _Memory, old: Mapping[str, object], new: Mapping[str, object]
    ) -> float | None:
        """Return how long a status that differs in numbers of sessions alone should wait."""
        if any(old.get(key) != value for key, value in new.items() if key not in _COUNTS):
            return None
        wait_s = memory.written_at + STATUS_EVERY_S - asyncio.get_running_loop().time()
        differs = any(old.get(key) != new[key] for key in _COUNTS)
        return wait_s if differs and wait_s > 0 else None

    async def _write_status(
        self, uid: str, seen: ServiceBody, wanted: Mapping[str, object]
    ) -> None:
        if wanted == seen.status:
            return
        try:
            written = await self._api.apply_status(seen.key, uid, dict(wanted))
        except NotFound as error:
            _log.info("service went service=%s fault=%s", seen.key, error)
            return
        if uid in self._memories:
            self._memories[uid].written_at = asyncio.get_running_loop().time()
        self.observe(Kind.SERVICES, written)

    async def _tell(
        self,
        service: model.Service,
        notices: Sequence[status.Notice],
        memory: _Memory,
        now: float,
    ) -> None:
        """Post Events, each sentence once; they are a courtesy, so a failure is only logged."""
        for notice in notices:
            if (notice.reason, notice.message) in memory.told:
                continue
            if len(memory.told) >= _REMEMBERED_EVENTS:
                memory.told.clear()
            memory.told.add((notice.reason, notice.message))
            at = status.rfc3339(now)
            body = manifests.event(
                service, notice.reason, notice.message, warning=notice.warning, at=at
            )
            try:
                await self._api.create_event(body)
            except ClusterError as error:
                _log.warning("event not posted service=%s fault=%s", service.key, error)


def _removes(action: planning.Action) -> bool:
    return isinstance(action, planning.DrainPod | planning.DeletePod | protection.ReleasePod)


_REMEMBERED_EVENTS: Final = 256
