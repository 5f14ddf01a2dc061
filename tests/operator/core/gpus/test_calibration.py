"""Which measurement counts, and when it contradicts the profile."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from avatar_operator.core.gpus import calibration
from avatar_operator.core.gpus.calibration import Report
from avatar_operator.core.resources.gpu_profile import Calibration, Curve, Device

if TYPE_CHECKING:
    from tests.operator.conftest import Make

VARIANT = "v15/sd-vae/fp16"
THEN = "2026-01-01T00:00:00Z"
NOW = "2026-01-01T01:00:00Z"
NEXT_WEEK = "2026-01-08T00:00:00Z"
CURVE = Curve(VARIANT, 3000, 300, ((1, 20.0), (4, 50.0), (8, 100.0)))


def scaled(factor: float, *, upto: int = 8, memory: float = 1.0) -> Curve:
    points = tuple((b, ms * factor) for b, ms in CURVE.frame_batch_ms if b <= upto)
    return Curve(VARIANT, round(3000 * memory), round(300 * memory), points)


def stored(curve: Curve, device: Device = Device.CUDA, at: str = THEN) -> Calibration:
    return Calibration(curve, device, "acme/old", "n1", at)


def chosen(
    make: Make, *reports: Report, known: Calibration | None = None, now: str = NOW
) -> Calibration | None:
    calibrated = () if known is None else (known,)
    profile = replace(make.profile(), calibrations=calibrated)
    found = calibration.choose(profile, reports, now)
    assert len(found) <= 1
    return found[0] if found else None


def report(
    make: Make, curve: Curve, device: str = "cuda", name: str = "p0", at: float = 0
) -> Report:
    return Report(make.pod(name, created_at=at), device, curve)


def test_the_first_measurement_is_kept_with_its_source(make: Make) -> None:
    found = chosen(make, report(make, CURVE))
    assert found == Calibration(CURVE, Device.CUDA, "acme/p0", "n1", NOW)


@pytest.mark.parametrize("device", ["cpu", "", "simulated"])
def test_a_device_that_is_no_gpu_measures_nothing(make: Make, device: str) -> None:
    assert chosen(make, report(make, CURVE, device)) is None


def test_a_simulated_device_counts_where_the_profile_says_so(make: Make) -> None:
    profile = replace(make.profile(), allow_simulated=True)
    (found,) = calibration.choose(profile, [report(make, CURVE, "simulated")], NOW)
    assert found.device is Device.SIMULATED
    kept = replace(profile, calibrations=(found,))
    (real,) = calibration.choose(kept, [report(make, scaled(1.01))], NOW)
    assert real.device is Device.CUDA
    held = replace(profile, calibrations=(real,))
    assert calibration.choose(held, [report(make, scaled(9), "simulated")], NOW) == (real,)
    forbidden = replace(make.profile(), calibrations=(found,))
    assert calibration.choose(forbidden, [], NOW) == ()


@pytest.mark.parametrize(
    ("measured", "at", "replaced"),
    [
        pytest.param(scaled(1.04), NOW, False, id="noise"),
        pytest.param(scaled(1.06), NOW, True, id="slower"),
        pytest.param(scaled(0.94), NOW, True, id="faster"),
        pytest.param(scaled(1.0, memory=1.06), NOW, True, id="more memory"),
        pytest.param(scaled(1.04), NEXT_WEEK, True, id="noise on something old"),
        pytest.param(scaled(1.0), NEXT_WEEK, False, id="nothing new"),
        pytest.param(scaled(1.0, upto=4), NEXT_WEEK, False, id="smaller batches"),
        pytest.param(scaled(1.2, upto=4), NOW, True, id="smaller batches on another card"),
        pytest.param(
            replace(CURVE, frame_batch_ms=(*CURVE.frame_batch_ms, (16, 200.0))),
            NOW,
            True,
            id="larger batches",
        ),
    ],
)
def test_only_what_says_something_new_is_written(
    make: Make, measured: Curve, at: str, replaced: bool
) -> None:
    found = chosen(make, report(make, measured), known=stored(CURVE), now=at)
    assert found is not None
    assert (found.pod == "acme/p0") is replaced


def test_a_time_that_cannot_be_read_does_not_keep_a_measurement(make: Make) -> None:
    found = chosen(make, report(make, scaled(1.01)), known=stored(CURVE, at="long ago"))
    assert found is not None
    assert found.measured_at == NOW


def test_many_pods_agree_on_one_measurement_and_stay_with_it(make: Make) -> None:
    reports = [
        report(make, scaled(1.0), name="a", at=1),
        report(make, scaled(1.3), name="b", at=2),
        report(make, scaled(0.7, upto=4), name="c", at=3),
        report(make, scaled(5), "cpu", name="d", at=4),
    ]
    for order in itertools.permutations(reports):
        found = chosen(make, *order)
        assert found is not None
        assert found.pod == "acme/b"  # the youngest of those with the largest batch
        again = chosen(make, *order, known=found, now=NEXT_WEEK)
        assert again == found


def test_models_are_measured_apart_and_the_newest_comes_first(make: Make) -> None:
    profile = replace(make.profile(), calibrations=(stored(CURVE),))
    other = replace(CURVE, model="v15/taesd/fp16")
    found = calibration.choose(profile, [report(make, other)], NOW)
    assert [item.curve.model for item in found] == ["v15/taesd/fp16", VARIANT]


def test_namespaces_are_measured_apart(make: Make) -> None:
    """Whoever chooses the image of a pod chooses what the pod reports."""
    honest = replace(make.profile(), calibrations=(stored(CURVE),))
    wrong = replace(CURVE, base_mib=9_000_000)
    reports = [
        Report(make.pod("p1", namespace="globex"), "cuda", wrong),
        Report(make.pod("p0"), "cuda", scaled(1.2)),
    ]
    found = calibration.choose(honest, reports, NOW)
    assert {item.key: item.pod for item in found} == {
        (VARIANT, "acme"): "acme/p0",
        (VARIANT, "globex"): "globex/p1",
    }
    profile = replace(honest, calibrations=found)
    assert profile.calibration(VARIANT, "acme") in found
    assert profile.calibration(VARIANT, "initech") is None
    for namespace in ("acme", "initech"):
        curve = profile.curve(VARIANT, namespace)
        assert curve is not None
        assert curve.base_mib < 9_000_000
        assert "9" not in calibration.contradiction(profile, VARIANT, "initech")
    assert calibration.contradiction(profile, VARIANT, "globex") != ""


def test_only_the_newest_measurements_are_kept(make: Make) -> None:
    reports = [
        Report(make.pod(f"p{number}", namespace=f"n{number:03}"), "cuda", CURVE)
        for number in range(calibration.MAX_KEPT)
    ]
    full = replace(make.profile(), calibrations=(stored(CURVE),))
    found = calibration.choose(full, reports, NOW)
    assert len(found) == calibration.MAX_KEPT == 256
    assert "acme" not in {item.namespace for item in found}


def test_a_measurement_that_differs_by_a_fifth_contradicts_the_profile(make: Make) -> None:
    profile = make.profile()
    given = profile.given(VARIANT)
    assert given is not None
    assert calibration.contradiction(profile, VARIANT, "acme") == ""
    near = replace(given, base_mib=given.base_mib + 100)
    assert (
        calibration.contradiction(replace(profile, calibrations=(stored(near),)), VARIANT, "acme")
        == ""
    )
    slow = replace(given, frame_batch_ms=((8, 53.8), (128, 9.0)))
    said = calibration.contradiction(
        replace(profile, calibrations=(stored(slow),)), VARIANT, "acme"
    )
    assert said == "a batch of 8 takes 54 ms instead of 108 (-50%)"
    large = replace(given, per_frame_mib=500)
    said = calibration.contradiction(
        replace(profile, calibrations=(stored(large),)), VARIANT, "acme"
    )
    assert said == "a batch of 64 needs 35100 MiB instead of 22684 (+55%)"


def test_a_model_that_the_profile_does_not_know_contradicts_nothing(make: Make) -> None:
    unknown = replace(CURVE, model="v1/sd-vae/fp16")
    profile = replace(make.profile(), calibrations=(stored(unknown),))
    assert calibration.contradiction(profile, "v1/sd-vae/fp16", "acme") == ""
    assert profile.curve("v1/sd-vae/fp16", "acme") == unknown
