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


class ProfileScenario:
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
    assert ProfileScenario(make).build() is None


def test_a_measurement_is_written_once_with_its_source(make: Make) -> None:
    reported = ProfileScenario(make)
    reported.build(reported.report())
    (found,) = reported.status["calibrations"]
    assert found == {
        "model": "v15/sd-vae/fp16",
        "baseMiB": 3100,
        "perFrameMiB": 306,
        "frameBatchMs": [list(point) for point in reported.curve(1.0).frame_batch_ms],
        "device": "cuda",
        "measuredAt": AT,
        "pod": "acme/p0",
        "node": "n1",
    }
    assert reported.conditions() == {
        "BatchCalibrated": ("True", "Calibrated", "measured: v15/sd-vae/fp16")
    }
    assert reported.status["conditions"][0]["observedGeneration"] == 7
    assert reported.build(reported.report(), now=NOW + 9e6) is None
    assert reported.build(reported.report(1.01, name="p1"), now=NOW + 60) is None
    assert reported.build() is None  # the pod is gone, what it measured stays


def test_a_measurement_that_contradicts_the_profile_says_so(make: Make) -> None:
    reported = ProfileScenario(make)
    reported.build(reported.report(2.0))
    status, reason, message = reported.conditions()["BatchCalibrated"]
    assert (status, reason) == ("False", "CalibrationDiffers")
    assert "v15/sd-vae/fp16 in acme: a batch of 1 takes 44 ms instead of 22 (+100%)" in message
    assert reported.build(reported.report(2.0)) is None


def test_other_classes_and_shared_gpus_measure_nothing_of_this_one(make: Make) -> None:
    reported = ProfileScenario(make, allowShared=True)
    assert reported.build(reported.report(gpu_class="l4")) is None
    assert reported.build(reported.report(node="elsewhere")) is None
    reported.nodes = [make.node(labels=SHARED)]
    assert reported.build(reported.report()) is None


def test_measurements_that_count_no_more_are_taken_back(make: Make) -> None:
    reported = ProfileScenario(make)
    reported.build(reported.report())
    reported.body["status"]["calibrations"][0]["device"] = "simulated"
    built = reported.build()
    assert "calibrations" not in built
    assert reported.conditions()["BatchCalibrated"][:2] == ("False", "NotCalibrated")


def test_nodes_of_two_profiles_are_told_to_both_and_the_end_of_it_too(make: Make) -> None:
    reported = ProfileScenario(make)
    reported.nodes = [make.node(f"n{index}") for index in range(5)]
    reported.others = (make.profile("twin"),)
    reported.build()
    status, reason, message = reported.conditions()["NodesRecognised"]
    assert (status, reason) == ("False", "LabelsAmbiguous")
    assert "node n0: NVIDIA-GeForce-RTX-4090 belongs to several GPUProfiles" in message
    assert message.endswith("; and 2 more")
    assert reported.build() is None
    reported.others = ()
    reported.build()
    assert reported.conditions()["NodesRecognised"][:2] == ("True", "LabelsClear")
    assert reported.build() is None


def test_labels_that_do_not_add_up_are_told(make: Make) -> None:
    reported = ProfileScenario(make)
    odd = make.node().labels | {"nvidia.com/gpu.count": "1"}  # type: ignore[operator]
    reported.nodes = [make.node(labels=odd, capacity=(("nvidia.com/gpu", 2),))]
    reported.build()
    assert "node n1: labels count 1 GPUs" in reported.conditions()["NodesRecognised"][2]


def test_the_order_of_lists_in_the_api_server_is_no_change(make: Make) -> None:
    reported = ProfileScenario(make)
    reported.others = (make.profile("twin"),)
    reported.build(reported.report())
    reported.nodes = [make.node()]
    reported.others = ()
    reported.build(reported.report())
    reported.body["status"]["conditions"].reverse()
    assert reported.build(reported.report()) is None
