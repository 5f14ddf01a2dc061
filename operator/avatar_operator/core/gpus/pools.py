"""Ranks the GPU classes of a service, each with its batch size and its free GPUs."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from avatar_operator.core.gpus import batch_size, calibration
from avatar_operator.core.gpus.inventory import ClassStock, Inventory
from avatar_operator.core.resources.placement import Placement, Strategy, WhenFull

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_operator.core.resources.gpu_profile import Calibration, Curve, GPUProfile
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.quantities import Resources
    from avatar_operator.core.resources.service import Service


@dataclass(frozen=True, slots=True)
class Pool:
    """A GPU class with the batch size for one service."""

    gpu_class: str
    outcome: batch_size.BatchPlan | batch_size.NoBatch
    stock: ClassStock
    curve: Curve | None
    cost_per_hour: Decimal | None = None
    calibration: Calibration | None = None
    contradiction: str = ""
    """Difference between the measurement and the profile; "" if it is small."""
    resources: Resources = field(default_factory=dict)
    """CPU and memory of a pod according to the profile."""

    @property
    def can_serve(self) -> bool:
        """Whether pods of the service can run on the class."""
        return isinstance(self.outcome, batch_size.BatchPlan)


def rank(
    service: Service,
    profiles: Sequence[GPUProfile],
    inventory: Inventory,
    memory_share: float,
) -> tuple[Pool, ...]:
    """Return the classes that the service allows, in the order in which they are filled.

    If the service lists no class, those of which no node exists come after the others. Classes that
    cannot serve are last, each with its reason.
    """
    by_name = {profile.name: profile for profile in profiles}
    asked = service.placement.gpu_classes or tuple(sorted(by_name))
    pools = [_pool(service, name, by_name, inventory, memory_share) for name in asked]
    return tuple(sorted(pools, key=lambda pool: _order(pool, service.placement)))


def eligible(pools: Sequence[Pool], placement: Placement) -> Sequence[Pool]:
    """Return the classes that new pods may use, in order: with `wait`, only the first one."""
    serving = [pool for pool in pools if pool.can_serve]
    return serving[:1] if placement.when_full is WhenFull.WAIT else serving


def total_cost(pods: Iterable[RuntimePod], pools: Sequence[Pool]) -> Decimal:
    """Return the cost of pods per hour; a class without a cost counts nothing."""
    costs = {pool.gpu_class: pool.cost_per_hour for pool in pools}
    return sum((costs.get(pod.gpu_class) or Decimal(0) for pod in pods), Decimal(0))


def _pool(
    service: Service,
    name: str,
    profiles: Mapping[str, GPUProfile],
    inventory: Inventory,
    memory_share: float,
) -> Pool:
    profile = profiles.get(name)
    if profile is None:
        nothing = ClassStock(name, 0, 0, 0, ())
        return Pool(name, batch_size.NoBatch(f"there is no GPUProfile {name}"), nothing, None)
    stock = inventory.stocks[name]
    if not service.placement.allows(name):
        tenant = service.placement.tenant
        rule = batch_size.NoBatch(f"spec.access.gpuClasses of AvatarTenant {tenant} lacks it")
        return Pool(name, rule, stock, None, profile.cost_per_hour)
    variant, namespace = service.model.variant, service.key.namespace
    curve = profile.curve(variant, namespace)
    if curve is None:
        missing = batch_size.NoBatch(f"GPUProfile {name} has no curve for {variant}")
        return Pool(name, missing, stock, None, profile.cost_per_hour)
    outcome = (
        batch_size.fixed_batch(
            curve, stock.memory_mib, service.batch_size, service.fps, memory_share=memory_share
        )
        if service.batch_size is not None
        else batch_size.plan_batch(
            curve, stock.memory_mib, service.objective, service.fps, memory_share=memory_share
        )
    )
    return Pool(
        gpu_class=name,
        outcome=outcome,
        stock=stock,
        curve=curve,
        cost_per_hour=profile.cost_per_hour,
        calibration=profile.calibration(variant, namespace),
        contradiction=calibration.contradiction(profile, variant, namespace),
        resources=profile.resources,
    )


def _order(pool: Pool, placement: Placement) -> tuple[bool, bool, float | Decimal, str]:
    if not isinstance(pool.outcome, batch_size.BatchPlan):
        return True, False, 0, pool.gpu_class
    if placement.strategy is Strategy.PREFERRED and placement.gpu_classes:
        return False, False, placement.gpu_classes.index(pool.gpu_class), pool.gpu_class
    # A service that lists no class does not wait for one that the cluster does not have.
    absent = not placement.gpu_classes and not pool.stock.total
    if placement.strategy is Strategy.FASTEST:
        return False, absent, -pool.outcome.frames_per_s, pool.gpu_class
    # Without a list of classes, the cost per session is the preference.
    if pool.cost_per_hour is None:
        return False, absent, Decimal("Infinity"), pool.gpu_class
    return False, absent, pool.cost_per_hour / pool.outcome.sessions_per_pod, pool.gpu_class
