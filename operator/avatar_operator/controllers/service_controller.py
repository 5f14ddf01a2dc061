"""Brings one service after the other nearer to its spec: read, plan, apply, write the status.

Events only wake a service; what to do is read from what was seen, each time. A
status is written once a round, and only if it changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from avatar_contracts import tokens
from avatar_operator import metrics
from avatar_operator.controllers import executor, worker
from avatar_operator.controllers.decision_log import DecisionLog
from avatar_operator.controllers.executor import Memory
from avatar_operator.controllers.profile_controller import Calibrator
from avatar_operator.core.autoscaling import inputs
from avatar_operator.core.cache.store import Kind, News, Observations
from avatar_operator.core.planning import disruption, planner, rollout, shared_reserve
from avatar_operator.core.resources.service import Service, ServiceKey, parse_service
from avatar_operator.core.status import conditions, service_status
from avatar_operator.errors import (
    ClusterError,
    InvalidResource,
    NotLeading,
)
from avatar_operator.kube import client, informers
from avatar_operator.streams import gateways, runtimes
from avatar_operator.streams.client import SILENCE_S, Endpoint, admin_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.fence import Fence
    from avatar_operator.settings import Settings

TICK_S: Final = 1.0  # from one look at silent sources and at metrics to the next
STALLED_S: Final = 30.0  # a loop that did not turn for so long is not alive
GATHER_S: Final = 0.02  # news that comes together is answered together
PODS_S: Final = 0.15  # news of a service's pods: each goes through several steps, many at a time
NEWS_S: Final = 0.25  # news of nodes and foreign pods, which comes in swarms and concerns everyone
BUDGET_S: Final = 1.0  # before a budget is put back: whoever fights for it does so once a second
SPREAD_S: Final = 0.005  # between services that look again only in case: 200 a second
RETRY_S: Final = 2.0
MASTER_S: Final = 0.25  # from one look for the master key to the next, until a leader has made it
SETTLE_S: Final = 2.0  # for which a new leader waits to hear of the sessions of every pod
CALM_S: Final = 1.0  # from the first plan of a new leader to the first one that may take away

_log = logging.getLogger(__name__)


class Reconciler:
    """The owner of everything that was seen, and of the loop that acts on it."""

    def __init__(self, api: client.Cluster, settings: Settings, fence: Fence) -> None:
        self._api = api
        self._fence = fence
        self._settings = settings
        self._options = planner.Options(
            settings.pods.image, settings.memory_share, settings.rollout
        )
        self._seen = Observations(settings.watch_namespaces, settings.namespace)
        self._runtimes = runtimes.Runtimes(self._state_changed, fence)
        self._gateways = gateways.Gateways(self._demand_changed)
        self._silent: frozenset[str] = frozenset()  # UIDs of pods and gateways not heard of
        states = self._runtimes.states
        self._calibrator = Calibrator(api, self._seen, states, fence.is_open, self.observe)
        self._watching = informers.Watching(
            api,
            self._seen,
            settings.resync_s,
            observe=self._observe,
            forget=self.forget,
            budget=self._budget_changed,
            budgets=lambda uids: self._executor.set_budgeted(uids),
            looked=self._looked_again,
        )
        self._executor = executor.Executor(
            api,
            self._runtimes,
            fence,
            settings.pods,
            observe=self.observe,
            forget=self.forget,
            master=lambda: self._master,
        )
        self._memories: dict[str, Memory] = {}
        self._decisions = DecisionLog(settings.decision_log)
        self._short: set[str] = set()  # UIDs of services that no GPU was found for
        self._worker = worker.Worker(self._reconcile, self._may_work)
        self._master = ""
        self._turned_at = asyncio.get_running_loop().time()
        self._epoch: int | None = None  # under which this process led last
        self._term = 0  # counts the times that it began to lead and others may have led before
        self._elected_at = self._turned_at

    def lead(self, epoch: int | None) -> None:
        """Take in that this process leads from now on, or (None) does no more."""
        if epoch is None:
            metrics.forget_services()  # whoever leads tells them now
            return
        if epoch == self._epoch:
            self._wake_all()  # nobody led meanwhile: the metrics are to be told again, that is all
        else:
            self._epoch = epoch
            self._term += 1
            self._elected_at = asyncio.get_running_loop().time()
            for uid in self._seen.services.uids():
                self._wake(uid, NEWS_S)  # nobody has looked at them since the last leader went
        self._calibrator.wake()
        self._worker.look()

    def hear(self, kind: Kind) -> None:
        """Take in that kopf's watch of a kind said something."""
        self._watching.hear(kind)

    def relist(self, kind: Kind) -> None:
        """Take in that kopf's watch of a kind began anew."""
        self._watching.relist(kind)

    def observe(self, kind: Kind, body: Mapping[str, object]) -> None:
        """Take in an object that was added or changed."""
        self._observe(kind, body)

    def _observe(self, kind: Kind, body: Mapping[str, object]) -> News:
        news = self._seen.observe(kind, body)
        self._take_in(news)
        if kind is Kind.PROFILES:
            self._calibrator.wake()
        return news

    def forget(self, kind: Kind, uid: str) -> None:
        """Take in that an object was deleted."""
        self._take_in(self._seen.forget(kind, uid))
        if kind is Kind.SERVICES:
            self._memories.pop(uid, None)
            self._short.discard(uid)
            self._worker.forget(uid)
            self._executor.forget(uid)
            self._wake(uid, GATHER_S)  # its pods are left

    def is_ready(self) -> bool:
        """Return whether everything was listed once, so that plans can be trusted."""
        return self._watching.synced

    def is_alive(self) -> bool:
        """Return whether the central loop still turns, and news still reaches it."""
        turns = asyncio.get_running_loop().time() - self._turned_at < STALLED_S
        return turns and not self._watching.frozen()

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
                tasks.create_task(self._watching.run(), name="watching")
                tasks.create_task(self._tick_forever(), name="tick")
                tasks.create_task(self._calibrator.run(), name="calibrations")
                tasks.create_task(self._decisions.run(), name="decisions")
                tasks.create_task(self._worker.run(), name="work")
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
            self._worker.pardon(news.renewed)
        for uid in news.services:
            self._wake(uid, GATHER_S if news.pod is None else PODS_S)
        if news.everyone or news.freed:
            for uid in self._short:
                self._wake(uid, NEWS_S)
        if news.node and self._watching.synced:
            for pod in self._seen.pods.values():
                if pod.node == news.node:
                    self._wake(pod.owner_uid, NEWS_S)
        if news.everyone:
            self._wake_all()
            self._calibrator.wake()

    def _follow(self, uid: str) -> None:
        """Read the state of a pod as long as there is one to read."""
        pod = self._seen.pods.get(uid)
        if pod is None or not (pod.ip and pod.running and self._master):
            self._runtimes.unfollow(uid)
            self._calibrator.forget(uid)
            return
        token = tokens.control_token(self._master, str(pod.origin))
        address = admin_address(pod.ip)
        self._runtimes.follow(uid, Endpoint(pod.name, address, token, pod.ready))

    def _follow_gateway(self, uid: str) -> None:
        """Read what a gateway says of its callers."""
        pod = self._seen.gateways.get(uid)
        if pod is None or not (pod.ip and pod.running and self._master):
            self._gateways.unfollow(uid)
            return
        token = tokens.gateway_token(self._master)
        self._gateways.follow(uid, Endpoint(pod.name, admin_address(pod.ip), token))

    def _demand_changed(self, key: ServiceKey) -> None:
        uid = self._seen.uid_of(key)
        if uid is not None:
            self._wake(uid, GATHER_S)

    def _budget_changed(self, key: ServiceKey, protects: str | None) -> None:
        """Take in which service a budget protects as it should; a wrong one is put back."""
        uid = self._seen.uid_of(key)
        if uid is None:
            return
        was_right, is_right = self._executor.is_budgeted(uid), protects == uid
        self._executor.note_budget(uid, right=is_right)
        if was_right and not is_right:
            self._wake(uid, BUDGET_S)

    def _note_silence(self) -> None:
        """Wake the services of pods that fell silent or speak again; a gateway concerns all."""
        before, self._silent = self._silent, self._runtimes.silent() | self._gateways.silent()
        for uid in before ^ self._silent:
            pod = self._seen.pods.get(uid)
            if pod is not None:
                self._wake_for(pod)
            elif self._seen.gateways.get(uid) is not None:
                self._wake_all()

    def _state_changed(self, pod_uid: str) -> None:
        self._calibrator.hear(pod_uid)
        pod = self._seen.pods.get(pod_uid)
        if pod is not None:
            self._wake_for(pod)

    def _wake_for(self, pod: RuntimePod) -> None:
        """Wake a pod's service, and those that lack GPUs and may take it over."""
        self._wake(pod.owner_uid, GATHER_S)
        if pod.reserve:
            for uid in self._seen.reserve_groups.claimants(pod.owner_uid, pod.namespace):
                if uid in self._short:
                    self._wake(uid, GATHER_S)

    def _wake(self, uid: str, after_s: float) -> None:
        if self._seen.services.get(uid) is not None or self._seen.owned_by(uid):
            self._worker.wake(uid, after_s)

    def _wake_all(self) -> None:
        """Let every service look again, one after the other: one that changes waits for none."""
        uids = self._seen.services.uids()
        step_s = min(SPREAD_S, self._settings.resync_s / 2 / max(1, len(uids)))
        for number, uid in enumerate(uids):
            self._wake(uid, NEWS_S + number * step_s)

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

    def _looked_again(self) -> None:
        """Take in that everything was looked at: what others may have changed is checked once."""
        for memory in self._memories.values():
            memory.has_secret = False
            memory.contested.clear()
        self._wake_all()

    async def _tick_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._note_silence()
            metrics.set_state_age(self._runtimes.oldest_s())
            self._watching.tell()
            await self._pause(TICK_S)
            metrics.set_loop_lag(loop.time() - self._turned_at - TICK_S)

    def _may_work(self) -> bool:
        return self._watching.synced and self._fence.is_open()

    async def _reconcile(self, uid: str) -> float | None:
        """Go one round, and return when to look again if nothing is heard until then.

        Raises:
            AvatarOperatorError: an action or the status write failed; the rest was done.
        """
        seen = self._seen.services.get(uid)
        if seen is None or seen.deleting:
            await self._executor.take_leave(uid, self._orphans(uid))
            return None
        now, written = time.time(), seen.status
        memory = self._memories.setdefault(uid, Memory())
        try:
            service = parse_service(seen.body)
        except InvalidResource as error:
            findings = conditions.invalid("; ".join(map(str, error.faults)))
            invalid = service_status.build_invalid(seen.generation, findings, written, now)
            await self._executor.write_status(uid, seen.key, written, invalid, memory)
            return None
        observed = self._observed(service, memory, written, now)
        if memory.term != self._term:
            if not self._has_heard(observed):
                return NEWS_S  # a state that comes wakes it sooner
            memory.term = self._term
            memory.calm_until = asyncio.get_running_loop().time() + CALM_S
        plan = planner.plan(service, observed, self._options, now)
        metrics.set_desired(service.key, plan.desired)
        lacks_gpus = plan.missing or service_status.lacks_gpus(plan)
        (self._short.add if lacks_gpus else self._short.discard)(uid)
        if plan.scaling is not None:
            memory.history = plan.scaling.decision.history
            self._decisions.note(service.key, plan.scaling)
        # What others knew when they led is not known here: at first nothing is taken away.
        calm_s = memory.calm_until - asyncio.get_running_loop().time()
        actions = tuple(each for each in plan.actions if calm_s <= 0 or not _removes(each))
        ended = await self._executor.apply(service, actions, memory)
        faults = [str(fault) for fault in ended.faults if isinstance(fault, ClusterError)]
        contested = sorted(memory.contested.values())
        findings = conditions.find(service, plan, observed.states, faults, contested)
        wanted = service_status.build(service, plan, observed.states, findings, written, now)
        loop_now = asyncio.get_running_loop().time()
        wait_s = executor.too_soon_s(memory, written, wanted, loop_now)
        if wait_s is None:
            await self._executor.write_status(uid, seen.key, written, wanted, memory)
            notices = service_status.notices(ended.done, findings, written, plan)
            await self._executor.tell(service, notices, memory, now)
            metrics.count_scaling(plan.desired, written.get("desiredReplicas"))
        if ended.faults or ended.outdated:
            raise (*ended.faults, *ended.outdated)[0]  # looked at again, however little is heard
        held_s = calm_s if len(actions) < len(plan.actions) else None
        waits = [each for each in (wait_s, plan.wake_after_s, held_s) if each is not None]
        return min(waits, default=None)

    def _orphans(self, uid: str) -> tuple[RuntimePod, ...]:
        """Return the pods that a service owns or owned, in the namespaces that are ours."""
        ours = self._settings.watch_namespaces
        return tuple(pod for pod in self._seen.owned_by(uid) if not ours or pod.namespace in ours)

    def _observed(
        self, service: Service, memory: Memory, written: Mapping[str, object], now: float
    ) -> planner.Observed:
        pods = self._seen.pods_of(service.key)
        return planner.Observed(
            nodes=self._seen.nodes(),
            uses=self._seen.uses(),
            profiles=self._seen.profiles(),
            node_classes=self._seen.node_class_cache(),
            pods=pods,
            states=self._runtimes.states(pod.uid for pod in pods),
            has_control_secret=memory.has_secret or "ApplyControlSecret" in memory.contested,
            has_pdb=self._executor.is_budgeted(service.uid) or "ApplyBudget" in memory.contested,
            halted=rollout.read_halt(written, service.generation),
            shared=self._shared(service, now),
            names_elsewhere=self._seen.names_elsewhere(service.key),
            scaling_context=inputs.ScalingContext(
                self._gateways.demand(service.key),
                memory.history if memory.term == self._term else None,  # others decided since
                asyncio.get_running_loop().time(),
            ),
        )

    def _shared(self, service: Service, now: float) -> shared_reserve.SharedReserve | None:
        group = self._seen.reserve_groups.group(service.uid, service.key.namespace, now)
        if group is None or group.owner.uid == service.uid:
            return None if group is None else shared_reserve.SharedReserve(group)
        pods = tuple(pod for pod in self._seen.pods_of(group.owner.key) if pod.reserve)
        return shared_reserve.SharedReserve(
            group, pods, self._runtimes.states(pod.uid for pod in pods)
        )

    def _has_heard(self, observed: planner.Observed) -> bool:
        """Return whether every pod has told of its sessions, or had time enough to do so."""
        if asyncio.get_running_loop().time() >= self._elected_at + SETTLE_S:
            return True
        fresh = {uid for uid, s in observed.states.items() if s.age_s < SILENCE_S}
        return fresh.issuperset(pod.uid for pod in observed.pods if pod.running and pod.ip)


def _removes(action: planner.Action) -> bool:
    return isinstance(action, planner.DrainPod | planner.DeletePod | disruption.ReleasePod)
