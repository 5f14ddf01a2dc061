from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from avatar_operator.core.gpus import inventory, pools
from avatar_operator.core.gpus.batch_size import BatchPlan, LimitedBy, NoBatch
from avatar_operator.core.resources.gpu_profile import Calibration, Device

if TYPE_CHECKING:
    from tests.operator.conftest import Make

    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.service import Service


def rank(service: Service, profiles: tuple[GPUProfile, ...]) -> tuple[pools.Pool, ...]:
    stock = inventory.count_free([], [], profiles, service.placement)
    return pools.rank(service, profiles, stock, 0.9)


def order(service: Service, profiles: tuple[GPUProfile, ...]) -> list[str]:
    return [pool.gpu_class for pool in rank(service, profiles)]


def test_the_preferred_order_is_that_of_the_list(make: Make) -> None:
    service = make.service(placement={"gpuClasses": ["l40s", "rtx-4090", "h100-80gb"]})
    assert order(service, make.shipped()) == ["l40s", "rtx-4090", "h100-80gb"]


def test_the_fastest_class_comes_first(make: Make) -> None:
    placement = {"gpuClasses": ["rtx-4090", "a100-80gb", "h100-80gb"], "strategy": "fastest"}
    assert order(make.service(placement=placement), make.shipped())[0] == "h100-80gb"


@pytest.mark.parametrize("strategy", ["cheapest", "preferred", "fastest"])
def test_classes_without_a_node_come_last_unless_the_service_lists_them(
    make: Make, strategy: str
) -> None:
    profiles = make.shipped()
    listed = make.service(placement={"strategy": strategy, "gpuClasses": ["b200", "rtx-4090"]})
    anything = make.service(placement={"strategy": strategy})
    nodes = [make.node()]  # an rtx-4090
    for service, first in ((anything, "rtx-4090"), (listed, "b200")):
        stock = inventory.count_free(nodes, [], profiles, service.placement)
        assert pools.rank(service, profiles, stock, 0.9)[0].gpu_class == first


@pytest.mark.parametrize("strategy", ["cheapest", "preferred"])
def test_without_a_list_the_price_of_a_session_decides(make: Make, strategy: str) -> None:
    fast = [[1, 1.0], [64, 64.0]]
    slow = [[1, 10.0], [64, 640.0]]
    curve = {"model": "v15/sd-vae/fp16", "baseMiB": 1, "perFrameMiB": 1, "source": "measured"}
    profiles = (
        make.profile("dear", costPerHour="9", curves=[{**curve, "frameBatchMs": slow}]),
        make.profile("free", curves=[{**curve, "frameBatchMs": fast}]),
        make.profile("good", costPerHour="9", curves=[{**curve, "frameBatchMs": fast}]),
    )
    service = make.service(placement={"strategy": strategy})
    assert order(service, profiles) == ["good", "dear", "free"]


def test_classes_that_cannot_serve_come_last_with_their_reason(make: Make) -> None:
    classes = ["gone", "h100-80gb", "rtx-4090"]
    service = make.service(placement={"gpuClasses": classes}, batchSize=64)
    profiles = tuple(p for p in make.shipped() if p.name != "gone")
    ranked = rank(service, profiles)
    assert [(pool.gpu_class, pool.can_serve) for pool in ranked] == [
        ("h100-80gb", True),
        ("gone", False),
        ("rtx-4090", False),
    ]
    assert ranked[1].outcome == NoBatch("there is no GPUProfile gone")
    assert isinstance(ranked[0].outcome, BatchPlan)
    assert ranked[0].outcome.limited_by is LimitedBy.FIXED


def test_a_class_without_a_curve_of_the_model_cannot_serve(make: Make) -> None:
    (pool,) = rank(make.service(model={"precision": "fp32"}), (make.profile(),))
    assert pool.outcome == NoBatch("GPUProfile rtx-4090 has no curve for v15/sd-vae/fp32")


def test_a_measured_class_is_planned_by_what_was_measured(make: Make) -> None:
    given = make.profile()
    slow = replace(given.curves[0], frame_batch_ms=((1, 44.4), (8, 215.2)))
    measured = Calibration(slow, Device.CUDA, "acme/p0", "n1", "2026-01-01T00:00:00Z")
    profiles = (replace(given, calibrations=(measured,)),)
    (pool,) = rank(make.service(objective="latency"), profiles)
    assert isinstance(pool.outcome, BatchPlan)
    assert pool.outcome.batch_size == 2  # 4 were within 100 ms by the profile's own curve
    assert pool.calibration == measured
    assert pool.contradiction == "a batch of 1 takes 44 ms instead of 22 (+100%)"
