"""The chart carries the CRDs of `crds/` byte for byte; the operator packages them as they are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = {"avatars.yaml", "avatarservices.yaml", "avatartenants.yaml", "gpuprofiles.yaml"}


def test_chart_carries_the_crds_unchanged() -> None:
    source = {path.name: path.read_bytes() for path in (ROOT / "crds").iterdir()}
    copy = {
        path.name: path.read_bytes() for path in (ROOT / "charts/avatar-operator/crds").iterdir()
    }
    assert source.keys() == NAMES
    assert copy == source, "cp crds/*.yaml charts/avatar-operator/crds/"


def test_operator_packages_the_crds_themselves() -> None:
    assert (ROOT / "operator/avatar_operator/crds").resolve() == (ROOT / "crds").resolve()
