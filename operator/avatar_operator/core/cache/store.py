"""Holds what was seen of the cluster, and says which services news of it concerns."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

from avatar_operator import names
from avatar_operator.core.cache.objects import Cache
from avatar_operator.core.gpus import inventory
from avatar_operator.core.planning import shared_reserve
from avatar_operator.core.resources.fields import Fields
from avatar_operator.core.resources.gateway import GatewayPod, parse_pod
from avatar_operator.core.resources.gpu_profile import GPUProfile, parse_profile
from avatar_operator.core.resources.node import Node, parse_node
from avatar_operator.core.resources.pod import PodUse, RuntimePod, parse_runtime_pod, parse_use
from avatar_operator.core.resources.service import ServiceKey, parse_service
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_Key = TypeVar("_Key")


class Kind(Enum):
    """The kinds of objects that are observed, by the names of their resources."""

    SERVICES = names.SERVICES
    PROFILES = names.PROFILES
    NODES = "nodes"
    PODS = "pods"


@dataclass(frozen=True, slots=True)
class ServiceBody:
    """What is kept of a service: its body to plan from, its status to compare with.

    Both are kept as the text that they came in, a quarter of what objects take: each
    is read once a plan, and there are thousands.
    """

    key: ServiceKey
    generation: int
    deleting: bool
    body_text: bytes
    status_text: bytes

    @property
    def body(self) -> Mapping[str, object]:
        """Metadata without what only the API server cares for, and spec: read anew each time."""
        return _read(self.body_text)

    @property
    def status(self) -> Mapping[str, object]:
        """The status, read anew each time."""
        return _read(self.status_text)


@dataclass(frozen=True, slots=True)
class ProfileBody:
    """What is kept of a profile besides its value: what its status is compared with."""

    name: str
    uid: str
    generation: int
    status: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class News:
    """What a change means to others."""

    services: tuple[str, ...] = ()  # UIDs of those that should look again
    renewed: str | None = None  # UID of a service whose spec is another one now
    everyone: bool = False  # all services should
    node: str = ""  # name of a node that changed or went: its pods' services should first of all
    freed: bool = False  # GPUs came free: services that wait for some should
    pod: str | None = None  # UID of a runtime pod that changed or went
    gateway: str | None = None  # UID of a gateway that changed or went
    gone: ServiceKey | None = None  # a service that was deleted
    fault: str = ""  # why an object is not used


class Observations:
    """The latest of every object that a plan depends on."""

    def __init__(self, watch_namespaces: Collection[str], namespace: str = "") -> None:
        self._namespace = namespace  # our own, where the gateways are
        self.gateways: Cache[GatewayPod] = Cache()
        self._watched = frozenset(watch_namespaces)
        self._profiles: Cache[GPUProfile | None] = Cache()  # None: it is invalid
        self._profile_bodies: Cache[ProfileBody] = Cache()
        self._nodes: Cache[Node] = Cache()
        self._uses: Cache[PodUse | None] = Cache()  # None: it uses no GPU (any more)
        self._node_classes = inventory.NodeClassCache()
        self._all_nodes: tuple[Node, ...] | None = None  # None once one changed
        self._all_profiles: tuple[GPUProfile, ...] | None = None
        self._all_uses: tuple[PodUse, ...] | None = None
        self._used: dict[tuple[str, str], PodUse] = {}  # added up, by node and class
        self._fleets: dict[ServiceKey, set[str]] = {}  # UIDs of pods, by their service
        self.services: Cache[ServiceBody] = Cache()
        self._uids: dict[ServiceKey, str] = {}  # of services
        self._owned: dict[str, set[str]] = {}  # UIDs of pods, by the UID of their service
        self._lent: dict[ServiceKey, set[str]] = {}  # UIDs, by whom they were taken over from
        self.reserve_groups = shared_reserve.ReserveGroups()
        self.pods: Cache[RuntimePod] = Cache()

    def observe(self, kind: Kind, body: Mapping[str, object]) -> News:
        """Take in an object from a watch, a listing, or the answer to a write."""
        metadata = Fields(body.get("metadata"), "metadata", [])
        uid, version = metadata.text("uid"), int(metadata.text("resourceVersion", "0"))
        if version and version == self._known_version(kind, uid):
            return News()  # an echo: of our own write, or of a listing
        match kind:
            case Kind.SERVICES:
                return self._see_service(uid, version, body)
            case Kind.PROFILES:
                return self._see_profile(uid, version, body)
            case Kind.NODES:
                node = parse_node(body)
                if not self._nodes.put(uid, version, node):
                    return News()
                self._all_nodes = None
                return News(everyone=True, node=node.name)
        return self._see_pod(uid, version, body)

    def forget(self, kind: Kind, uid: str) -> News:
        """Let go of an object that was deleted."""
        match kind:
            case Kind.SERVICES:
                service = self.services.drop(uid)
                if service is None:
                    return News()
                if self._uids.get(service.key) == uid:
                    del self._uids[service.key]
                others = self.reserve_groups.put(uid, service.key.namespace, None)
                return News(others, gone=service.key)
            case Kind.PROFILES:
                self._profile_bodies.drop(uid)
                self._all_profiles = None
                return News(everyone=self._profiles.drop(uid) is not None)
            case Kind.NODES:
                self._all_nodes = None
                gone = self._nodes.drop(uid)
                return News() if gone is None else News(everyone=True, node=gone.name)
        before = self._uses.drop(uid)
        self._add_up(before, None)
        freed = before is not None
        if self.gateways.drop(uid) is not None:
            return News(freed=freed, gateway=uid)
        pod = self.pods.drop(uid)
        if pod is None:
            return News(freed=freed)
        self._leave(pod)
        return News((pod.owner_uid,), freed=freed, pod=uid)

    def _known_version(self, kind: Kind, uid: str) -> int | None:
        """Return in which version an object of the many kinds is known, if it is."""
        match kind:
            case Kind.SERVICES:
                return self.services.version(uid)
            case Kind.PODS:
                return self.pods.version(uid)
        return None

    def known(self, kind: Kind) -> frozenset[str]:
        """Return the UIDs of all objects of a kind; what a later listing lacks is gone."""
        match kind:
            case Kind.SERVICES:
                return frozenset(self.services.uids())
            case Kind.PROFILES:
                return frozenset(self._profiles.uids())
            case Kind.NODES:
                return frozenset(self._nodes.uids())
        pods = (*self._uses.uids(), *self.pods.uids(), *self.gateways.uids())
        return frozenset(pods)

    def uid_of(self, key: ServiceKey) -> str | None:
        """Return the UID of the service of a name, None if there is none."""
        return self._uids.get(key)

    def nodes(self) -> tuple[Node, ...]:
        """Return all nodes."""
        if self._all_nodes is None:
            self._all_nodes = tuple(self._nodes.values())
        return self._all_nodes

    def profiles(self) -> tuple[GPUProfile, ...]:
        """Return all valid profiles, by name."""
        if self._all_profiles is None:
            valid = (profile for profile in self._profiles.values() if profile is not None)
            self._all_profiles = tuple(sorted(valid, key=lambda profile: profile.name))
        return self._all_profiles

    def profile_body(self, name: str) -> ProfileBody | None:
        """Return what else is known of a profile."""
        return next((body for body in self._profile_bodies.values() if body.name == name), None)

    def uses(self) -> tuple[PodUse, ...]:
        """Return what the pods of the cluster take of the GPUs, added up by node and class."""
        if self._all_uses is None:
            self._all_uses = tuple(self._used.values())
        return self._all_uses

    def node_class_cache(self) -> inventory.NodeClassCache:
        """Return what is known of the classes of nodes, to be kept from plan to plan."""
        return self._node_classes

    def pods_of(self, key: ServiceKey) -> tuple[RuntimePod, ...]:
        """Return the runtime pods that carry the name of a service."""
        found = (self.pods.get(uid) for uid in self._fleets.get(key, ()))
        return tuple(pod for pod in found if pod is not None)

    def names_elsewhere(self, key: ServiceKey) -> frozenset[str]:
        """Return the names of pods that were made for a service, and that another took over."""
        found = (self.pods.get(uid) for uid in self._lent.get(key, ()))
        return frozenset(pod.name for pod in found if pod is not None)

    def owned_by(self, uid: str) -> tuple[RuntimePod, ...]:
        """Return the runtime pods whose owner is exactly this service, be it there or gone."""
        found = (self.pods.get(pod) for pod in self._owned.get(uid, ()))
        return tuple(pod for pod in found if pod is not None)

    def _add_up(self, before: PodUse | None, after: PodUse | None) -> None:
        self._all_uses = None
        for use, sign in ((before, -1), (after, 1)):
            if use is None:
                continue
            key = (use.node, use.gpu_class)
            taken = Counter(_counts(self._used.get(key)))
            for resource, count in _counts(use).items():
                taken[resource] += sign * count
            if any(taken.values()):
                self._used[key] = _use(*key, taken)  # the others stay the objects they are
            else:
                self._used.pop(key, None)

    def _see_service(self, uid: str, version: int, body: Mapping[str, object]) -> News:
        metadata = Fields(body.get("metadata"), "metadata", [])
        key = ServiceKey(metadata.text("namespace"), metadata.text("name"))
        if self._watched and key.namespace not in self._watched:
            return News()
        generation = metadata.integer("generation", 0, 0, 2**63)
        identity = {"name": key.name, "namespace": key.namespace, "uid": uid}
        annotations = {
            name: value
            for name, value in metadata.strings("annotations").items()
            if name.startswith(f"{names.GROUP}/")
        }
        metadata_kept = {**identity, "generation": generation, "annotations": annotations}
        seen = ServiceBody(
            key=key,
            generation=generation,
            deleting=metadata.has("deletionTimestamp"),
            body_text=_text({"metadata": metadata_kept, "spec": body.get("spec")}),
            status_text=_text(Fields(body, "", []).fragment("status")),
        )
        old = self.services.get(uid)
        if not self.services.put(uid, version, seen):
            return News()
        self._uids[key] = uid
        renewed = None if old and old.generation == generation else uid
        return News((uid, *self._see_sharing(uid, old, seen)), renewed=renewed)

    def _see_sharing(self, uid: str, old: ServiceBody | None, seen: ServiceBody) -> tuple[str, ...]:
        """Take in whether a service shares its reserve; return the others that it concerns."""
        if old and (old.body_text, old.deleting) == (seen.body_text, seen.deleting):
            return ()
        member = None
        if _SHARES in seen.body_text and not seen.deleting:  # few do, so few are parsed
            try:
                member = shared_reserve.as_member(parse_service(seen.body))
            except InvalidResource:
                member = None  # its own plan says so
        return self.reserve_groups.put(uid, seen.key.namespace, member)

    def _see_profile(self, uid: str, version: int, body: Mapping[str, object]) -> News:
        profile, fault = None, ""
        try:
            profile = parse_profile(body)
        except InvalidResource as error:
            fault = str(error)
        metadata = Fields(body.get("metadata"), "metadata", [])
        generation = metadata.integer("generation", 0, 0, 2**63)
        status = Fields(body, "", []).fragment("status")
        known = ProfileBody(metadata.text("name"), uid, generation, status)
        self._profile_bodies.put(uid, version, known)
        changed = self._profiles.put(uid, version, profile)
        if changed:
            self._all_profiles = None
        return News(everyone=changed, fault=fault if changed else "")

    def _see_pod(self, uid: str, version: int, body: Mapping[str, object]) -> News:
        use = parse_use(body)
        before = self._uses.get(uid)
        changed = (use or before) is not None and self._uses.put(uid, version, use)
        if changed:
            self._add_up(before, use)
        freed = changed and use is None
        gateway = parse_pod(body, self._namespace)
        if gateway is not None:
            news = self.gateways.put(uid, version, gateway)
            return News(freed=freed, gateway=uid if news else None)
        pod = parse_runtime_pod(body)
        known = self.pods.get(uid)
        if pod is None or not self.pods.put(uid, version, pod):
            return News(freed=freed)
        owners = {pod.owner_uid: None}  # each once, in order
        if known is not None:
            self._leave(known)
            owners[known.owner_uid] = None
        self._fleets.setdefault(_key(pod), set()).add(uid)
        self._owned.setdefault(pod.owner_uid, set()).add(uid)
        if pod.made_for:
            self._lent.setdefault(pod.origin, set()).add(uid)
        return News(tuple(owners), freed=freed, pod=uid)

    def _leave(self, pod: RuntimePod) -> None:
        """Take a pod out of the indexes, as it was known last."""
        _discard(self._fleets, _key(pod), pod.uid)
        _discard(self._owned, pod.owner_uid, pod.uid)
        if pod.made_for:
            _discard(self._lent, pod.origin, pod.uid)


_SHARES: Final = b'"sharedReserve":true'


def _text(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _read(text: bytes) -> Mapping[str, object]:
    document = json.loads(text)
    assert isinstance(document, dict)
    return document


def _counts(use: PodUse | None) -> dict[str, int]:
    return {} if use is None else {names.GPU_RESOURCE: use.gpus, **dict(use.others)}


def _use(node: str, gpu_class: str, taken: Mapping[str, int]) -> PodUse:
    others = ((name, count) for name, count in taken.items() if name != names.GPU_RESOURCE)
    some = tuple((name, count) for name, count in others if count)
    return PodUse(node, taken.get(names.GPU_RESOURCE, 0), gpu_class, some)


def _discard(index: dict[_Key, set[str]], key: _Key, uid: str) -> None:
    uids = index[key]
    uids.discard(uid)
    if not uids:
        del index[key]


def _key(pod: RuntimePod) -> ServiceKey:
    return ServiceKey(pod.namespace, pod.service)
