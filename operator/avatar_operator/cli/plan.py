"""`avatar-operator plan`: plans once from files that `kubectl get -o yaml` wrote, offline."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import yaml

from avatar_contracts import packaged_files
from avatar_operator import names
from avatar_operator.core import text
from avatar_operator.core.autoscaling import inputs
from avatar_operator.core.cache.device_index import DeviceIndex
from avatar_operator.core.cache.tenant_index import TenantIndex
from avatar_operator.core.gpus.batch_size import NoBatch
from avatar_operator.core.planning import planner, quotas
from avatar_operator.core.resources.devices import parse_claim, parse_device_class, parse_slice
from avatar_operator.core.resources.gpu_profile import GPUProfile, parse_profile
from avatar_operator.core.resources.node import Node, parse_node
from avatar_operator.core.resources.pod import RuntimePod, parse_runtime_pod, parse_use
from avatar_operator.core.resources.service import Service, parse_service
from avatar_operator.core.resources.state import PodState, parse_state
from avatar_operator.core.resources.tenant import Tenant, parse_tenant
from avatar_operator.core.status import conditions
from avatar_operator.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.status.findings import Finding

NO_IMAGE: Final = "avatar-musetalk/runtime"
"""Image of services that name none; it has no effect on a plan from files."""


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """The input files of one plan."""

    service: Path
    nodes: Path
    profiles: Path | None
    """None: the profiles of the chart."""
    state: Path | None
    """Pods, and documents of their /control/v1/state; None: no pod exists."""
    tenants: Path | None = None
    """AvatarTenants, and the Namespaces and other AvatarServices of the cluster; None: none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """A plan with its service and its conditions."""

    service: Service
    plan: planner.Plan
    findings: tuple[Finding, ...]
    knows_pods: bool
    """Whether the files contain pods; without any, every GPU counts as free."""


def plan(files: Files, now: float) -> Outcome:
    """Plan once from files; `now` is in seconds since 1970.

    Raises:
        InputError: a file cannot be read or lacks the expected objects.
        InvalidResource: an object is invalid.
    """
    service = read_service(files.service)
    state = [] if files.state is None else _items("--state", files.state)
    pods = [item for item in state if item.get("kind") == "Pod"]
    runtime_pods = [pod for pod in map(parse_runtime_pod, pods) if pod is not None]
    own = [pod for pod in runtime_pods if (pod.namespace, pod.service) == service.key]
    if not service.uid and own:  # the manifest was never applied: its name selects the pods
        service = dataclasses.replace(service, uid=own[0].owner_uid)
    nodes, devices = _nodes(files.nodes)
    observed = planner.Observed(
        nodes=nodes,
        uses=(*(use for use in map(parse_use, pods) if use is not None), *devices.uses()),
        profiles=read_profiles(files.profiles),
        pods=tuple(own),
        states=_states(own, state),
        has_control_secret=True,  # Secrets are not an input, so no action for them is planned
        scaling_context=inputs.ScalingContext(),  # callers are not an input, so existing pods stay
        tenant=_terms(files, service, runtime_pods),
    )
    # Keys are not an input either: the newest pod counts as a pod of the current key.
    newest = max(own, key=lambda pod: pod.created_at, default=None)
    generation = "" if newest is None else newest.key_generation
    options = planner.Options(image=NO_IMAGE, key_generation=generation)
    made = planner.plan(service, observed, options, now)
    findings = conditions.find(service, made, observed.states)
    return Outcome(service, made, findings, knows_pods=bool(pods))


def _terms(files: Files, service: Service, pods: Iterable[RuntimePod]) -> quotas.TenantTerms | None:
    """Return the terms of the tenant that the service belongs to.

    The wishes of its other services are not an input, so that they keep the pods that they have.
    """
    if files.tenants is None:
        return None
    items = _items("--tenants", files.tenants)
    _require("--tenants", files.tenants, items, names.TENANT_KIND)
    parsed = {}
    index = TenantIndex()
    for number, item in enumerate(items):
        match item.get("kind"):
            case names.TENANT_KIND:
                parse_tenant(item)  # a wrong one is an error here
                index.put_tenant(f"tenant {number}", 1, item)
            case "Namespace":
                index.put_namespace(f"namespace {number}", 1, item)
            case names.SERVICE_KIND:
                other = parse_service(item)
                parsed[other.key] = other
    parsed[service.key] = service
    for each in parsed.values():
        index.put_service(str(each.key), each.key, each.labels, each.tenants)
    tenant = index.owner(str(service.key))
    if tenant is None:
        return None
    keys = [index.key(uid) for uid in index.owned(tenant.name)]
    return _tenant_terms(files, tenant, service, [parsed[key] for key in keys], tuple(pods))


def _tenant_terms(
    files: Files,
    tenant: Tenant,
    service: Service,
    owned: Sequence[Service],
    pods: Sequence[RuntimePod],
) -> quotas.TenantTerms:
    prices = {each.name: each.cost_per_hour for each in read_profiles(files.profiles)}
    members = []
    for each in owned:
        own = [p for p in pods if (p.namespace, p.service) == each.key and not p.ended]
        costs = tuple(prices.get(pod.gpu_class) or Decimal(0) for pod in own)
        wanted = max(len(own), each.desired_replicas) if each is service else len(own)
        members.append(quotas.Member(each.key, wanted, costs, locked=len(own)))
    index = next(i for i, each in enumerate(owned) if each is service)
    share = quotas.share_of(index, members, tenant.quota) if tenant.quota else None
    return quotas.TenantTerms(
        tenant.name, tenant.weight, tenant.priority, tenant.gpu_classes, share
    )


def read_service(path: Path) -> Service:
    """Return the service of a file.

    Raises:
        InputError: the file cannot be read or does not contain exactly one service.
        InvalidResource: the service is invalid.
    """
    services = _of_kind("--service", path, names.SERVICE_KIND)
    if len(services) != 1:
        fault = f"contains {len(services)} {names.SERVICE_KIND}, must contain exactly one"
        raise InputError("--service", str(path), fault)
    return parse_service(services[0])


def _nodes(path: Path) -> tuple[tuple[Node, ...], DeviceIndex]:
    """Return the nodes of a file, and what DRA drivers publish of them.

    `kubectl get nodes,resourceslices,resourceclaims,deviceclasses -A -o yaml` writes such a file.
    """
    items = _items("--nodes", path)
    _require("--nodes", path, items, "Node")
    devices = DeviceIndex()
    for number, item in enumerate(items):
        uid = f"object {number}"
        match item.get("kind"):
            case "ResourceSlice":
                devices.put_slice(uid, 1, parse_slice(item))
            case "ResourceClaim":
                devices.put_claim(uid, 1, parse_claim(item))
            case "DeviceClass":
                devices.put_class(uid, 1, parse_device_class(item))
    parsed = (parse_node(item) for item in items if item.get("kind") == "Node")
    groups = devices.groups()
    nodes = (dataclasses.replace(node, devices=groups.get(node.name, ())) for node in parsed)
    return tuple(nodes), devices


def read_profiles(path: Path | None) -> tuple[GPUProfile, ...]:
    """Return the profiles of a file, or those of the chart if it is None.

    Raises:
        InputError: the file cannot be read or contains no profile.
        InvalidResource: a profile is invalid.
    """
    if path is not None:
        bodies: Iterable[Mapping[str, object]] = _of_kind("--profiles", path, names.PROFILE_KIND)
    else:
        specs = packaged_files.gpu_profiles()
        bodies = [{"metadata": {"name": name}, "spec": spec} for name, spec in specs.items()]
    return tuple(map(parse_profile, bodies))


def _states(
    pods: Iterable[RuntimePod], items: Iterable[Mapping[str, object]]
) -> dict[str, PodState]:
    """Return the states by UID of the pod; a state in a file counts as fresh."""
    documents = {item["pod"]: item for item in items if "kind" not in item and "pod" in item}
    return {pod.uid: parse_state(documents[pod.name], 0.0) for pod in pods if pod.name in documents}


def _of_kind(option: str, path: Path, kind: str) -> list[Mapping[str, object]]:
    found = [item for item in _items(option, path) if item.get("kind") == kind]
    _require(option, path, found, kind)
    return found


def _require(option: str, path: Path, items: Sequence[Mapping[str, object]], kind: str) -> None:
    if not any(item.get("kind") == kind for item in items):
        raise InputError(option, str(path), f"contains no {kind}")


def _items(option: str, path: Path) -> list[Mapping[str, object]]:
    """Return the objects of a YAML or JSON file: its documents and the items of lists."""
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(option, str(path), error.strerror or str(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(option, str(path), f"is not YAML: {error}") from error
    found: list[Mapping[str, object]] = []
    for document in documents:
        if document is None:
            continue
        items = document.get("items", [document]) if isinstance(document, dict) else document
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(option, str(path), "contains an item that is not an object")
        found += items
    return found


def plan_document(
    service: Service, plan: planner.Plan, findings: Sequence[Finding]
) -> Mapping[str, object]:
    """Return the plan as JSON data; scripts of users rely on its shape."""
    return {
        "service": str(service.key),
        "pools": [_pool_row(plan, pool) for pool in plan.pools],
        "actions": [
            {
                "kind": type(action).__name__,
                "name": action.name,
                "gpuClass": action.gpu_class,
                "reason": action.reason,
            }
            for action in plan.actions
        ],
        "conditions": [
            {
                "type": finding.condition.value,
                "status": finding.status_text,
                "reason": finding.reason.value,
                "message": finding.message,
            }
            for finding in findings
        ],
        "nodes": [
            {
                "node": row.node,
                "gpuClass": row.gpu_class,
                "resource": row.resource,
                "gpus": row.total,
                "free": row.free,
                "reason": row.reason,
            }
            for row in plan.inventory.nodes
        ],
    }


def plan_text(service: Service, plan: planner.Plan, findings: Sequence[Finding]) -> str:
    """Return the plan as tables."""
    data = plan_document(service, plan, findings)
    sections = [
        (
            "pools",
            ("gpuClass", "batchSize", "sessionsPerPod", "replicas", "limitedBy", "reason"),
        ),
        ("actions", ("kind", "name", "gpuClass", "reason")),
        ("conditions", ("type", "status", "reason", "message")),
        ("nodes", ("node", "gpuClass", "resource", "gpus", "free", "reason")),
    ]
    lines = [f"service {service.key}: wants {text.count(plan.desired, 'pod')}"]
    for title, columns in sections:
        rows = data[title]
        assert isinstance(rows, list)
        lines += ["", title.upper()]
        lines += _table(columns, rows) if rows else ["none"]
    return "\n".join(lines)


def _pool_row(plan: planner.Plan, pool: Pool) -> Mapping[str, object]:
    """Describe a GPU class as it will be after the actions."""
    leaving = {a.uid for a in plan.actions if isinstance(a, planner.DrainPod | planner.DeletePod)}
    classes = [pod.gpu_class for pod in plan.fleet.live if pod.uid not in leaving]
    classes += [action.gpu_class for action in plan.new_pods]
    replicas = classes.count(pool.gpu_class)
    if isinstance(pool.outcome, NoBatch):
        return {
            "gpuClass": pool.gpu_class,
            "batchSize": 0,
            "sessionsPerPod": 0,
            "replicas": replicas,
            "limitedBy": None,
            "reason": pool.outcome.reason,
        }
    free = f"{pool.stock.free} free of {pool.stock.total} GPUs"
    return {
        "gpuClass": pool.gpu_class,
        "batchSize": pool.outcome.batch_size,
        "sessionsPerPod": pool.outcome.sessions_per_pod,
        "replicas": replicas,
        "limitedBy": pool.outcome.limited_by.value,
        "reason": f"{pool.outcome.reason}; {free}",
    }


def _table(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> list[str]:
    cells = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _cell(value: object) -> str:
    return "-" if value in (None, "") else str(value)
