"""Reconciles one avatar at a time: read the store, plan, execute, write the status."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, assert_never

from avatar_contracts.owners import Owner
from avatar_operator import names
from avatar_operator.controllers import events
from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.claims import Claim, read_claim
from avatar_operator.core.gpus import inventory
from avatar_operator.core.manifests import ownership, preparation
from avatar_operator.core.planning.avatars import gpu_choice, memory
from avatar_operator.core.planning.avatars.plan import (
    CreateJob,
    DeleteJob,
    Observed,
    Phase,
    Plan,
    SetFinalizer,
    plan,
    plan_deletion,
)
from avatar_operator.core.resources.avatar import Avatar, parse_avatar
from avatar_operator.core.resources.pod import PodUse
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.core.status import avatar_status
from avatar_operator.errors import ClusterError, InvalidResource, NotFound
from avatar_operator.kube.owned_objects import ObjectKind
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_operator.controllers.claims import Claims
    from avatar_operator.controllers.gpu_shares import GPUShares
    from avatar_operator.core.cache.entries import AvatarBody, ChangeImpact
    from avatar_operator.core.cache.store import Store
    from avatar_operator.core.planning.avatars.plan import Action
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.kube import client
    from avatar_operator.metrics import Metrics
    from avatar_operator.settings import Settings

RESERVED_S: Final = 10.0
"""How long a GPU is kept for a Job whose pod was not bound: then the pod may never exist."""

_PHASES: Final = (*(phase.value for phase in Phase), avatar_status.INVALID)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Start:
    """A Job that is being created."""

    job: ServiceKey
    gpu_class: str
    """`gpu_choice.CPU` for a Job without a GPU."""


class AvatarController:
    """Owns what is remembered of each avatar between two reconciles."""

    def __init__(
        self,
        api: client.KubernetesClient,
        store: Store,
        shares: GPUShares,
        claims: Claims,
        settings: Settings,
        metrics: Metrics,
        *,
        observe: Callable[[Kind, Body], object],
        on_change: Callable[[ChangeImpact], None],
    ) -> None:
        """Responses go to `observe`; `on_change` gets the impact of reservations that end."""
        self._api = api
        self._store = store
        self._index = store.avatar_index
        self._shares = shares
        self._claims = claims
        self._pods = settings.pods
        self._preparation = settings.preparation
        self._metrics = metrics
        self._observe = observe
        self._on_change = on_change
        self._phases: dict[str, str] = {}  # by UID
        self._starting: dict[str, _Start] = {}  # by UID

    def forget(self, uid: str) -> None:
        """Discard what is remembered of a deleted avatar."""
        if self._phases.pop(uid, None) is not None:
            self._count_phases()

    def begin_term(self) -> None:
        """Forget the phases: each avatar is reconciled again."""
        self._phases.clear()

    async def reconcile(self, uid: str) -> float | None:
        """Reconcile once; return the seconds until the next time, None to wait for a change.

        Raises:
            AvatarOperatorError: an action or the status write failed.
        """
        body = self._index.avatars.get(uid)
        if body is None:
            return None
        holder = read_claim(body.status)
        claim = await self._claims.check(holder)
        if claim is Claim.HELD:
            self.forget(uid)
            return self._claims.recheck_s(holder)
        if claim is Claim.FREE:
            # Only in the version that names nobody: of two operators, one succeeds.
            await self._write(uid, body, {**body.status})
            body = self._index.avatars.get(uid)
            if body is None:
                return None
        avatar = fault = None
        try:
            avatar = self._completed(parse_avatar(body.body))
        except InvalidResource as error:
            fault = "; ".join(map(str, error.faults))
        now = time.time()
        if body.deleting:
            return await self._execute(uid, body, avatar, self._plan_deletion(uid, body), now)
        if avatar is None:
            status = avatar_status.build_invalid(body.generation, fault or "", body.status, now)
            await self._write(uid, body, status)
            self._set_phase(uid, avatar_status.INVALID)
            return None
        found = plan(
            avatar,
            self._observed(uid, body),
            memory.read(body.status),
            lambda: self._choose(avatar, now),
            self._preparation.hosts,
            now,
        )
        # No await since the plan: no other plan saw this GPU and this place as free.
        self._reserve(uid, avatar, found)
        try:
            return await self._execute(uid, body, avatar, found, now)
        finally:
            if (start := self._starting.pop(uid, None)) is not None:  # no Job was created
                self._on_change(self._store.release_job(start.job))

    def _reserve(self, uid: str, avatar: Avatar, found: Plan) -> None:
        """Keep the GPU and the place of a Job that is about to be created."""
        for action in found.actions:
            if isinstance(action, CreateJob):
                stock = action.stock
                job = ServiceKey(avatar.key.namespace, action.name)
                self._starting[uid] = _Start(job, stock.gpu_class if stock else gpu_choice.CPU)
                if stock is not None:
                    use = PodUse.of("", stock.gpu_class, {stock.resource: 1})
                    self._store.reserve_for_job(job, use)

    def _plan_deletion(self, uid: str, body: AvatarBody) -> Plan:
        return plan_deletion(self._observed(uid, body), memory.read(body.status))

    def _completed(self, avatar: Avatar) -> Avatar:
        """Return an avatar with the defaults of the chart; those of resources are for services."""
        defaults = self._pods.defaults
        template = replace(
            defaults.completed_template(avatar.template), resources=avatar.template.resources
        )
        placement = defaults.completed_placement(avatar.placement)
        return replace(avatar, template=template, placement=placement)

    def _observed(self, uid: str, body: AvatarBody) -> Observed:
        jobs, every = self._index.jobs_of(uid), self._index.jobs()
        limit = self._preparation.per_class
        return Observed(
            jobs=jobs,
            services=self._index.services_naming(body.key),
            has_finalizer=names.FINALIZER in body.finalizers,
            namesakes=self._index.namesakes(body.key, uid),
            orphans=self._index.orphans(body.key),
            surplus=frozenset(j.uid for j in jobs if gpu_choice.is_surplus(j, every, limit)),
        )

    def _choose(self, avatar: Avatar, now: float) -> gpu_choice.Choice | gpu_choice.Wait:
        counted = inventory.count_free(
            self._store.nodes(),
            self._store.gpu_uses(now),
            self._store.profiles(),
            avatar.placement,
            self._store.node_class_cache(),
        )
        jobs, namespace = self._index.jobs(), avatar.key.namespace
        running = Counter(gpu_choice.count_running(jobs, now))
        running.update(start.gpu_class for start in self._starting.values())
        return gpu_choice.choose(
            avatar,
            gpu_choice.Situation(
                stocks=counted.stocks,
                profiles=self._store.profiles(),
                contested=self._shares.lacking_classes(),
                running=running,
                limit=self._preparation.per_class,
                without_node=gpu_choice.count_without_node(jobs, namespace, now),
            ),
        )

    async def _execute(
        self, uid: str, body: AvatarBody, avatar: Avatar | None, found: Plan, now: float
    ) -> float | None:
        """Execute the actions, and write the status, also if an action failed.

        Raises:
            ClusterError: an action or the status write failed.
        """
        done: list[Action] = []
        failed: ClusterError | None = None
        for action in found.actions:
            try:
                await self._act(uid, body, avatar, action)
            except NotFound as error:
                _log.info("object is gone, action skipped avatar=%s fault=%s", body.key, error)
                continue
            except ClusterError as error:
                failed = error
                break
            done.append(action)
            kind = type(action).__name__
            self._metrics.count_action(kind)
            _log.info("action=%s avatar=%s phase=%s", kind, body.key, found.phase.value)
        if failed is not None and isinstance(found.actions[len(done)], CreateJob):
            message = f"the API server refused the Job: {failed.message}"
            reason = Reason.JOB_REFUSED
            found = replace(found, phase=Phase.WAITING, reason=reason, message=message)
        if SetFinalizer(present=False) not in done:  # else the avatar is gone
            status = avatar_status.build(body.generation, found, body.status, now)
            await self._write(uid, body, status)
            self._set_phase(uid, found.phase.value)
        if avatar is not None:
            notices = avatar_status.notices(done, found, body.status)
            await events.emit(self._api, avatar, notices, now)
        if failed is not None:
            raise failed
        return found.wake_after_s

    async def _act(self, uid: str, body: AvatarBody, avatar: Avatar | None, action: Action) -> None:
        match action:
            case SetFinalizer(present=present):
                kept = [each for each in body.finalizers if each != names.FINALIZER]
                wanted = [*kept, names.FINALIZER] if present else kept
                version = self._index.avatars.version(uid) or 0
                response = await self._api.set_finalizers(body.key, uid, version, wanted)
                if present:  # the last removal deletes the avatar; its event says so
                    self._observe(Kind.AVATARS, response)
            case DeleteJob(name=name, uid=job_uid):
                await self._api.delete_job(body.key.namespace, name, job_uid)
            case CreateJob():
                assert avatar is not None, "only a valid spec is planned"
                await self._create(avatar, action)
            case _:
                assert_never(action)

    async def _create(self, avatar: Avatar, action: CreateJob) -> None:
        """Create a Job; its GPU stays reserved until its pod has a node."""
        await self._write_network_policy(avatar)
        body = preparation.job(
            avatar, action.name, action.attempt, action.stock, self._pods, self._preparation
        )
        created = await self._api.create_job(body)
        self._observe(Kind.JOBS, created)
        start = self._starting.pop(avatar.uid)
        asyncio.get_running_loop().call_later(RESERVED_S, self._release, start.job)

    def _release(self, job: ServiceKey) -> None:
        self._on_change(self._store.release_job(job))

    async def _write_network_policy(self, avatar: Avatar) -> None:
        """Write the NetworkPolicy of the pods, before the first of them exists."""
        egress = self._preparation.egress
        if egress is None:
            return
        kind, owner = (
            ObjectKind.NETWORK_POLICY,
            Owner(avatar.key.name, avatar.uid, names.AVATAR_KIND),
        )
        wanted = ownership.candidates(names.preparation_policy(avatar.key.name), avatar.uid)
        choice = await self._api.owned.find(kind, avatar.key.namespace, wanted, owner)
        rendered = preparation.network_policy(avatar, choice.name, egress)
        await self._api.owned.write(kind, rendered, choice.stored)

    async def _write(self, uid: str, body: AvatarBody, status: Mapping[str, object]) -> None:
        """Write a status that differs from the last one.

        Raises:
            Conflict: the avatar has changed; another operator may manage it now.
        """
        wanted = {**status, "operator": self._claims.own}
        if wanted == body.status:
            return
        version = self._index.avatars.version(uid) or 0
        try:
            response = await self._api.apply_avatar_status(body.key, uid, version, wanted)
        except NotFound as error:
            _log.info("avatar was deleted avatar=%s fault=%s", body.key, error)
            return
        self._observe(Kind.AVATARS, response)

    def _set_phase(self, uid: str, phase: str) -> None:
        if self._phases.get(uid) != phase:
            self._phases[uid] = phase
            self._count_phases()

    def _count_phases(self) -> None:
        counts = Counter(self._phases.values())
        self._metrics.set_avatars({phase: counts[phase] for phase in _PHASES})
