"""Pods that get their GPU by a claim, and the template of the claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avatar_operator.core.gpus import inventory
from avatar_operator.core.gpus.pools import rank
from avatar_operator.core.manifests.claim_template import claim_template, selector, template_name
from avatar_operator.core.manifests.pod import PodSettings, runtime_pod
from avatar_operator.core.planning.actions import CreatePod
from avatar_operator.core.resources.devices import DeviceGroup
from avatar_operator.core.resources.placement import Placement
from avatar_operator.core.resources.pod import PodUse
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make, Scenarios

    from avatar_operator.core.gpus.inventory import Inventory

CARD = DeviceGroup("gpu.nvidia.com", "NVIDIA GeForce RTX 4090", "", 24564, 2)


def counted(make: Make, *uses: PodUse, **node: Any) -> Inventory:
    bare = {"labels": {}, "gpus": 0, "devices": (CARD,), **node}
    nodes = [make.node(**bare)]
    return inventory.count_free(nodes, uses, [make.profile()], Placement())


def test_devices_of_a_driver_are_a_stock_like_any_other(make: Make) -> None:
    stock = counted(make).stocks["rtx-4090"]
    assert (stock.total, stock.free, stock.memory_mib) == (2, 2, 24564)
    assert (stock.resource, stock.selectors) == ("gpu.nvidia.com", ())
    claimed = PodUse.of("n1", "", {CARD.key: 1})
    coming = PodUse.of("", "rtx-4090", {"gpu": 1})
    assert counted(make, claimed).stocks["rtx-4090"].free == 1
    assert counted(make, claimed, coming).stocks["rtx-4090"].free == 0
    # A bridged pod requests nvidia.com/gpu on this node; only its claim counts.
    assert counted(make, claimed, PodUse("n1", 1, "")).stocks["rtx-4090"].free == 1


def test_nodes_of_a_plugin_and_of_a_driver_are_not_mixed_in_one_class(make: Make) -> None:
    plugged = make.node("n2", gpus=3)
    claimed = make.node("n1", labels={}, gpus=0, devices=(CARD,))
    found = inventory.count_free([claimed, plugged], (), [make.profile()], Placement())
    stock = found.stocks["rtx-4090"]
    assert (stock.resource, stock.total, stock.devices) == ("nvidia.com/gpu", 3, ())
    assert dict(found.left_out)["n1"].endswith(
        "most GPUs of rtx-4090 are offered as nvidia.com/gpu"
    )


def test_the_claim_selects_exactly_the_counted_devices(make: Make) -> None:
    stock = counted(make).stocks["rtx-4090"]
    assert selector(stock) == (
        '(device.attributes["gpu.nvidia.com"].productName == "NVIDIA GeForce RTX 4090" && '
        'device.capacity["gpu.nvidia.com"].memory.compareTo(quantity("24564Mi")) >= 0 && '
        'device.capacity["gpu.nvidia.com"].memory.compareTo(quantity("24565Mi")) < 0)'
    )
    quoted = DeviceGroup("gpu.nvidia.com", 'x" || true || "', "", None, 1)
    assert selector(counted(make, devices=()).stocks["rtx-4090"]) == ""
    body = claim_template(make.service(), stock, template_name("concierge", stock))
    (request,) = body["spec"]["spec"]["devices"]["requests"]  # type: ignore[index]
    assert request["exactly"]["deviceClassName"] == "gpu.nvidia.com"
    assert '\\"' in selector(_with(stock, quoted))


def _with(stock: inventory.ClassStock, group: DeviceGroup) -> inventory.ClassStock:
    return inventory.ClassStock("c", 1, 1, 1, (), "gpu.nvidia.com", (group,))


def test_a_template_of_other_devices_has_another_name(make: Make) -> None:
    stock = counted(make).stocks["rtx-4090"]
    other = _with(stock, DeviceGroup("gpu.nvidia.com", "NVIDIA L4", "", 23034, 1))
    assert template_name("s", stock) == template_name("s", stock)
    assert template_name("s", stock) != template_name("s", other)
    assert len(template_name("s", stock)) < 63


def test_a_pod_has_a_claim_and_no_affinity(make: Make) -> None:
    service = make.service(replicas=1)
    (pool,) = rank(service, [make.profile()], counted(make), 0.9)
    settings = PodSettings("image", "IfNotPresent", ())
    body = runtime_pod(
        service, "p0", pool, settings, "control", template_of_claim="concierge-rtx-4090-1"
    )
    spec: Any = body["spec"]
    assert spec["resourceClaims"] == [
        {"name": "gpu", "resourceClaimTemplateName": "concierge-rtx-4090-1"}
    ]
    (container,) = spec["containers"]
    assert container["resources"]["claims"] == [{"name": "gpu"}]
    assert not any("nvidia" in name for name in container["resources"]["requests"])
    assert "affinity" not in spec


def test_a_planned_pod_counts_as_a_claim(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.nodes = [make.node(labels={}, gpus=0, devices=(CARD,))]
    (create,) = (each for each in scenario.plan().actions if isinstance(each, CreatePod))
    assert create.because is Reason.SCALING_UP
    assert create.gpu_use == PodUse.of("", "rtx-4090", {"gpu": 1})
    assert create.gpu_use.is_claim
