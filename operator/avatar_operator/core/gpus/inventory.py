"""Counts the free GPUs of each class that pods with a given placement can use.

Nodes change rarely and pods often. What follows from the nodes alone is cached, and the GPU use of
pods is updated by the differences between two plans.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from avatar_operator import names
from avatar_operator.core.gpus.node_classes import NodeClass, Selector, classify
from avatar_operator.core.resources.placement import Placement, Toleration

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from avatar_operator.core.resources.devices import DeviceGroup
    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.node import Node, Taint
    from avatar_operator.core.resources.pod import PodUse

KEPT_VIEWS: Final = 32
"""Number of cached placements; most services of a cluster use a few."""


@dataclass(frozen=True, slots=True)
class NodeStock:
    """GPUs of one node behind one resource: a row of `avatar-operator plan`."""

    node: str
    resource: str
    gpu_class: str | None
    total: int
    free: int
    """0 if the node is excluded."""
    reason: str
    """Why the node is excluded, or a warning about its labels; "" if there is none."""


@dataclass(frozen=True, slots=True)
class ClassStock:
    """The GPUs of one class that a service can use."""

    gpu_class: str
    memory_mib: int
    """Memory of the smallest GPU, or the profile's minimum if there is none."""
    total: int
    free: int
    selectors: tuple[Selector, ...]
    resource: str = names.GPU_RESOURCE
    """The resource that a pod requests, or the DeviceClass of its claim."""
    devices: tuple[DeviceGroup, ...] = ()
    """What a claim may get, without counts; empty if a pod requests the resource itself."""

    new_nodes: Selector = ()
    """Labels of the nodes that an autoscaler would add; empty if the profile names none."""

    @property
    def is_known(self) -> bool:
        """Whether it is known how a pod names the GPUs of the class."""
        return bool(self.selectors or self.devices or self.new_nodes)

    def with_new_nodes(self) -> ClassStock:
        """Return the stock for a pod that may also run on a node to come."""
        if not self.new_nodes or self.devices or self.new_nodes in self.selectors:
            return self
        return replace(self, selectors=(*self.selectors, self.new_nodes))


@dataclass(frozen=True, slots=True)
class Inventory:
    """The GPUs by class, and the excluded nodes."""

    stocks: Mapping[str, ClassStock]
    """One for each profile."""
    left_out: tuple[tuple[str, str], ...]
    """(node, reason) of each excluded node, by name."""
    classes_left_out: Mapping[str, str | None]
    """The GPU class of each excluded node, None if it is unknown."""
    _view: PlacementView = field(compare=False, repr=False)
    _uses: tuple[PodUse, ...] = field(compare=False, repr=False)

    @property
    def nodes(self) -> tuple[NodeStock, ...]:
        """The GPUs of each node, by name; computed on each access."""
        return self._view.rows(self._uses)


class NodeClassCache:
    """Caches the GPU classes of nodes, so that only changed nodes are classified again.

    Results depend only on the arguments; the cache saves time.
    """

    def __init__(self) -> None:
        self._profiles: tuple[GPUProfile, ...] = ()
        self._nodes: tuple[Node, ...] = ()
        self._found: dict[str, tuple[Node, tuple[NodeClass, ...]]] = {}  # by name
        self._parts: tuple[NodeClass, ...] = ()
        self._views: dict[object, PlacementView] = {}  # by placement, most recently used last

    def parts(
        self, nodes: tuple[Node, ...], profiles: tuple[GPUProfile, ...]
    ) -> tuple[NodeClass, ...]:
        """Return the result of `classify` for each node, sorted by the names of the nodes."""
        if nodes is self._nodes and profiles is self._profiles:
            return self._parts
        known = self._found if profiles == self._profiles else {}
        found: dict[str, tuple[Node, tuple[NodeClass, ...]]] = {}
        for node in sorted(nodes, key=lambda node: node.name):
            before = known.get(node.name)
            same = before is not None and before[0] == node
            found[node.name] = before if same and before else (node, classify(node, profiles))
        self._nodes, self._profiles, self._found = nodes, profiles, found
        self._parts = tuple(part for _, parts in found.values() for part in parts)
        self._views.clear()
        return self._parts

    def view(
        self,
        nodes: tuple[Node, ...],
        profiles: tuple[GPUProfile, ...],
        placement: Placement,
    ) -> PlacementView:
        """Return the view of a placement on the nodes."""
        parts = self.parts(nodes, profiles)
        key = (placement.node_selector, placement.tolerations)
        view = self._views.pop(key, None) or PlacementView(parts, profiles, placement)
        self._views[key] = view
        if len(self._views) > KEPT_VIEWS:
            del self._views[next(iter(self._views))]
        return view

    def named(self, nodes: tuple[Node, ...], wanted: Collection[str]) -> tuple[Node, ...]:
        """Return the nodes with these names."""
        if nodes is not self._nodes:
            return tuple(node for node in nodes if node.name in wanted)
        return tuple(self._found[name][0] for name in wanted if name in self._found)


class PlacementView:
    """The GPUs that pods with one placement can use, and how many of them are in use."""

    def __init__(
        self,
        parts: Sequence[NodeClass],
        profiles: Sequence[GPUProfile],
        placement: Placement,
    ) -> None:
        unusable = {part.node.name: _unusable(part.node, placement) for part in parts}
        usable = [part for part in parts if part.gpu_class and not unusable[part.node.name]]
        resources = {
            profile.name: _resource(part for part in usable if part.gpu_class == profile.name)
            for profile in profiles
        }
        self._rows = tuple(
            (part, _left_out(part, unusable[part.node.name], resources)) for part in parts
        )
        self.left_out = tuple((part.node.name, why) for part, why in self._rows if why)
        self.classes_left_out = {part.node.name: part.gpu_class for part, why in self._rows if why}
        members = [part for part, why_not in self._rows if not why_not]
        self._members = {(part.node.name, part.resource): part for part in members}
        self._bare = {
            profile.name: _stock(profile, resources[profile.name], members, parts)
            for profile in profiles
        }
        self._uses: tuple[PodUse, ...] = ()
        self._used: dict[tuple[str, str], int] = {}  # by node and resource
        self._coming: dict[str, int] = {}  # by class: requested by runtime pods without a node
        self._free = {name: stock.total for name, stock in self._bare.items()}

    @property
    def members(self) -> Iterable[NodeClass]:
        """The GPUs of each node that pods with this placement can use."""
        return self._members.values()

    def stocks(self, uses: tuple[PodUse, ...]) -> Mapping[str, ClassStock]:
        """Return the stock of each class, with the GPUs that are free besides these uses.

        Only uses that are not identical to those of the previous call are counted again.
        """
        before, self._uses = self._uses, uses
        if uses is not before:
            same = min(len(uses), len(before))
            for old, new in zip(before, uses, strict=False):
                if old is not new:
                    self._add(old, -1)
                    self._add(new, 1)
            for old in before[same:]:
                self._add(old, -1)
            for new in uses[same:]:
                self._add(new, 1)
        return {name: self._with_free(stock) for name, stock in self._bare.items()}

    def rows(self, uses: Iterable[PodUse]) -> tuple[NodeStock, ...]:
        """Return the GPUs of each node, with those that are free besides these uses."""
        used: dict[tuple[str, str], int] = {}
        for use in uses:
            for resource, count in use.counts.items():
                used[use.node, resource] = used.get((use.node, resource), 0) + count
        return tuple(
            NodeStock(
                node=part.node.name,
                resource=part.resource,
                gpu_class=part.gpu_class,
                total=part.gpus,
                free=0 if why else max(0, part.gpus - used.get((part.node.name, part.resource), 0)),
                reason=why or part.warning,
            )
            for part, why in self._rows
        )

    def _add(self, use: PodUse, sign: int) -> None:
        for resource, count in use.counts.items():
            if use.node:
                self._add_on_node((use.node, resource), sign * count)
            elif use.gpu_class:
                self._coming[use.gpu_class] = self._coming.get(use.gpu_class, 0) + sign * count

    def _add_on_node(self, key: tuple[str, str], count: int) -> None:
        before = self._used.get(key, 0)
        after = self._used[key] = before + count
        if not after:
            del self._used[key]
        part = self._members.get(key)
        if part is not None and part.gpu_class is not None:
            # A failed device can lower the allocatable GPUs below those in use: at least 0 is free.
            change = max(0, part.gpus - after) - max(0, part.gpus - before)
            self._free[part.gpu_class] += change

    def _with_free(self, stock: ClassStock) -> ClassStock:
        free = max(0, self._free[stock.gpu_class] - self._coming.get(stock.gpu_class, 0))
        if free == stock.free:
            return stock
        known = self._bare[stock.gpu_class] = replace(stock, free=free)
        return known


def count_free(
    nodes: Iterable[Node],
    uses: Iterable[PodUse],
    profiles: Sequence[GPUProfile],
    placement: Placement,
    cache: NodeClassCache | None = None,
) -> Inventory:
    """Count the GPUs that pods with this placement can use.

    All pods in the cluster count. Runtime pods that are not bound yet count for the class that they
    are pinned to. A cache that is kept between calls makes it faster.
    """
    uses = tuple(uses)
    view = (cache or NodeClassCache()).view(tuple(nodes), tuple(profiles), placement)
    return Inventory(view.stocks(uses), view.left_out, view.classes_left_out, view, uses)


def tolerates(tolerations: Collection[Toleration], taint: Taint) -> bool:
    """Return whether one of the tolerations matches a taint, as the scheduler does."""
    return any(
        (not toleration.effect or toleration.effect == taint.effect)
        and (
            (toleration.operator == "Exists" and toleration.key in ("", taint.key))
            or (
                toleration.operator == "Equal"
                and (toleration.key, toleration.value) == (taint.key, taint.value)
            )
        )
        for toleration in tolerations
    )


GPU_TOLERATION: Final = Toleration(key=names.GPU_RESOURCE, operator="Exists")
"""GPU nodes usually have this taint, so that only GPU pods run there."""


def _resource(parts: Iterable[NodeClass]) -> str:
    """Return the resource that offers most GPUs of a class, because a pod can request only one."""
    totals: dict[str, int] = {}
    for part in parts:
        totals[part.request] = totals.get(part.request, 0) + part.gpus
    return min(totals, key=lambda name: (-totals[name], name), default=names.GPU_RESOURCE)


def _left_out(part: NodeClass, unusable: str, resources: Mapping[str, str]) -> str:
    reason = unusable if part.gpu_class else part.reason
    if part.gpu_class and not reason and part.request != resources[part.gpu_class]:
        reason = f"most GPUs of {part.gpu_class} are offered as {resources[part.gpu_class]}"
    if reason and part.resource != names.GPU_RESOURCE:
        return f"{part.resource}: {reason}"
    return reason


def _unusable(node: Node, placement: Placement) -> str:
    if not node.ready:
        return "not ready"
    if node.departure is not None:
        return node.departure.reason
    for key, value in placement.node_selector:
        if node.labels.get(key) != value:
            return f"label {key} is not {value!r}, which spec.placement.nodeSelector requires"
    tolerations = (GPU_TOLERATION, *placement.tolerations)
    for taint in node.taints:
        if taint.effect != "PreferNoSchedule" and not tolerates(tolerations, taint):
            return f"taint {taint.key}:{taint.effect} is not tolerated"
    return ""


def _stock(
    profile: GPUProfile,
    resource: str,
    members: Iterable[NodeClass],
    parts: Iterable[NodeClass],
) -> ClassStock:
    """Return the stock of the usable nodes; without one, excluded nodes provide the labels."""
    own = [part for part in members if part.gpu_class == profile.name]
    kin = [part for part in parts if (part.gpu_class, part.request) == (profile.name, resource)]
    alike, total = own or kin, sum(part.gpus for part in own)
    return ClassStock(
        gpu_class=profile.name,
        memory_mib=min((part.memory_mib for part in alike), default=profile.memory_min_mib),
        total=total,
        free=total,
        selectors=tuple(sorted({part.selector for part in alike if part.device is None})),
        resource=resource,
        devices=_devices(alike),
        new_nodes=profile.new_node_labels,
    )


def _devices(parts: Iterable[NodeClass]) -> tuple[DeviceGroup, ...]:
    """Return the different GPUs that claims may get."""
    found = {replace(part.device, count=0) for part in parts if part.device is not None}
    return tuple(sorted(found, key=lambda group: group.key))
