"""Reads what `kubectl get -o yaml` wrote and plans from it: nothing is asked of any cluster."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
from typing import TYPE_CHECKING, Final

import yaml

from avatar_operator import names
from avatar_operator.core import conditions, contracts, model, objects, planning, sizing
from avatar_operator.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

NO_IMAGE: Final = "avatar-musetalk/runtime"
"""The image decides nothing offline, except that a service may name another one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """The files of one plan, None where none was given."""

    service: Path
    nodes: Path
    profiles: Path | None  # None: the profiles that the chart ships
    state: Path | None  # pods, and documents of their /control/v1/state; None: no pod runs


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """A plan with what it was made for and what there is to say of it."""

    service: model.Service
    plan: planning.Plan
    findings: tuple[conditions.Finding, ...]


def plan(files: Files, now: float) -> Outcome:
    """Plan once from files.

    Raises:
        InputError: a file cannot be read or holds nothing of what it should.
        InvalidResource: a resource in it breaks its contract.
    """
    service = read_service(files.service)
    state = [] if files.state is None else _items("--state", files.state)
    pods = [item for item in state if item.get("kind") == "Pod"]
    runtime_pods = [pod for pod in map(objects.parse_runtime_pod, pods) if pod is not None]
    own = [pod for pod in runtime_pods if (pod.namespace, pod.service) == service.key]
    if not service.uid and own:  # a manifest that was never applied: the pods are of its namesake
        service = dataclasses.replace(service, uid=own[0].owner_uid)
    observed = planning.Observed(
        nodes=_nodes(files.nodes),
        uses=tuple(use for use in map(objects.parse_use, pods) if use is not None),
        profiles=read_profiles(files.profiles),
        pods=tuple(own),
        states=_states(own, state),
        has_control_secret=True,  # Secrets are no input, so nothing is said of them
        scene=sizing.Scene(),  # nor are callers: what is there stays
    )
    rules = planning.Rules(image=NO_IMAGE)
    made = planning.plan(service, observed, rules, now)
    return Outcome(service, made, conditions.find(service, made, observed.states))


def read_service(path: Path) -> model.Service:
    """Return the one service of a file.

    Raises:
        InputError: it cannot be read or holds another number of services.
        InvalidResource: the service breaks its contract.
    """
    services = _of_kind("--service", path, names.SERVICE_KIND)
    if len(services) != 1:
        fault = f"holds {len(services)} {names.SERVICE_KIND}, must hold exactly one"
        raise InputError("--service", str(path), fault)
    return contracts.parse_service(services[0])


def _nodes(path: Path) -> tuple[model.Node, ...]:
    return tuple(objects.parse_node(node) for node in _of_kind("--nodes", path, "Node"))


def read_profiles(path: Path | None) -> tuple[model.GPUProfile, ...]:
    """Return the profiles of a file, or (None) those that the chart ships.

    Raises:
        InputError: it cannot be read or holds none.
        InvalidResource: one breaks its contract.
    """
    if path is not None:
        bodies: Iterable[Mapping[str, object]] = _of_kind("--profiles", path, names.PROFILE_KIND)
    else:
        shipped = importlib.resources.files("avatar_operator").joinpath("gpu_profiles.json")
        specs = json.loads(shipped.read_text(encoding="utf-8"))
        bodies = [{"metadata": {"name": name}, "spec": spec} for name, spec in specs.items()]
    return tuple(map(contracts.parse_profile, bodies))


def _states(
    pods: Iterable[model.RuntimePod], items: Iterable[Mapping[str, object]]
) -> dict[str, model.PodState]:
    """Match state documents with pods; they are as fresh as the file claims them to be: now."""
    documents = {item["pod"]: item for item in items if "kind" not in item and "pod" in item}
    return {
        pod.uid: contracts.parse_state(documents[pod.name], 0.0)
        for pod in pods
        if pod.name in documents
    }


def _of_kind(option: str, path: Path, kind: str) -> list[Mapping[str, object]]:
    found = [item for item in _items(option, path) if item.get("kind") == kind]
    if not found:
        raise InputError(option, str(path), f"holds no {kind}")
    return found


def _items(option: str, path: Path) -> list[Mapping[str, object]]:
    """Return the objects of a YAML or JSON file: documents, and the items of lists."""
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(option, str(path), error.strerror or str(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(option, str(path), f"is no YAML: {error}") from error
    found: list[Mapping[str, object]] = []
    for document in documents:
        if document is None:
            continue
        items = document.get("items", [document]) if isinstance(document, dict) else document
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(option, str(path), "holds something that is no object")
        found += items
    return found
