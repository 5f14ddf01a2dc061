"""Plans the next step of a service: which pods to create, adopt, drain and delete.

The algorithm has five stages. Each stage is a function of values and uses only the results of the
stages before it:

1. `take_stock` counts free GPUs, ranks the GPU classes with their batch sizes, and sorts the pods
   by their relation to the current spec. The later stages need these facts and nothing else of the
   cluster.
2. `decide_size` decides the number of pods: the fixed `spec.replicas`, or a scaling decision.
   It comes before placement, because the size does not depend on where new pods go.
3. `add_pods` decides how many pods are missing, and where they come from: first adopted from a
   shared reserve, whose pods have loaded the model already, then created on a GPU class. A rollout
   adds pods before it removes any; it may be halted here. Pods that failed to start delay others,
   and a spec that no pod has proven yet gets one pod first.
4. `remove_pods` decides which pods leave: pods that failed to start, surplus pods, and outdated
   pods for which a replacement is ready. It comes after stage 3, because an outdated pod must make
   room if no GPU was free.
   A pod leaves in three plans: it is drained, its sessions end, and it is deleted once it reports
   that it has none.
5. `order_actions` assigns the roles (serving or reserve), protects pods with sessions from
   eviction, and orders all actions: objects that pods need, then protection, then pods.

Nothing is remembered between two plans: the next step follows from what is observed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from avatar_operator.core.autoscaling import inputs
from avatar_operator.core.gpus import inventory
from avatar_operator.core.gpus.pools import Pool, rank
from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.planning import (
    attempts,
    failures,
    image_check,
    quotas,
    rollout,
    scale_down,
    scale_up,
    shared_reserve,
    warm_pool,
)
from avatar_operator.core.planning.actions import (
    Action,
    AdoptPod,
    ApplyBudget,
    ApplyControlSecret,
    ApplyNetworkPolicy,
    CreateImageCheck,
    CreatePod,
    DeleteImageCheck,
    DeletePod,
    DrainPod,
    PromotePod,
    ReservePod,
    RestoreLabels,
    UndrainPod,
)
from avatar_operator.core.planning.avatars import needs
from avatar_operator.core.planning.disruption import protect
from avatar_operator.core.planning.fleet import Fleet, restore_labels, sort_fleet
from avatar_operator.core.planning.plan import Observed, Options, Plan
from avatar_operator.core.planning.scale_down import FRESH_S, KEPT_FAILURES, delete_orphans
from avatar_operator.core.planning.sharing import fair_limits
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from avatar_operator.core.resources.node import Node
    from avatar_operator.core.resources.service import Service

__all__ = [  # the controllers import the actions from here
    "FRESH_S",
    "KEPT_FAILURES",
    "Action",
    "AdoptPod",
    "ApplyBudget",
    "ApplyControlSecret",
    "ApplyNetworkPolicy",
    "CreateImageCheck",
    "CreatePod",
    "DeleteImageCheck",
    "DeletePod",
    "DrainPod",
    "Fleet",
    "Observed",
    "Options",
    "Plan",
    "PromotePod",
    "ReservePod",
    "RestoreLabels",
    "UndrainPod",
    "delete_orphans",
    "plan",
]

ROLLING_S: Final = 1.0
"""Interval between two plans of a rollout: latencies change without any event."""


class Stock(NamedTuple):
    """Result of stage 1: GPUs, GPU classes and pods."""

    inventory: inventory.Inventory
    hosts: tuple[Node, ...]
    """Nodes of the service's pods and of the shared reserve."""
    pools: tuple[Pool, ...]
    spec_hash: str
    fleet: Fleet
    claimable: tuple[shared_reserve.ClaimablePod, ...]
    failed: tuple[failures.FailedPod, ...]
    """Pods that failed to start."""
    failures: tuple[failures.Failure, ...]
    """What has failed to start, with these pods."""
    failed_s: float | None
    """Seconds until another pod may have failed to start."""


class Size(NamedTuple):
    """Result of stage 2: the number of pods."""

    desired: int
    reserve: int
    """The part of `desired` that belongs to the reserve."""
    scaling: inputs.ScalingResult | None


class Additions(NamedTuple):
    """Result of stage 3: the pods that come."""

    new: scale_up.NewPods
    creates: tuple[CreatePod, ...]
    halted: rollout.Halt | None
    back_off_s: float | None
    """Seconds until failed pods are replaced; None if there is nothing to wait for."""


class Removals(NamedTuple):
    """Result of stage 4: the pods that leave, and the next step of each."""

    leaving: tuple[scale_down.Removal, ...]
    steps: tuple[Action, ...]
    wait_s: float | None
    """Plan again after this many seconds, because a state is too old."""
    pending_image: image_check.PendingImage | None


def plan(service: Service, observed: Observed, options: Options, now: float) -> Plan:
    """Return the actions that bring the service one step nearer to its spec.

    `now` is in seconds since 1970, like the times in the pods.
    """
    service = quotas.restrict(fair_limits.restrict(service, observed.share), observed.tenant)
    stock = take_stock(service, observed, options, now)
    size = decide_size(service, observed, stock, now)
    added = add_pods(service, observed, options, stock, size, now)
    removed = remove_pods(service, observed, options, stock, size, added)
    actions, protect_s = order_actions(service, observed, stock, size, added, removed)
    decision = None if size.scaling is None else size.scaling.decision
    waits = (
        added.back_off_s,
        stock.failed_s,
        None if decision is None else decision.wake_after_s,
        removed.wait_s,
        protect_s,
        ROLLING_S if stock.fleet.outdated and not service.paused else None,
        _reserve_change_s(observed.shared, now),
    )
    return Plan(
        desired=size.desired,
        scaling=size.scaling,
        pools=stock.pools,
        inventory=stock.inventory,
        fleet=stock.fleet,
        missing=added.new.missing,
        actions=actions,
        wake_after_s=min((wait for wait in waits if wait is not None), default=None),
        halted=added.halted,
        silent=observed.silent,
        failures=stock.failures,
        held=added.new.held,
        closed=added.new.closed,
        unfit=attempts.count_unfit(stock.fleet, stock.pools),
        share=observed.share,
        tenant=observed.tenant,
        over_quota=added.new.over_quota,
        needs=observed.needs,
        pending_image=removed.pending_image,
        departures={node.name: why for node in stock.hosts if (why := node.departure) is not None},
    )


def take_stock(service: Service, observed: Observed, options: Options, now: float) -> Stock:
    """Stage 1: count GPUs, rank GPU classes and sort pods."""
    cache = observed.node_classes or inventory.NodeClassCache()
    counted = inventory.count_free(
        observed.nodes, observed.uses, observed.profiles, service.placement, cache
    )
    reserve = observed.shared.pods if observed.shared is not None else ()
    hosts = cache.named(observed.nodes, {pod.node for pod in (*observed.pods, *reserve)})
    pools = rank(service, observed.profiles, counted, options.memory_share)
    spec_hash = hash_spec(service, options.image, options.key_generation)
    fleet = sort_fleet(service, observed.pods, hosts, spec_hash)
    claimable: tuple[shared_reserve.ClaimablePod, ...] = ()
    # A service does not adopt pods for a rollout: its outdated pods still serve.
    counts = observed.tenant is None or observed.tenant.share is None
    may_adopt = counts or (observed.tenant is not None and observed.tenant.owns_reserve)
    if observed.shared is not None and may_adopt and not (service.paused or fleet.outdated):
        usable = {node.name for node in hosts if node.ready and node.departure is None}
        claimable = shared_reserve.claimable_pods(
            observed.shared, pools, service.placement, spec_hash, usable
        )
    known = failures.still_valid(observed.failures, fleet, spec_hash)
    failed, failed_s = attempts.find_failed(
        fleet, pools, known, observed.states, service.placement, now
    )
    if service.paused:
        failed, failed_s = (), None
    known = failures.record(known, failed, pools, spec_hash, now)
    pools = fair_limits.cap(pools, fleet, observed.share)
    return Stock(counted, hosts, pools, spec_hash, fleet, claimable, failed, known, failed_s)


def decide_size(service: Service, observed: Observed, stock: Stock, now: float) -> Size:
    """Stage 2: decide the number of pods."""
    context = observed.scaling_context
    if context is not None and observed.shared is not None:
        context = replace(
            context,
            share=shared_reserve.share(observed.shared, service),
            claimable=shared_reserve.count_by_class(stock.claimable),
        )
    fleet, adoptable = stock.fleet, len({each.pod.uid for each in stock.claimable})
    if context is not None:
        most_sessions = None if observed.tenant is None else observed.tenant.most_sessions
        bound = quotas.bound(observed.tenant, adoptable)
        context = replace(context, tenant=bound, most_sessions=most_sessions)
    collected = inputs.collect(
        service, fleet.live, fleet.leaving, stock.pools, observed.states, context, now
    )
    if collected is None:
        wanted, live = service.desired_replicas, len(fleet.live)
        wanted = quotas.limit_fixed(wanted, live, stock.pools, observed.tenant, adoptable)
        return Size(wanted, 0, None)
    result = inputs.decide(collected)
    return Size(result.decision.pods, result.decision.reserve, result)


def add_pods(
    service: Service, observed: Observed, options: Options, stock: Stock, size: Size, now: float
) -> Additions:
    """Stage 3: decide which pods to adopt and to create."""
    fleet, spec_hash = stock.fleet, stock.spec_hash
    halted = rollout.find_halt(
        fleet, spec_hash, observed.states, observed.halted, options.limits, now, stock.failures
    )
    count = 0
    if not service.paused and not needs.stops(observed.needs, fleet):
        # What failed to start is tried again later, also by a rollout that it halted.
        stopped = halted is not None and not stock.failures
        count = scale_up.count_missing(fleet, size.desired, observed.states, halted=stopped)
    wait_s: float | None = scale_up.back_off_s(fleet, spec_hash, now) if count else 0.0
    new = scale_up.NewPods()
    if count and not wait_s:
        adopted = stock.claimable[:count]
        count -= len(adopted)
        over_quota = count - quotas.permit(observed.tenant, count)
        count -= over_quota
        allowed = attempts.allow(
            fleet,
            spec_hash,
            stock.pools,
            stock.failures,
            service.placement,
            count,
            now,
            adopts=bool(adopted),
            others_wait=observed.others_wait,
        )
        new = scale_up.place(service, fleet, stock.pools, adopted, count, spec_hash, allowed)
        new = quotas.within_cost(new._replace(over_quota=over_quota), observed.tenant)
        wait_s = allowed.wait_s if new.held else None
    used = {pod.name for pod in observed.pods} | set(observed.names_elsewhere)
    creates = scale_up.creations(service, fleet, new, spec_hash, used)
    return Additions(new, creates, halted, wait_s or None)


def remove_pods(
    service: Service,
    observed: Observed,
    options: Options,
    stock: Stock,
    size: Size,
    added: Additions,
) -> Removals:
    """Stage 4: decide which pods leave, and the next step of each."""
    fleet, pools, states = stock.fleet, stock.pools, observed.states
    given_back = fair_limits.surplus(service, fleet, pools, states, observed.share)
    leaving = scale_down.scale_down(
        *(fleet, pools, states, given_back),
        desired=size.desired,
        reserve=size.reserve,
        candidates=frozenset(node.name for node in stock.hosts if node.is_candidate),
    )
    replaceable = scale_down.find_replaceable(
        fleet, stock.spec_hash, stock.hosts, halted=added.halted is not None
    )
    image, checks = service.template.image or options.image, observed.image_checks
    check = image_check.choose_name(service, stock.spec_hash, checks, observed.names_elsewhere)
    replaced, held = scale_down.replace_outdated(
        replaceable,
        fleet,
        size.desired,
        pools,
        states,
        blocked=added.new.missing > 0 or added.new.over_quota > 0,
        silent=observed.silent,
        image_proven=image_check.is_proven(service, check, image, fleet, checks),
    )
    leaving += tuple(each for each in replaced if each[0] not in given_back)
    failed = {each.pod.uid for each in stock.failed}
    leaving = tuple(each for each in leaving if each[0].uid not in failed)
    steps, wait_s = scale_down.next_steps(leaving, states)
    leaving += tuple((each.pod, Reason.REPLACING) for each in stock.failed)
    steps += scale_down.delete_failed(stock.failed)
    needed = any(pod.spec_hash != stock.spec_hash for pod in fleet.outdated)
    steps += image_check.next_check(check if needed else "", held, checks, pools)
    pending = None
    if held is not None:
        pending = image_check.PendingImage(image, held, next((c.trouble for c in checks), ""))
    return Removals(leaving, steps, wait_s, pending)


def order_actions(
    service: Service,
    observed: Observed,
    stock: Stock,
    size: Size,
    added: Additions,
    removed: Removals,
) -> tuple[tuple[Action, ...], float | None]:
    """Stage 5: assign roles, protect pods with sessions, and order all actions.

    The second value is the number of seconds until the protection may change, None if only an
    event changes it. A paused service gets no action but the protection, and the labels of pods.
    """
    fleet, states = stock.fleet, observed.states
    leaving = {pod.uid for pod, _ in removed.leaving}
    staying = [pod for pod in fleet.live if pod.uid not in leaving]
    staying += [replace(each.pod, reserve=False) for each in added.new.adopted]
    roles = warm_pool.assign_roles(
        staying, added.creates, states, desired=size.desired, reserve=size.reserve
    )
    ready_nodes = frozenset(node.name for node in stock.hosts if node.ready)
    protection, protect_s = protect(observed.pods, states, ready_nodes)
    deleted = {action.uid for action in removed.steps if isinstance(action, DeletePod)}
    restored = restore_labels(service, observed.pods)
    protection = tuple(action for action in protection if action.uid not in deleted)
    if service.paused:
        return (*restored, *protection), protect_s
    actions = (
        *(() if observed.has_control_secret else (ApplyControlSecret(service.key.name),)),
        *(() if observed.has_pdb else (ApplyBudget(service.key.name),)),
        *(() if observed.has_network_policy else (ApplyNetworkPolicy(service.key.name),)),
        *restored,
        *protection,
        *scale_down.undrain(fleet, removed.leaving, states),
        *roles.changes,
        *scale_up.adoptions(service, fleet, added.new.adopted),
        *roles.creates,
        *removed.steps,
        *scale_down.prune_failed_pods(fleet, size.desired, stock.spec_hash),
    )
    return actions, protect_s


def _reserve_change_s(shared: shared_reserve.SharedReserve | None, now: float) -> float | None:
    """Return after how many seconds a schedule changes the size of the shared reserve."""
    if shared is None or shared.group.until is None:
        return None
    return max(0.0, shared.group.until - now)
