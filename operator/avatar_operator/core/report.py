"""Writes a plan down for people and programs: what `avatar-operator plan` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_operator.core import model, planning
from avatar_operator.core.batch import NoBatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_operator.core.conditions import Finding
    from avatar_operator.core.pools import Pool


def document(
    service: model.Service, plan: planning.Plan, findings: Sequence[Finding]
) -> Mapping[str, object]:
    """Return the plan as JSON data; the shape is a contract with users' scripts."""
    return {
        "service": str(service.key),
        "pools": [_pool(plan, pool) for pool in plan.pools],
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
                "status": str(finding.status),
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


def text(service: model.Service, plan: planning.Plan, findings: Sequence[Finding]) -> str:
    """Return the plan as a few tables."""
    data = document(service, plan, findings)
    sections = [
        (
            "pools",
            ("gpuClass", "batchSize", "sessionsPerPod", "replicas", "limitedBy", "reason"),
        ),
        ("actions", ("kind", "name", "gpuClass", "reason")),
        ("conditions", ("type", "status", "reason", "message")),
        ("nodes", ("node", "gpuClass", "resource", "gpus", "free", "reason")),
    ]
    lines = [f"service {service.key}: {plan.desired} pods wanted"]
    for title, columns in sections:
        rows = data[title]
        assert isinstance(rows, list)
        lines += ["", title.upper()]
        lines += _table(columns, rows) if rows else ["none"]
    return "\n".join(lines)


def _pool(plan: planning.Plan, pool: Pool) -> Mapping[str, object]:
    """Describe a class as it will be once the actions are done."""
    gone = {a.uid for a in plan.actions if isinstance(a, planning.DrainPod | planning.DeletePod)}
    classes = [pod.gpu_class for pod in plan.fleet.live if pod.uid not in gone]
    classes += [action.gpu_class for action in plan.coming]
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
