"""What the operator writes into the status of a GPUProfile, and when it writes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from avatar_operator.core.gpus import node_classes
from avatar_operator.core.gpus.calibration import Report
from avatar_operator.core.resources.gpu_profile import parse_profile
from avatar_operator.core.status import profile_status

if TYPE_CHECKING:
    from tests.operator.conftest import Make

    from avatar_operator.core.resources.gpu_profile import Curve, GPUProfile
    from avatar_operator.core.resources.node import Node

NOW = 1_767_225_600.0
AT = "2026-01-01T00:00:00Z"
SHARED = {
    "nvidia.com/gpu.product": "NVIDIA-GeForce-RTX-4090-SHARED",
    "nvidia.com/gpu.memory": "24564",
    "nvidia.com/gpu.replicas": "2",
}


class Told:
    """A profile whose status is built again and again, as the operator does."""

    def __init__(self, make: Make, **spec: Any) -> None:
        self.make = make
        self.body = make.profile_body(**spec)
        self.nodes: list[Node] = [make.node()]
        self.others: tuple[GPUProfile, ...] = ()

    @property
    def status(self) -> Any:
        return self.body.get("status", {})

    def build(self, *reports: Report, now: float = NOW) -> Any:
        """Build the status and keep it; None if nothing is to be written."""
        profile = parse_profile(self.body)
        known = (profile, *self.others)
        parts = [part for node in self.nodes for part in node_classes.classify(node, known)]
        built = profile_status.build(profile, reports, parts, 7, self.status, now)
        if built is not None:
            self.body["status"] = built
        return built

    def conditions(self) -> dict[str, tuple[str, str, str]]:
        return {
            item["type"]: (item["status"], item["reason"], item["message"])
            for item in self.status.get("conditions", [])
        }

    def report(self, factor: float = 1.0, **pod: Any) -> Report:
        return Report(self.make.pod(**pod), "cuda", self.curve(factor))

    def curve(self, factor: float) -> Curve:
        given = self.make.profile().curves[0]
        points = tuple((b, round(ms * factor, 2)) for b, ms in given.frame_batch_ms)
        return replace(given, frame_batch_ms=points)


def test_a_profile_that_nobody_measured_is_left_alone(make: Make) -> None:
    assert Told(make).build() is None


def test_a_measurement_is_written_once_with_its_source(make: Make) -> None:
    told = Told(make)
    told.build(told.report())
    (found,) = told.status["calibrations"]
    assert found == {
        "model": "v15/sd-vae/fp16",
        "baseMiB": 3100,
        "perFrameMiB": 306,
        "frameBatchMs": [list(point) for point in told.curve(1.0).frame_batch_ms],
        "device": "cuda",
        "measuredAt": AT,
        "pod": "acme/p0",
        "node": "n1",
    }
    assert told.conditions() == {
        "BatchCalibrated": ("True", "Calibrated", "measured: v15/sd-vae/fp16")
    }
    assert told.status["conditions"][0]["observedGeneration"] == 7
    assert told.build(told.report(), now=NOW + 9e6) is None
    assert told.build(told.report(1.01, name="p1"), now=NOW + 60) is None
    assert told.build() is None  # the pod is gone, what it measured stays


def test_a_measurement_that_contradicts_the_profile_says_so(make: Make) -> None:
    told = Told(make)
    told.build(told.report(2.0))
    status, reason, message = told.conditions()["BatchCalibrated"]
    assert (status, reason) == ("False", "CalibrationDiffers")
    assert "v15/sd-vae/fp16: a batch of 1 takes 44 ms instead of 22 (+100%)" in message
    assert told.build(told.report(2.0)) is None


def test_other_classes_and_shared_gpus_measure_nothing_of_this_one(make: Make) -> None:
    told = Told(make, allowShared=True)
    assert told.build(told.report(gpu_class="l4")) is None
    assert told.build(told.report(node="elsewhere")) is None
    told.nodes = [make.node(labels=SHARED)]
    assert told.build(told.report()) is None


def test_measurements_that_count_no_more_are_taken_back(make: Make) -> None:
    told = Told(make)
    told.build(told.report())
    told.body["status"]["calibrations"][0]["device"] = "simulated"
    built = told.build()
    assert "calibrations" not in built
    assert told.conditions()["BatchCalibrated"][:2] == ("False", "NotCalibrated")


def test_nodes_of_two_profiles_are_told_to_both_and_the_end_of_it_too(make: Make) -> None:
    told = Told(make)
    told.nodes = [make.node(f"n{index}") for index in range(5)]
    told.others = (make.profile("twin"),)
    told.build()
    status, reason, message = told.conditions()["NodesRecognised"]
    assert (status, reason) == ("False", "LabelsAmbiguous")
    assert "node n0: NVIDIA-GeForce-RTX-4090 belongs to several GPUProfiles" in message
    assert message.endswith("; and 2 more")
    assert told.build() is None
    told.others = ()
    told.build()
    assert told.conditions()["NodesRecognised"][:2] == ("True", "LabelsClear")
    assert told.build() is None


def test_labels_that_do_not_add_up_are_told(make: Make) -> None:
    told = Told(make)
    odd = make.node().labels | {"nvidia.com/gpu.count": "1"}  # type: ignore[operator]
    told.nodes = [make.node(labels=odd, capacity=(("nvidia.com/gpu", 2),))]
    told.build()
    assert "node n1: labels count 1 GPUs" in told.conditions()["NodesRecognised"][2]


def test_the_order_of_lists_in_the_api_server_is_no_change(make: Make) -> None:
    told = Told(make)
    told.others = (make.profile("twin"),)
    told.build(told.report())
    told.nodes = [make.node()]
    told.others = ()
    told.build(told.report())
    told.body["status"]["conditions"].reverse()
    assert told.build(told.report()) is None
