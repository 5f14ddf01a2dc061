"""Executes the plan of a service: the actions in order, then its status, then Events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

from avatar_contracts.owners import Owner, owner_of
from avatar_operator import names
from avatar_operator.controllers import events
from avatar_operator.controllers.service_state import ExecutionResult, ServiceState
from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.manifests import model_cache, ownership
from avatar_operator.core.manifests.claim_template import claim_template, template_name
from avatar_operator.core.manifests.image_check import image_check_pod
from avatar_operator.core.manifests.network_policy import network_policy
from avatar_operator.core.manifests.objects import (
    adoption_patch,
    control_secret,
    held_by_pod,
    identity_labels,
    live_marks,
    pdb,
    reserve_role,
)
from avatar_operator.core.manifests.pod import PodSettings, runtime_pod, set_annotation
from avatar_operator.core.planning import disruption, planner
from avatar_operator.core.resources.service import Service, ServiceKey
from avatar_operator.core.status import service_status
from avatar_operator.errors import (
    ClusterError,
    Conflict,
    FieldConflict,
    NotFound,
    Refused,
    RuntimeUnreachable,
)
from avatar_operator.kube.owned_objects import ObjectKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from avatar_operator.core.cache.pdb_index import PdbIndex
    from avatar_operator.core.keys import KeyRing
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.fence import Fence
    from avatar_operator.kube import client
    from avatar_operator.metrics import Metrics
    from avatar_operator.streams import runtimes

STATUS_EVERY_S: Final = 1.0  # between two writes of a status in which only numbers changed

_MAX_EMITTED: Final = 256

_log = logging.getLogger(__name__)


class Executor:
    """Writes everything that belongs to services."""

    def __init__(
        self,
        api: client.KubernetesClient,
        pods: runtimes.RuntimeStates,
        fence: Fence,
        settings: PodSettings,
        metrics: Metrics,
        pdbs: PdbIndex,
        *,
        observe: Callable[[Kind, Body], object],
        observe_deletion: Callable[[Kind, str], None],
        keys: Callable[[], KeyRing],
    ) -> None:
        """Responses of the API server go to `observe`, so that the next plan includes them."""
        self._api = api
        self._runtimes = pods
        self._fence = fence
        self._settings = settings
        self._metrics = metrics
        self._pdbs = pdbs
        self._observe = observe
        self._observe_deletion = observe_deletion
        self._keys = keys

    def has_pdb(self, uid: str) -> bool:
        """Return whether the PDB of a service is known to be correct."""
        return self._pdbs.protects(uid)

    async def execute(
        self, service: Service, actions: Sequence[planner.Action], state: ServiceState
    ) -> ExecutionResult:
        """Execute the actions in order; an action that fails does not stop the others."""
        result = ExecutionResult()
        for action in actions:
            kind = type(action).__name__
            try:
                changed = await self._execute(service, action, state)
            except (Conflict, NotFound) as error:
                # The watch event has not arrived or was lost; an exceeded quota is a conflict too.
                _log.info("object changed, action skipped service=%s fault=%s", service.key, error)
                result.outdated.append(error)
                if isinstance(error, NotFound) and isinstance(action, planner.DeletePod):
                    self._observe_deletion(Kind.PODS, action.uid)
            except FieldConflict as error:
                _log.warning("field conflict service=%s fault=%s", service.key, error)
                state.field_conflicts[kind] = error.message
            except (ClusterError, RuntimeUnreachable) as error:
                result.faults.append(error)
            else:
                if not changed:
                    continue
                result.done.append(action)
                self._metrics.count_action(kind)
                values = (kind, service.key, action.name, self._fence.epoch, action.reason)
                _log.info("action=%s service=%s name=%s epoch=%d reason=%s", *values)
        return result

    async def _execute(self, service: Service, action: planner.Action, state: ServiceState) -> bool:
        """Execute one action, and return whether it changed anything."""
        namespace = service.key.namespace
        match action:
            case planner.ApplyControlSecret():
                return await self._write_secret(service, state)
            case planner.ApplyBudget():
                return await self._write_pdb(service, state)
            case planner.ApplyNetworkPolicy():
                return await self._write_network_policy(service, state)
            case disruption.ProtectPod() | disruption.ReleasePod():
                marks = live_marks(live=isinstance(action, disruption.ProtectPod))
                await self._patch_pod(namespace, action.name, action.uid, marks)
            case planner.CreatePod():
                return await self._create_pod(service, action, state)
            case planner.RestoreLabels():
                return await self._restore_labels(service, action, state)
            case planner.CreateImageCheck():
                body = image_check_pod(
                    service, action.name, action.pool, action.node, self._settings
                )
                self._observe(Kind.PODS, await self._post_pod(service, action.name, body, state))
            case planner.DeleteImageCheck():
                version = action.resource_version
                await self._api.delete_pod(namespace, action.name, action.uid, version)
            case planner.AdoptPod():
                await self._adopt(service, action)
            case planner.PromotePod() | planner.ReservePod():
                role = reserve_role(reserve=isinstance(action, planner.ReservePod))
                await self._patch_pod(namespace, action.name, action.uid, role)
            case planner.DrainPod():
                await self._runtimes.drain(action.uid, draining=True)
            case planner.UndrainPod():
                await self._runtimes.drain(action.uid, draining=False)
            case planner.DeletePod():
                await self._delete(namespace, action)
            case _:
                assert_never(action)
        return True

    async def _write_secret(self, service: Service, state: ServiceState) -> bool:
        """Write the control Secret of a service if it differs; return whether it was written."""
        wanted = ownership.candidates(names.control_secret(service.key.name), service.uid)
        state.control_secret = ""  # no pod is created before it is known which name is ours
        keys = self._keys()
        body = control_secret(service, keys, wanted[0])
        secrets, owner = self._api.secrets, _owner(service)
        written = await secrets.write(body, wanted, owner, is_new=state.is_new)
        state.control_secret = written.name
        state.names_taken["Secret"] = written.taken
        state.has_secret = keys == self._keys()  # they may have changed meanwhile
        state.secret_checked_at = asyncio.get_running_loop().time()
        return written.changed

    async def _write_pdb(self, service: Service, state: ServiceState) -> bool:
        """Write the PDB of a service if it differs; return whether it was written."""
        render = partial(pdb, service)
        name = names.pdb(service.key.name)
        stored, wrote = await self._write_owned(ObjectKind.PDB, name, render, service, state)
        self._pdbs.put(ownership.identity(stored)["uid"], service.uid)
        return wrote

    async def _write_network_policy(self, service: Service, state: ServiceState) -> bool:
        """Write the NetworkPolicy of a service if it differs; return whether it was written."""
        rules = self._settings.network_rules
        assert rules is not None, "the planner asks for a policy only if there are rules"
        rules = model_cache.rules_with_egress(rules, service, self._settings.cache)
        kind, render = ObjectKind.NETWORK_POLICY, partial(network_policy, service, rules)
        name = names.network_policy(service.key.name)
        _, wrote = await self._write_owned(kind, name, render, service, state)
        state.has_network_policy = True
        state.policy_has_downloads = bool(model_cache.sources(service))
        return wrote

    async def _write_owned(
        self,
        kind: ObjectKind,
        name: str,
        render: Callable[[str], Body],
        service: Service,
        state: ServiceState,
    ) -> tuple[Body, bool]:
        """Write an object under the first name that the service may use for it.

        Returns the object as stored, and whether it was written.
        """
        namespace, wanted = service.key.namespace, ownership.candidates(name, service.uid)
        if state.is_new:
            with contextlib.suppress(Conflict):  # an object with this name exists
                created = await self._api.owned.write(kind, render(wanted[0]), None)
                state.names_taken[kind.kind] = ()
                return created or {}, True
        choice = await self._api.owned.find(kind, namespace, wanted, _owner(service))
        state.names_taken[kind.kind] = choice.taken
        wrote = await self._api.owned.write(kind, render(choice.name), choice.stored)
        return wrote or choice.stored or {}, wrote is not None

    async def _create_pod(
        self, service: Service, action: planner.CreatePod, state: ServiceState
    ) -> bool:
        """Create a runtime pod; return whether it was possible."""
        if not state.control_secret:
            return False  # the write of the Secret failed, and is retried
        stock, template = action.pool.stock, ""
        if stock.devices:
            name, render = (
                template_name(service.key.name, stock),
                partial(claim_template, service, stock),
            )
            kind = ObjectKind.CLAIM_TEMPLATE
            stored, _ = await self._write_owned(kind, name, render, service, state)
            template = ownership.name_of(stored)
        body = runtime_pod(
            *(service, action.name, action.pool, self._settings, state.control_secret),
            reserve=action.reserve,
            generation=self._keys().generation,
            template_of_claim=template,
        )
        set_annotation(body, names.ANNOTATION_EPOCH, str(self._fence.epoch))
        self._observe(Kind.PODS, await self._post_pod(service, action.name, body, state))
        return True

    async def _post_pod(self, service: Service, name: str, body: Body, state: ServiceState) -> Body:
        """Create a pod; a name that a pod of others has is not used again until the next resync.

        Raises:
            Conflict: a pod with this name exists.
        """
        try:
            return await self._api.create_pod(body)
        except Conflict:
            found = await self._api.find_pod(service.key.namespace, name)
            if found is not None:
                self._observe(Kind.PODS, found)  # its event was lost or has not arrived
                owner = owner_of(found)
                if owner is None or owner.name != service.key.name:
                    state.pods_taken.add(name)
            raise

    async def _restore_labels(
        self, service: Service, action: planner.RestoreLabels, state: ServiceState
    ) -> bool:
        """Restore labels that were changed by hand, once per pod until the next resync."""
        if action.uid in state.relabelled:
            return False  # someone changes them each time: two writers must not continue forever
        state.relabelled.add(action.uid)
        labels = identity_labels(service, action.origin, action.gpu_class)
        namespace, version = service.key.namespace, action.resource_version
        await self._patch_pod(namespace, action.name, action.uid, labels, version)
        return True

    async def _adopt(self, service: Service, action: planner.AdoptPod) -> None:
        """Make this service the owner of a pod that another service created."""
        namespace = service.key.namespace
        try:
            # The Secret must outlive the first service: a restarted container reads it again.
            owner = held_by_pod(action.name, action.uid)
            secret = (namespace, action.control_secret, action.owner_uid)
            await self._api.secrets.add_owner(*secret, owner)
        except (NotFound, Refused) as error:
            _log.warning("cannot add an owner to a Secret pod=%s fault=%s", action.name, error)
        patch = adoption_patch(service, action.origin)
        await self._patch_pod(namespace, action.name, action.uid, patch, action.resource_version)

    async def _patch_pod(
        self, namespace: str, name: str, uid: str, metadata: Body, version: str | None = None
    ) -> None:
        response = await self._api.patch_pod_metadata(namespace, name, uid, metadata, version)
        self._observe(Kind.PODS, response)

    async def finalize(self, uid: str, pods: Sequence[RuntimePod]) -> bool:
        """Delete the pods of a deleted service; each pod drains its sessions first.

        Returns whether a pod has changed meanwhile, so that its deletion must be tried again.
        """
        actions = planner.delete_orphans(pods)
        if not actions:
            return False
        key = ServiceKey(pods[0].namespace, pods[0].service)
        # A pod may be observed before its service: only the API server knows whether it exists.
        if await self._api.service_exists(key, uid):
            return False
        changed = False
        for action in actions:
            try:
                await self._delete(key.namespace, action)
            except (Conflict, NotFound) as error:
                _log.info("object changed, action skipped pod=%s fault=%s", action.name, error)
                changed = True
            else:
                _log.info("action=DeletePod pod=%s reason=%s", action.name, action.reason)
        return changed

    async def _delete(self, namespace: str, action: planner.DeletePod) -> None:
        version = action.resource_version
        response = await self._api.delete_pod(namespace, action.name, action.uid, version)
        if response.get("kind") == "Pod":
            self._observe(Kind.PODS, response)  # so that the next plan sees the deletion

    async def claim(
        self, uid: str, key: ServiceKey, version: int, status: Mapping[str, object]
    ) -> None:
        """Write the status with which this operator claims a service.

        Raises:
            Conflict: the service has changed; another operator may have claimed it.
        """
        self._observe(Kind.SERVICES, await self._api.apply_status(key, uid, version, dict(status)))

    async def write_status(
        self,
        uid: str,
        key: ServiceKey,
        version: int,
        last_status: Mapping[str, object],
        status: Mapping[str, object],
        state: ServiceState,
    ) -> None:
        """Write a status if it differs from the last one, which the service has in a version.

        Raises:
            Conflict: the service has changed; another operator may manage it now.
        """
        if status == last_status:
            return
        try:
            response = await self._api.apply_status(key, uid, version, dict(status))
        except NotFound as error:
            _log.info("service was deleted service=%s fault=%s", key, error)
            return
        state.written_at = asyncio.get_running_loop().time()
        self._observe(Kind.SERVICES, response)

    async def emit_events(
        self,
        service: Service,
        notices: Sequence[service_status.Notice],
        state: ServiceState,
        now: float,
    ) -> None:
        """Create Events, each message once; a failure is only logged."""
        fresh = []
        for notice in notices:
            content = hash((notice.reason, notice.message))
            if content in state.emitted:
                continue
            if len(state.emitted) >= _MAX_EMITTED:
                state.emitted.clear()
            state.emitted.add(content)
            fresh.append(notice)
        await events.emit(self._api, service, fresh, now)


def _owner(service: Service) -> Owner:
    return Owner(service.key.name, service.uid)


def status_delay_s(
    state: ServiceState, last_status: Mapping[str, object], status: Mapping[str, object], now: float
) -> float | None:
    """Return how long to hold back a status in which only numbers changed, None to write it now.

    `now` is of the loop's clock, like `state.written_at`.
    """
    if last_status == status or service_status.is_urgent(last_status, status):
        return None
    wait_s = state.written_at + STATUS_EVERY_S - now
    return wait_s if wait_s > 0 else None
