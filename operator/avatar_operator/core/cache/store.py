"""Stores the latest version of every object that plans depend on, and reports what changed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields
from avatar_operator import names
from avatar_operator.core.cache.avatar_index import AvatarIndex
from avatar_operator.core.cache.device_index import DeviceIndex
from avatar_operator.core.cache.entries import (
    ChangeImpact,
    Kind,
    ProfileBody,
    ServiceBody,
    to_text,
)
from avatar_operator.core.cache.gpu_usage import GPUUsage
from avatar_operator.core.cache.objects import Cache
from avatar_operator.core.cache.pod_index import PodIndex
from avatar_operator.core.cache.tenant_index import TenantIndex
from avatar_operator.core.gpus import inventory
from avatar_operator.core.planning import shared_reserve
from avatar_operator.core.resources.devices import (
    parse_claim,
    parse_device_class,
    parse_slice,
)
from avatar_operator.core.resources.gateway import GatewayPod, parse_pod
from avatar_operator.core.resources.gpu_profile import GPUProfile, parse_profile
from avatar_operator.core.resources.image_check import ImageCheck, parse_image_check
from avatar_operator.core.resources.node import Node, parse_node
from avatar_operator.core.resources.pod import RuntimePod, parse_runtime_pod, parse_use
from avatar_operator.core.resources.pod_status import parse_seconds
from avatar_operator.core.resources.service import ServiceKey, parse_service
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from decimal import Decimal

    from avatar_operator.core.resources.pod import PodUse

_SHARES_RESERVE: Final = b'"sharedReserve":true'


class Store:
    """The latest version of every object that a plan depends on."""

    def __init__(self, watch_namespaces: Collection[str], namespace: str = "") -> None:
        """`namespace` is that of the operator, where the gateways run.

        Services outside `watch_namespaces` are ignored; empty means all namespaces.
        """
        self._namespace = namespace
        self._watch_namespaces = frozenset(watch_namespaces)
        self.services: Cache[ServiceBody] = Cache()
        self._ignored: set[str] = set()  # UIDs of services outside the watched namespaces
        self._service_uids: dict[ServiceKey, str] = {}
        self.reserve_groups = shared_reserve.ReserveGroups()
        self.pods = PodIndex()
        self.gateways: Cache[GatewayPod] = Cache()
        self._image_checks: Cache[ImageCheck] = Cache()
        self.avatar_index = AvatarIndex()
        self.tenants = TenantIndex()
        self._gpu_usage = GPUUsage()
        self.devices = DeviceIndex()
        self._uses: tuple[tuple[PodUse, ...], ...] = ((), ())  # of pods, and of claims
        self._all_uses: tuple[PodUse, ...] = ()
        self._nodes: Cache[Node] = Cache()
        self._node_list: tuple[Node, ...] | None = None  # None after a change
        self._profiles: Cache[GPUProfile | None] = Cache()  # None: invalid
        self._profile_list: tuple[GPUProfile, ...] | None = None  # None after a change
        self._profile_bodies: Cache[ProfileBody] = Cache()
        self._class_costs: dict[str, Decimal] | None = None  # None after a change
        self._planned: dict[str, tuple[ServiceKey, str]] = {}  # by NAMESPACE/NAME of the pod
        self._node_classes = inventory.NodeClassCache()

    def observe(self, kind: Kind, body: Mapping[str, object]) -> ChangeImpact:
        """Store an object from a watch, a list or the response to a write."""
        metadata = Fields(body.get("metadata"), "metadata", [])
        uid, version = metadata.text("uid"), int(metadata.text("resourceVersion", "0"))
        if version and version == self._known_version(kind, uid):
            return ChangeImpact()  # a repetition of an own write or of a list
        match kind:
            case Kind.SERVICES:
                return self._observe_service(uid, version, body)
            case Kind.PROFILES:
                return self._observe_profile(uid, version, body)
            case Kind.NODES:
                return self._observe_node(uid, version, body)
            case Kind.AVATARS:
                return self._observe_avatar(uid, version, body)
            case Kind.JOBS:
                return self._observe_job(uid, version, body)
            case Kind.TENANTS:
                changed, fault = self.tenants.put_tenant(uid, version, body)
                return ChangeImpact(tenants=changed, fault=fault)
            case Kind.NAMESPACES:
                return ChangeImpact(tenants=self.tenants.put_namespace(uid, version, body))
            case Kind.SLICES:
                return self._on_devices(self.devices.put_slice(uid, version, parse_slice(body)))
            case Kind.DEVICE_CLASSES:
                name = parse_device_class(body)
                return self._on_devices(self.devices.put_class(uid, version, name))
            case Kind.CLAIMS:
                return self._observe_claim(uid, version, body)
        return self._observe_pod(metadata, uid, version, body)

    def observe_deletion(self, kind: Kind, uid: str) -> ChangeImpact:
        """Remove an object that was deleted."""
        match kind:
            case Kind.SERVICES:
                return self._observe_deleted_service(uid)
            case Kind.PROFILES:
                self._profile_bodies.drop(uid)
                self._profile_list = self._class_costs = None
                return ChangeImpact(all_services=self._profiles.drop(uid) is not None)
            case Kind.NODES:
                self._node_list = None
                node = self._nodes.drop(uid)
                if node is None:
                    return ChangeImpact()
                return ChangeImpact(all_services=True, node=node.name)
            case Kind.AVATARS:
                return self.avatar_index.drop_avatar(uid)
            case Kind.JOBS:
                return self._observe_deleted_job(uid)
            case Kind.TENANTS:
                return ChangeImpact(tenants=self.tenants.drop_tenant(uid))
            case Kind.NAMESPACES:
                return ChangeImpact(tenants=self.tenants.drop_namespace(uid))
            case Kind.SLICES:
                return self._on_devices(self.devices.drop_slice(uid))
            case Kind.DEVICE_CLASSES:
                return self._on_devices(self.devices.drop_class(uid))
            case Kind.CLAIMS:
                claim = self.devices.claims.get(uid)
                if claim is not None:
                    self._gpu_usage.deallocate(claim.pod_uid)
                return ChangeImpact(freed_gpus=self.devices.drop_claim(uid))
        return self._observe_deleted_pod(uid)

    def uids(self, kind: Kind) -> frozenset[str]:
        """Return the UIDs of all objects of a kind; one that a later list lacks was deleted."""
        match kind:
            case Kind.SERVICES:
                return frozenset(self.services.uids())
            case Kind.PROFILES:
                return frozenset(self._profiles.uids())
            case Kind.NODES:
                return frozenset(self._nodes.uids())
            case Kind.AVATARS:
                return frozenset(self.avatar_index.avatars.uids())
            case Kind.JOBS:
                return frozenset(self.avatar_index.job_uids())
            case Kind.TENANTS:
                return frozenset(self.tenants.bodies.uids())
            case Kind.NAMESPACES:
                return frozenset(self.tenants.namespace_uids())
            case Kind.SLICES:
                return frozenset(self.devices.slices.uids())
            case Kind.DEVICE_CLASSES:
                return frozenset(self.devices.classes.uids())
            case Kind.CLAIMS:
                return frozenset(self.devices.claims.uids())
        pods = (self._gpu_usage, self.pods, self.gateways, self._image_checks)
        found = frozenset(uid for cache in pods for uid in cache.uids())
        return found | frozenset(self.avatar_index.pod_uids())

    def service_uid(self, key: ServiceKey) -> str | None:
        """Return the UID of the service with this name, None if it does not exist."""
        return self._service_uids.get(key)

    def nodes(self) -> tuple[Node, ...]:
        """Return all nodes."""
        if self._node_list is None:
            groups = self.devices.groups()
            self._node_list = tuple(
                replace(node, devices=groups[node.name]) if node.name in groups else node
                for node in self._nodes.values()
            )
        return self._node_list

    def profiles(self) -> tuple[GPUProfile, ...]:
        """Return all valid profiles, sorted by name."""
        if self._profile_list is None:
            valid = (profile for profile in self._profiles.values() if profile is not None)
            self._profile_list = tuple(sorted(valid, key=lambda profile: profile.name))
        return self._profile_list

    def profile_body(self, name: str) -> ProfileBody | None:
        """Return identity and status of a profile, None if it does not exist."""
        return next((body for body in self._profile_bodies.values() if body.name == name), None)

    def gpu_uses(self, now: float) -> tuple[PodUse, ...]:
        """Return the GPU use of all pods of the cluster, summed by node and class.

        `now` is in seconds since 1970.
        """
        self._gpu_usage.expire(now)
        uses = self._gpu_usage.sums(), self.devices.uses()
        if any(new is not old for new, old in zip(uses, self._uses, strict=True)):
            self._uses, self._all_uses = uses, (*uses[0], *uses[1])
        return self._all_uses

    def next_freed_s(self, now: float) -> float | None:
        """Return after how many seconds a pod without a node stops to count, None if none does."""
        at = self._gpu_usage.next_expiry()
        return None if at is None else max(0.0, at - now)

    def reserve_gpus(self, key: ServiceKey, pod: str, use: PodUse) -> None:
        """Count the GPUs of a planned pod at once, so that no other plan counts them as free.

        The reservation ends when the pod itself is observed, or with `release_gpus`.
        """
        self._gpu_usage.reserve(f"{key.namespace}/{pod}", use)
        self._planned[f"{key.namespace}/{pod}"] = (key, use.gpu_class)

    def release_gpus(self, key: ServiceKey, pods: Iterable[str]) -> ChangeImpact:
        """End the reservations of pods that were not created, and report freed GPUs."""
        ended = []
        for pod in pods:
            self._planned.pop(f"{key.namespace}/{pod}", None)
            ended.append(self._gpu_usage.release(f"{key.namespace}/{pod}"))
        return ChangeImpact(freed_gpus=any(ended))

    def reserve_for_job(self, job: ServiceKey, use: PodUse) -> None:
        """Count the GPU of a Job that is about to be created, until its pod has a node.

        The caller ends the reservation with `release_job` if that takes too long.
        """
        self._gpu_usage.reserve(_job_key(job), use)

    def release_job(self, job: ServiceKey) -> ChangeImpact:
        """End the reservation of a Job, and report a freed GPU."""
        return ChangeImpact(freed_gpus=self._gpu_usage.release(_job_key(job)))

    def node_class_cache(self) -> inventory.NodeClassCache:
        """Return the cache of the GPU classes of nodes, which is kept between plans."""
        return self._node_classes

    def pods_of(self, key: ServiceKey) -> tuple[RuntimePod, ...]:
        """Return the runtime pods of the services with this name, deleted ones included."""
        return self.pods.of_service(key)

    def names_elsewhere(self, key: ServiceKey) -> frozenset[str]:
        """Return the names of pods that were created for a service and adopted by another one."""
        return frozenset(pod.name for pod in self.pods.adopted_from(key))

    def image_checks(self, uid: str) -> tuple[ImageCheck, ...]:
        """Return the image check pods of a service; few services of a cluster have one."""
        return tuple(check for check in self._image_checks.values() if check.owner_uid == uid)

    def owned_by(self, uid: str) -> tuple[RuntimePod, ...]:
        """Return the runtime pods whose owner is exactly this service, existing or deleted."""
        return self.pods.owned_by(uid)

    def live_pods(self, uid: str) -> tuple[RuntimePod, ...]:
        """Return the pods of an existing service that hold a GPU or wait for one."""
        service = self.services.get(uid)
        if service is None:
            return ()
        namespace = service.key.namespace  # a pod of another one only names it as its owner
        pods = self.pods.owned_by(uid)
        return tuple(pod for pod in pods if pod.namespace == namespace and not pod.ended)

    def pods_left(self, uid: str) -> tuple[RuntimePod, ...]:
        """Return the pods of a deleted service that have not ended; none if the service exists."""
        if self.services.get(uid) is not None:
            return ()
        return tuple(pod for pod in self.pods.owned_by(uid) if not pod.ended)

    def planned_classes(self, key: ServiceKey) -> list[str]:
        """Return the GPU class of each pod of a service that is about to be created."""
        return [gpu_class for owner, gpu_class in self._planned.values() if owner == key]

    def class_costs(self) -> Mapping[str, Decimal]:
        """Return the cost per hour of each GPU class that has one."""
        if self._class_costs is None:
            costs = {profile.name: profile.cost_per_hour for profile in self.profiles()}
            self._class_costs = {name: cost for name, cost in costs.items() if cost is not None}
        return self._class_costs

    def _known_version(self, kind: Kind, uid: str) -> int | None:
        """Return the known version of an object of the numerous kinds."""
        match kind:
            case Kind.SERVICES:
                return self.services.version(uid)
            case Kind.PODS:
                return self.pods.version(uid)
        return None

    def _observe_service(self, uid: str, version: int, body: Mapping[str, object]) -> ChangeImpact:
        metadata = Fields(body.get("metadata"), "metadata", [])
        key = ServiceKey(metadata.text("namespace"), metadata.text("name"))
        if self._watch_namespaces and key.namespace not in self._watch_namespaces:
            return self._ignore(uid, key)
        generation = metadata.integer("generation", 0, 0, 2**63)
        identity = {"name": key.name, "namespace": key.namespace, "uid": uid}
        if created := metadata.text("creationTimestamp"):
            identity["creationTimestamp"] = created
        annotations = {
            name: value
            for name, value in metadata.strings("annotations").items()
            if name.startswith(f"{names.GROUP}/")
        }
        metadata_kept = {**identity, "generation": generation, "annotations": annotations}
        labels = metadata.strings("labels")
        tenants = Fields(body.get("spec"), "spec", []).texts("tenants")
        service = ServiceBody(
            key=key,
            generation=generation,
            deleting=metadata.has("deletionTimestamp"),
            body_text=to_text({"metadata": metadata_kept, "spec": body.get("spec")}),
            status_text=to_text(Fields(body, "", []).fragment("status")),
            finalizers=metadata.texts("finalizers"),
        )
        known = self.services.get(uid)
        if not self.services.put(uid, version, service):
            return ChangeImpact()
        self._service_uids[key] = uid
        concerns_tenants = self.tenants.put_service(uid, key, labels, tenants)
        new_spec = None if known and known.generation == generation else uid
        others = self._update_reserve_sharing(uid, known, service)
        avatars = self.avatar_index.name(uid, key, body.get("spec"))
        return ChangeImpact(
            (uid, *others), avatars=avatars, new_spec=new_spec, tenants=concerns_tenants
        )

    def _ignore(self, uid: str, key: ServiceKey) -> ChangeImpact:
        """Report once that a service is outside the watched namespaces."""
        if uid in self._ignored:
            return ChangeImpact()
        self._ignored.add(uid)
        fault = f"AvatarService {key} is outside the namespaces that this operator watches"
        return ChangeImpact(fault=fault)

    def _observe_deleted_service(self, uid: str) -> ChangeImpact:
        service = self.services.drop(uid)
        if service is None:
            return ChangeImpact()
        tenants = self.tenants.drop_service(uid)
        if self._service_uids.get(service.key) == uid:
            del self._service_uids[service.key]
        others = self.reserve_groups.put(uid, service.key.namespace, None)
        avatars = self.avatar_index.name(uid, service.key, None)
        return ChangeImpact(others, avatars=avatars, tenants=tenants, deleted_service=service.key)

    def _update_reserve_sharing(
        self, uid: str, known: ServiceBody | None, service: ServiceBody
    ) -> tuple[str, ...]:
        """Update whether a service shares its reserve; return the other services affected."""
        same = (service.body_text, service.deleting)
        if known and (known.body_text, known.deleting) == same:
            return ()
        member = None
        # Few services share a reserve, so that few are parsed here.
        if _SHARES_RESERVE in service.body_text and not service.deleting:
            try:
                member = shared_reserve.as_member(parse_service(service.body))
            except InvalidResource:
                member = None  # the reconcile of the service reports the faults
        return self.reserve_groups.put(uid, service.key.namespace, member)

    def _observe_profile(self, uid: str, version: int, body: Mapping[str, object]) -> ChangeImpact:
        profile, fault = None, ""
        try:
            profile = parse_profile(body)
        except InvalidResource as error:
            fault = str(error)
        metadata = Fields(body.get("metadata"), "metadata", [])
        generation = metadata.integer("generation", 0, 0, 2**63)
        status = Fields(body, "", []).fragment("status")
        profile_body = ProfileBody(metadata.text("name"), uid, version, generation, status)
        self._profile_bodies.put(uid, version, profile_body)
        changed = self._profiles.put(uid, version, profile)
        if changed:
            self._profile_list = self._class_costs = None
        return ChangeImpact(all_services=changed, fault=fault if changed else "")

    def _observe_node(self, uid: str, version: int, body: Mapping[str, object]) -> ChangeImpact:
        node = parse_node(body)
        if not self._nodes.put(uid, version, node):
            return ChangeImpact()
        self._node_list = None
        return ChangeImpact(all_services=True, node=node.name)

    def _on_devices(self, changed: bool) -> ChangeImpact:
        """Report that the GPUs changed which DRA drivers publish."""
        if changed:
            self._node_list = None
        return ChangeImpact(all_services=changed)

    def _observe_claim(self, uid: str, version: int, body: Mapping[str, object]) -> ChangeImpact:
        claim = parse_claim(body)
        freed = self.devices.put_claim(uid, version, claim)
        if claim is not None and claim.pod_uid:
            self._gpu_usage.allocate(claim.pod_uid)
        return ChangeImpact(freed_gpus=freed)

    def _observe_avatar(self, uid: str, version: int, body: Mapping[str, object]) -> ChangeImpact:
        metadata = Fields(body.get("metadata"), "metadata", [])
        namespace = metadata.text("namespace")
        if self._watch_namespaces and namespace not in self._watch_namespaces:
            return ChangeImpact()
        return self.avatar_index.put_avatar(uid, version, body)

    def _observe_job(self, uid: str, version: int, body: Mapping[str, object]) -> ChangeImpact:
        impact = self.avatar_index.put_job(uid, version, body)
        job = self.avatar_index.job(uid)
        if job is None or job.ended_at is None:
            return impact
        return replace(impact, freed_gpus=self.release_job(job.key).freed_gpus)

    def _observe_deleted_job(self, uid: str) -> ChangeImpact:
        job = self.avatar_index.drop_job(uid)
        if job is None:
            return ChangeImpact()
        return replace(self.release_job(job.key), avatars=(job.avatar_uid,))

    def _observe_pod(
        self, metadata: Fields, uid: str, version: int, body: Mapping[str, object]
    ) -> ChangeImpact:
        name = f"{metadata.text('namespace')}/{metadata.text('name')}"
        self._planned.pop(name, None)
        self._gpu_usage.release(name)
        created_at = parse_seconds(metadata.text("creationTimestamp")) or 0.0
        freed = self._gpu_usage.put(uid, version, parse_use(body), created_at)
        gateway = parse_pod(body, self._namespace)
        if gateway is not None:
            changed = self.gateways.put(uid, version, gateway)
            return ChangeImpact(freed_gpus=freed, gateway=uid if changed else None)
        check = parse_image_check(body)
        if check is not None:
            changed = self._image_checks.put(uid, version, check)
            return ChangeImpact((check.owner_uid,) if changed else (), freed_gpus=freed)
        prepares = self.avatar_index.put_pod(uid, version, body)
        if prepares is not None:
            impact, job = prepares
            if job is not None and any(each.node or each.rejected for each in job.pods):
                freed = self.release_job(job.key).freed_gpus or freed
            return replace(impact, freed_gpus=freed)
        pod = parse_runtime_pod(body)
        owners = self.pods.release(uid) if pod is None else self.pods.put(uid, version, pod)
        return ChangeImpact(owners, freed_gpus=freed, pod=uid if owners else None)

    def _observe_deleted_pod(self, uid: str) -> ChangeImpact:
        freed = self._gpu_usage.drop(uid)
        if self.gateways.drop(uid) is not None:
            return ChangeImpact(freed_gpus=freed, gateway=uid)
        check = self._image_checks.drop(uid)
        if check is not None:
            return ChangeImpact((check.owner_uid,), freed_gpus=freed)
        prepares = self.avatar_index.drop_pod(uid)
        if prepares is not None:
            return replace(prepares, freed_gpus=freed)
        pod = self.pods.drop(uid)
        if pod is None:
            return ChangeImpact(freed_gpus=freed)
        return ChangeImpact((pod.owner_uid,), freed_gpus=freed, pod=uid)


def _job_key(job: ServiceKey) -> str:
    """Return the name of a reservation; the name of a pod contains only one slash."""
    return f"job/{job}"
