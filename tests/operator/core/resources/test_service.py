from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.resources import autoscaling
from avatar_operator.core.resources.gpu_profile import Curve, Device, parse_profile
from avatar_operator.core.resources.placement import Toleration, WhenFull
from avatar_operator.core.resources.service import (
    DEMO_AVATARS,
    DEMO_MODEL,
    Objective,
    SessionLimits,
    parse_service,
)
from avatar_operator.core.resources.sources import ClaimSource, HostPathSource, ImageSource
from avatar_operator.core.resources.state import PodState, parse_state
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.operator.conftest import Body, Make


def test_an_empty_spec_is_the_demo_on_one_pod(make: Make) -> None:
    service = make.service()
    assert service.key == ("acme", "concierge")
    assert str(service.key) == "acme/concierge"
    assert service.model.variant == "v15/sd-vae/fp16"
    assert service.model.source == ImageSource("/opt/avatar/models/demo")
    assert service.avatar_source == ImageSource("/opt/avatar/avatars")
    assert service.objective is Objective.BALANCED
    assert service.desired_replicas == 1
    assert (service.fps, service.batch_size) == (25, None)
    assert service.sessions == SessionLimits(7200, 300, 3600)


def test_every_field_is_read(make: Make) -> None:
    service = make.service(
        model={
            "version": "v1",
            "decoder": "taesd",
            "precision": "bf16",
            "source": {"persistentVolumeClaim": {"claimName": "musetalk", "path": "/models/"}},
        },
        avatarSource={"hostPath": {"path": "/srv/avatars"}},
        avatars=["anna", "ben"],
        fps=20,
        batchSize=4,
        placement={
            "gpuClasses": ["rtx-4090"],
            "strategy": "fastest",
            "nodeSelector": {"b": "2", "a": "1"},
            "tolerations": [
                {"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
            ],
        },
        autoscaling={"minReplicas": 2, "maxReplicas": 3},
        sessions={
            "maxDurationSeconds": 1,
            "idleTimeoutSeconds": 2,
            "drainTimeoutSeconds": 0,
            "turnDetection": "none",
        },
        upstream={"mode": "drive"},
        template={"image": "i", "env": [{"name": "A", "value": "b"}], "runtimeClassName": "nvidia"},
    )
    assert service.model.source == ClaimSource("musetalk", "models")
    assert service.avatar_source == HostPathSource("/srv/avatars")
    assert (service.avatars, service.fps, service.batch_size) == (("anna", "ben"), 20, 4)
    assert service.placement.node_selector == (("a", "1"), ("b", "2"))
    assert service.placement.tolerations == (Toleration("k", "Exists", "", "NoExecute", 5),)
    assert service.desired_replicas == 2
    assert service.sessions == SessionLimits(1, 2, 0)
    assert service.turn_detection == "none"
    assert (service.template.image, service.template.runtime_class) == ("i", "nvidia")


def test_replicas_fix_the_number_of_pods(make: Make) -> None:
    assert make.service(replicas=0).desired_replicas == 0


def test_the_default_of_replicas_is_ignored_with_autoscaling(make: Make) -> None:
    service = make.service(replicas=1, autoscaling={"minReplicas": 2, "maxReplicas": 3})
    assert service.replicas is None
    assert service.desired_replicas == 2


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        pytest.param({"fps": 24}, "spec.fps is 24, must be one of 10, 16, 20, 25", id="fps"),
        pytest.param(
            {"sessions": {"idleTimeoutSeconds": -5}},
            "spec.sessions.idleTimeoutSeconds is -5, must be a whole number from 1 to 86400",
            id="limit",
        ),
        pytest.param(
            {"replicas": 2, "autoscaling": {"maxReplicas": 2}},
            "spec.replicas must not be set together with spec.autoscaling",
            id="replicas and autoscaling",
        ),
        pytest.param(
            {"batchSize": 4, "objective": "latency"},
            "spec.batchSize must not be set together with spec.objective",
            id="batch size and objective",
        ),
        pytest.param(
            {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}},
            "autoscaling.minReplicas is 3, must be less than or equal to maxReplicas, which is 2",
            id="min above max",
        ),
        pytest.param(
            {"autoscaling": {}}, "spec.autoscaling.maxReplicas is missing", id="no maximum"
        ),
        pytest.param({"avatars": ["a", "a"]}, "spec.avatars[1]", id="twice the same avatar"),
        pytest.param({"upstream": {"mode": "bridge"}}, "spec.upstream.url is missing", id="bridge"),
        pytest.param({"upstream": {"mode": "echo"}}, "one of drive, bridge, speech", id="mode"),
        pytest.param(
            {"model": {"source": {"image": {"path": "/a"}, "hostPath": {"path": "/b"}}}},
            "exactly one of persistentVolumeClaim, hostPath, image, imageVolume and download must",
            id="two sources",
        ),
        pytest.param(
            {"avatarSource": {"persistentVolumeClaim": {"path": "../x"}}},
            "spec.avatarSource.persistentVolumeClaim.claimName is missing",
            id="no claim",
        ),
        pytest.param(
            {"avatarSource": {"hostPath": {"path": "a"}}}, "an absolute path", id="relative path"
        ),
        pytest.param({"replicas": 1001}, "from 0 to 1000", id="too many replicas"),
    ],
)
def test_what_is_wrong_names_field_value_and_limit(make: Make, spec: Body, said: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        make.service(**spec)
    assert said in str(caught.value)


def test_all_faults_are_told_at_once(make: Make) -> None:
    with pytest.raises(InvalidResource) as caught:
        make.service(fps=7, replicas=-1, objective="quick", avatars="anna")
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize("name", ["", "Upper", "1st", "a" * 41])
def test_a_name_that_pods_cannot_carry_is_refused(make: Make, name: str) -> None:
    body = make.service_body()
    body["metadata"]["name"] = name
    with pytest.raises(InvalidResource, match=r"metadata\.name"):
        parse_service(body)


def test_a_profile_is_read_and_measured_curves_win(make: Make) -> None:
    body = make.profile_body(costPerHour="0.44", allowShared=True)
    measured = {**body["spec"]["curves"][0], "baseMiB": 4242, "pod": "acme/p0"}
    body["status"] = {"calibrations": [measured]}
    profile = parse_profile(body)
    assert profile.cost_per_hour == Decimal("0.44")
    assert profile.allow_shared
    found = profile.curve("v15/sd-vae/fp16", "acme")
    assert found is not None
    assert found.base_mib == 4242
    elsewhere = profile.curve("v15/sd-vae/fp16", "globex")
    assert elsewhere is not None
    assert elsewhere.base_mib == 3100
    assert profile.curve("v1/sd-vae/fp16", "acme") is None


def test_a_profile_tells_given_curves_from_measured_ones(make: Make) -> None:
    body = make.profile_body()
    given = body["spec"]["curves"][0]
    body["metadata"]["annotations"] = {"avatar.musetalk.io/simulated-calibrations": "true"}
    source = {"device": "simulated", "pod": "acme/p0", "node": "n1", "measuredAt": "now"}
    body["status"] = {"calibrations": [{**given, **source}]}
    profile = parse_profile(body)
    (measured,) = profile.calibrations
    assert (measured.device, measured.pod, measured.node) == (
        Device.SIMULATED,
        "acme/p0",
        "n1",
    )
    assert profile.given("v15/sd-vae/fp16") == measured.curve
    assert profile.allow_simulated
    assert not make.profile().allow_simulated


@pytest.mark.parametrize(
    ("curves", "said"),
    [
        pytest.param([], "spec.curves is [], must contain at least one curve", id="none"),
        pytest.param(None, "spec.curves is missing, must contain at least one curve", id="missing"),
        pytest.param(
            2,
            "must not contain several curves of one model: v15/sd-vae/fp16",
            id="twice",
        ),
    ],
)
def test_a_profile_has_one_curve_for_each_model(make: Make, curves: Any, said: str) -> None:
    body = make.profile_body()
    body["spec"]["curves"] = body["spec"]["curves"] * 2 if curves == 2 else curves
    with pytest.raises(InvalidResource) as caught:
        parse_profile(body)
    assert said in str(caught.value)


def test_a_full_class_may_be_waited_for(make: Make) -> None:
    assert make.service().placement.when_full is WhenFull.FALL_THROUGH
    waiting = make.service(placement={"whenFull": "wait"})
    assert waiting.placement.when_full is WhenFull.WAIT


def test_times_between_two_points_are_interpolated(make: Make) -> None:
    curve = make.curve(points=((2, 10.0), (4, 20.0), (8, 30.0)))
    assert [curve.batch_ms(b) for b in (2, 3, 4, 6, 8)] == [10.0, 15.0, 20.0, 25.0, 30.0]
    assert (curve.smallest, curve.largest, curve.memory_mib(2)) == (2, 8, 1200)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        pytest.param([], "frameBatchMs is missing", id="no points"),
        pytest.param([[1, 2], [1, 3]], "frameBatchMs[1]", id="not rising"),
        pytest.param([[1, 2], [2, 1]], "frameBatchMs[1]", id="falling time"),
        pytest.param([[1]], "frameBatchMs[0]", id="no pair"),
        pytest.param(["x"], "frameBatchMs[0]", id="no list"),
        pytest.param([[1.5, 2]], "frameBatchMs[0]", id="half a frame"),
        pytest.param([[1, 0]], "frameBatchMs[0]", id="no time"),
        pytest.param([[True, 2]], "frameBatchMs[0]", id="boolean"),
        pytest.param([[1, float("nan")]], "frameBatchMs[0]", id="not a number"),
        pytest.param([[4096, 2]], "frameBatchMs[0]", id="too many frames"),
    ],
)
def test_a_curve_that_cannot_be_read_is_refused(make: Make, points: Any, said: str) -> None:
    body = make.profile_body()
    body["spec"]["curves"][0]["frameBatchMs"] = points
    with pytest.raises(InvalidResource) as caught:
        parse_profile(body)
    assert said in str(caught.value)


def test_a_profile_names_all_its_faults(make: Make) -> None:
    body = make.profile_body(costPerHour="free", curves=[{"frameBatchMs": [[1, 2]]}])
    body["spec"]["match"] = {"memoryMiB": {"min": 9, "max": 8}}
    with pytest.raises(InvalidResource) as caught:
        parse_profile(body)
    text = str(caught.value)
    for said in (
        "match.products is missing",
        "memoryMiB.min is 9, must be less than or equal to max, which is 8",
        "costPerHour",
        "curves[0].model is missing",
        "curves[0].baseMiB is missing",
    ):
        assert said in text


def test_a_state_is_read_with_its_age() -> None:
    document = {"sessions": 1, "capacity": 2, "free": 1, "draining": False, "ready": True}
    state = parse_state({**document, "vram": {}}, 0.5)
    assert state == PodState(1, 2, 1, False, True, 0.5)


STATE = {"sessions": 1, "capacity": 2, "free": 1, "draining": False, "ready": True}
MEASURED = {
    "model": "v15/sd-vae/fp16",
    "baseMiB": 3100,
    "perFrameMiB": 306,
    "frameBatchMs": [[1, 22.2], [4, 58.8]],
}


def test_a_state_tells_what_was_measured_and_on_what() -> None:
    state = parse_state({**STATE, "device": "cuda", "calibration": MEASURED}, 0.0)
    points = ((1, 22.2), (4, 58.8))
    assert state.calibration == Curve("v15/sd-vae/fp16", 3100, 306, points)
    assert state.device == "cuda"


@pytest.mark.parametrize(
    ("changes", "points", "per_frame"),
    [
        pytest.param(
            {"frameBatchMs": [[1, 22.2], [2, 21.9], [4, 58.8]]},
            ((1, 22.2), (2, 22.2), (4, 58.8)),
            306,
            id="time that falls by noise",
        ),
        pytest.param(
            {"perFrameMiB": 0}, ((1, 22.2), (4, 58.8)), 1, id="frames that took nothing visible"
        ),
        pytest.param(
            {"frameBatchMs": [[1, 22.2], "x", [4, 58.8]]},
            ((1, 22.2), (4, 58.8)),
            306,
            id="a point that is none",
        ),
    ],
)
def test_noise_in_a_measurement_is_read_the_careful_way(
    changes: Body, points: Any, per_frame: int
) -> None:
    state = parse_state({**STATE, "calibration": {**MEASURED, **changes}}, 0.0)
    assert state.calibration is not None
    assert state.calibration.frame_batch_ms == points
    assert state.calibration.per_frame_mib == per_frame


@pytest.mark.parametrize(
    "calibration",
    [
        None,
        "fast",
        {},
        {**MEASURED, "frameBatchMs": []},
        {**MEASURED, "frameBatchMs": {}},
        {**MEASURED, "frameBatchMs": [[4, 58.8], [1, 22.2]]},
        {**MEASURED, "baseMiB": 0},
        {**MEASURED, "model": None},
    ],
)
def test_a_measurement_that_cannot_be_read_costs_no_state(calibration: Any) -> None:
    state = parse_state({**STATE, "calibration": calibration}, 0.0)
    assert state.calibration is None
    assert state.sessions == 1


def test_a_state_without_its_keys_is_refused() -> None:
    with pytest.raises(InvalidResource) as caught:
        parse_state({"pod": "p", "sessions": "many"}, 0.0)
    assert "state of pod p" in str(caught.value)
    assert "sessions is" in str(caught.value)
    assert "draining is missing" in str(caught.value)


def test_autoscaling_is_read_with_its_defaults(make: Make) -> None:
    plain = make.service(autoscaling={"maxReplicas": 4}).autoscaling
    assert plain == autoscaling.Autoscaling(1, 4, 1, 20, 120.0, None)
    full = {
        "minReplicas": 0,
        "maxReplicas": 4,
        "freeSessions": {"min": 3, "percent": 50},
        "scaleDownAfterSeconds": 10,
        "scaleToZeroAfterSeconds": 60,
    }
    assert make.service(autoscaling=full).autoscaling == autoscaling.Autoscaling(
        0, 4, 3, 50, 10.0, 60.0
    )


def test_scale_to_zero_needs_that_there_may_be_none(make: Make) -> None:
    with pytest.raises(InvalidResource, match="scaleToZeroAfterSeconds is 60"):
        make.service(autoscaling={"maxReplicas": 4, "scaleToZeroAfterSeconds": 60})


@pytest.mark.parametrize(
    ("annotation", "field"), [("freeze", "freeze"), ("pause-scale-in", "pause_scale_in")]
)
def test_annotations_hold_the_number_of_pods(make: Make, annotation: str, field: str) -> None:
    body = make.service_body(autoscaling={"maxReplicas": 4})
    body["metadata"]["annotations"] = {f"avatar.musetalk.io/{annotation}": "true"}
    assert getattr(parse_service(body).autoscaling, field) is True
    assert getattr(make.service(autoscaling={"maxReplicas": 4}).autoscaling, field) is False


def test_pressure_is_read_from_a_state_and_never_makes_it_unreadable() -> None:
    calm = {"sessions": 1, "capacity": 2, "free": 1, "draining": False, "ready": True}
    pressed = {
        **calm,
        "vram": {"ratio": 0.95},
        "deadline_miss_ratio": 0.02,
        "latency_ms": {"frame_p95": 120.0},
        "batch_size": 16,
        "batch_limit": 4,
    }
    state = parse_state(pressed, 0.0)
    assert (state.vram_ratio, state.deadline_miss_ratio) == (0.95, 0.02)
    assert (state.frame_p95_ms, state.batch_share) == (120.0, 0.25)
    odd = {"vram": {"ratio": "much"}, "latency_ms": {"frame_p95": True}, "batch_size": 0}
    state = parse_state({**calm, **odd}, 0.0)
    assert (state.vram_ratio, state.frame_p95_ms, state.batch_share) == (0.0, None, 1.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "metadata.name is missing, must consist of lowercase letters, digits and '-', must"),
        ("1a", "metadata.name is \"1a\", must consist of lowercase letters, digits and '-', must"),
        ("a" * 41, "must be no more than 40 characters, so that the names of its pods fit in 63"),
    ],
    ids=["missing", "digit first", "too long"],
)
def test_a_wrong_service_name_is_refused_with_its_rule(make: Make, name: str, message: str) -> None:
    body = make.service_body()
    body["metadata"]["name"] = name
    with pytest.raises(InvalidResource) as caught:
        parse_service(body)
    assert message in str(caught.value)


def test_without_operator_exists_an_empty_toleration_has_the_default_operator(make: Make) -> None:
    placement = {"tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b"}]}
    every_taint, one_taint = make.service(placement=placement).placement.tolerations
    assert every_taint == Toleration("", "Exists", "", "", None)
    assert one_taint == Toleration("a", "Equal", "b", "", None)
    assert Toleration(operator="Exists").key == ""


def test_the_largest_batch_size_is_64(make: Make) -> None:
    assert make.service(batchSize=64).batch_size == 64
    with pytest.raises(InvalidResource, match=r"spec\.batchSize is 65, must be"):
        make.service(batchSize=65)


@pytest.mark.parametrize(
    ("name", "default"), [("model", DEMO_MODEL), ("avatarSource", DEMO_AVATARS)]
)
def test_a_stored_default_does_not_count_beside_another_source(
    make: Make, name: str, default: str
) -> None:
    both = {"image": {"path": default}, "persistentVolumeClaim": {"claimName": "c"}}
    spec = {"model": {"source": both}} if name == "model" else {name: both}
    service = parse_service(make.service_body(replicas=1, **spec))
    found = service.model.source if name == "model" else service.avatar_source
    assert found == ClaimSource("c", "")
    both["hostPath"] = {"path": "/data"}
    with pytest.raises(InvalidResource, match="exactly one of"):
        parse_service(make.service_body(replicas=1, **spec))


@pytest.mark.parametrize("name", ["acme/db", "Upper", "-a", "a-", "a..b", "a_b", "a" * 254, "a b"])
@pytest.mark.parametrize(
    "spec",
    [
        lambda name: {"model": {"source": {"persistentVolumeClaim": {"claimName": name}}}},
        lambda name: {"template": {"serviceAccountName": name}},
        lambda name: {"template": {"priorityClassName": name}},
        lambda name: {"template": {"runtimeClassName": name}},
    ],
    ids=["claim", "account", "priority", "runtime class"],
)
def test_the_name_of_another_object_is_one_that_an_object_can_have(
    make: Make, spec: Callable[[str], Any], name: str
) -> None:
    with pytest.raises(InvalidResource, match="must be a name of at most 253 characters"):
        make.service(**spec(name))
    make.service(**spec("a.b-c1"))
