from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.cli import plan as command
from avatar_operator.cli.plan import plan_document, plan_text
from avatar_operator.core.status import conditions
from avatar_operator.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.operator.conftest import Make, Scenario, Scenarios


def document(scenario: Scenario) -> Any:
    plan = scenario.plan()
    return plan_document(
        scenario.service, plan, conditions.find(scenario.service, plan, scenario.states)
    )


def test_the_document_has_its_fixed_shape(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    found = document(scenario)
    assert list(found) == ["service", "pools", "actions", "conditions", "nodes"]
    assert found["service"] == "acme/concierge"
    (pool,) = found["pools"]
    assert list(pool) == [
        "gpuClass",
        "batchSize",
        "sessionsPerPod",
        "replicas",
        "limitedBy",
        "reason",
    ]
    assert (pool["replicas"], pool["limitedBy"]) == (1, "knee")
    assert found["actions"] == [
        {
            "kind": "CreatePod",
            "name": f"concierge-{scenario.hash[:5]}-0",
            "gpuClass": "rtx-4090",
            "reason": "0 of 1 pods exist, rtx-4090 has 2 of 2 GPUs free",
        }
    ]
    assert list(found["conditions"][0]) == ["type", "status", "reason", "message"]
    assert found["nodes"] == [
        {
            "node": "n1",
            "gpuClass": "rtx-4090",
            "resource": "nvidia.com/gpu",
            "gpus": 2,
            "free": 2,
            "reason": "",
        }
    ]


def test_pools_count_the_pods_that_stay(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(1))
    scenario.add("p1", make.state(0))
    assert document(scenario)["pools"][0]["replicas"] == 1


def test_a_class_that_cannot_serve_says_why(scenarios: Scenarios) -> None:
    (pool,) = document(scenarios(replicas=1, batchSize=64))["pools"]
    assert (pool["batchSize"], pool["limitedBy"]) == (0, None)
    assert "spec.batchSize is 64" in pool["reason"]


def test_the_text_says_the_same(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1, batchSize=64)
    plan = scenario.plan()
    text = plan_text(scenario.service, plan, conditions.find(scenario.service, plan, {}))
    assert text.startswith("service acme/concierge: wants 1 pod\n\nPOOLS\ngpuClass")
    assert "ACTIONS\nnone" in text
    assert "NoBatchFits" in text
    assert text.endswith("\nn1    rtx-4090  nvidia.com/gpu  2     2     -")
    assert not any(line.endswith(" ") for line in text.splitlines())


def planned(folder: Path, make: Make, tenants: list[Any], **spec: Any) -> command.Outcome:
    paths = {}
    for name, items in {
        "service": [make.service_body(**spec)],
        "nodes": [make.node_body(gpus=8)],
        "profiles": [make.profile_body()],
        "tenants": tenants,
    }.items():
        paths[name] = folder / f"{name}.json"
        paths[name].write_text(json.dumps({"kind": "List", "items": items}))
    files = command.Files(
        paths["service"], paths["nodes"], paths["profiles"], None, paths["tenants"]
    )
    return command.plan(files, 10_000.0)


def test_the_quota_of_a_tenant_is_planned_from_its_file(tmp_path: Path, make: Make) -> None:
    tenant = make.tenant_body(
        access={"namespaceSelector": {"matchLabels": {"plan": "paid"}}}, limits={"gpus": 2}
    )
    namespace = make.namespace_body("acme", plan="paid")
    found = planned(tmp_path, make, [tenant, namespace], replicas=5)
    assert found.plan.desired == 2
    assert "TenantQuota" in [finding.reason.value for finding in found.findings]
    assert planned(tmp_path, make, [tenant], replicas=5).plan.desired == 5  # nothing matches


def test_a_file_without_a_tenant_is_an_error(tmp_path: Path, make: Make) -> None:
    with pytest.raises(InputError, match="contains no AvatarTenant"):
        planned(tmp_path, make, [make.namespace_body("acme")])


def test_a_file_of_nodes_may_hold_what_dra_drivers_publish(tmp_path: Path, make: Make) -> None:
    node = make.node_body("n1", gpus=0)
    node["metadata"]["labels"] = {}
    pool = {"name": "n1", "generation": 1, "resourceSliceCount": 1}
    devices = [
        {
            "name": f"gpu-{minor}",
            "attributes": {
                "type": {"string": "gpu"},
                "productName": {"string": "NVIDIA GeForce RTX 4090"},
            },
            "capacity": {"memory": {"value": "24564Mi"}},
        }
        for minor in range(3)
    ]
    published = {"driver": "gpu.nvidia.com", "nodeName": "n1", "pool": pool, "devices": devices}
    result = {"driver": "gpu.nvidia.com", "pool": "n1", "device": "gpu-1"}
    items = [
        node,
        {"kind": "ResourceSlice", "metadata": {"name": "s"}, "spec": published},
        {"kind": "DeviceClass", "metadata": {"name": "gpu.nvidia.com"}},
        {
            "kind": "ResourceClaim",
            "metadata": {"name": "theirs", "namespace": "globex"},
            "status": {"allocation": {"devices": {"results": [result]}}},
        },
    ]
    nodes, service = tmp_path / "nodes.json", tmp_path / "service.json"
    nodes.write_text(json.dumps({"kind": "List", "items": items}))
    service.write_text(json.dumps(make.service_body(replicas=1)))
    outcome = command.plan(command.Files(service, nodes, None, None), 10_000.0)
    found: Any = plan_document(outcome.service, outcome.plan, outcome.findings)
    (row,) = found["nodes"]
    assert (row["gpuClass"], row["gpus"], row["free"]) == ("rtx-4090", 3, 2)
    (create,) = outcome.plan.new_pods
    assert create.gpu_class == "rtx-4090"
