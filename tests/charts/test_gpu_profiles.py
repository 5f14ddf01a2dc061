"""The shipped curves are what their comment says they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "charts" / "avatar-operator"
SHIPPED: dict[str, Any] = yaml.safe_load((CHART / "gpu-profiles.yaml").read_text())
BATCHES = (1, 4, 8, 16, 32, 64)
FIXED_MS = 10
FRAMES_PER_S = {
    "rtx-4090": 82,
    "a100-40gb": 156,
    "a100-80gb": 156,
    "h100-80gb": 433,
    "h200-141gb": 433,
    "l40s": 90,
    "l4": 24,
    "rtx-3090": 51,
    "rtx-5090": 109,
    "rtx-pro-6000": 120,
    "a10g": 33,
    "a10": 33,
    "t4": 17,
    "v100-16gb": 45,
    "v100-32gb": 45,
    "h100-nvl": 366,
    "b200": 985,
    "a100-2g.10gb": 40,
    "a100-3g.20gb": 60,
    "a100-4g.20gb": 80,
    "a100-7g.40gb": 141,
    "a100-2g.20gb": 40,
    "a100-3g.40gb": 60,
    "a100-4g.40gb": 80,
    "a100-7g.80gb": 141,
    "h100-2g.20gb": 104,
    "h100-3g.40gb": 196,
    "h100-4g.40gb": 209,
    "h100-7g.80gb": 433,
}
# batch: (ms, reserved MB) of a 3090-class card, compiled fp16 with sd-vae, as published.
LADDER = {
    4: (87, 3764),
    8: (164, 4822),
    16: (317, 6870),
    24: (477, 9044),
    32: (626, 11494),
    40: (792, 14280),
    48: (944, 17242),
}
CONTEXT_MIB = 500


def test_all_classes_of_the_contract_are_shipped() -> None:
    assert SHIPPED.keys() == FRAMES_PER_S.keys()


@pytest.mark.parametrize("gpu_class", SHIPPED)
def test_times_follow_the_stated_formula(gpu_class: str) -> None:
    (curve,) = SHIPPED[gpu_class]["curves"]
    rate = FRAMES_PER_S[gpu_class]
    assert curve["frameBatchMs"] == [[b, round(FIXED_MS + b * 1000 / rate, 1)] for b in BATCHES]
    assert curve["source"] == "estimate"


def test_formula_fits_the_published_ladder() -> None:
    for batch, (published_ms, _) in LADDER.items():
        assert FIXED_MS + batch * 1000 / 51 == pytest.approx(published_ms, rel=0.03)


@pytest.mark.parametrize("gpu_class", SHIPPED)
def test_memory_line_lies_above_the_published_ladder(gpu_class: str) -> None:
    (curve,) = SHIPPED[gpu_class]["curves"]
    slack = [
        curve["baseMiB"] + batch * curve["perFrameMiB"] - (reserved + CONTEXT_MIB)
        for batch, (_, reserved) in LADDER.items()
    ]
    assert min(slack) >= 0
    assert min(slack) < 100  # and no higher than it must


@pytest.mark.parametrize("gpu_class", SHIPPED)
def test_memory_range_holds_the_class_and_no_neighbour(gpu_class: str) -> None:
    bounds = SHIPPED[gpu_class]["match"]["memoryMiB"]
    known = {
        "rtx-4090": (24564, 23028),
        "a100-40gb": (40960, 39538, 40536),
        "a100-80gb": (81920,),
        "h100-80gb": (81559,),
        "h200-141gb": (143771,),
        "l40s": (46068,),
        "l4": (23034,),
        "rtx-3090": (24576, 24268),
        "rtx-5090": (32607,),
        "rtx-pro-6000": (97887,),
        "a10g": (23028, 22731),
        "a10": (23028, 24564),
        "t4": (15360, 15109),
        "v100-16gb": (16384, 16160),
        "v100-32gb": (32768, 32510),
        "h100-nvl": (95830,),
        "b200": (183359,),
        "a100-2g.10gb": (9984, 9856),
        "a100-3g.20gb": (19968, 20096),
        "a100-4g.20gb": (19968, 20096),
        "a100-7g.40gb": (40192, 40320),
        "a100-2g.20gb": (19968,),
        "a100-3g.40gb": (40192,),
        "a100-4g.40gb": (40192,),
        "a100-7g.80gb": (80640, 81152),
        "h100-2g.20gb": (20096, 20480),
        "h100-3g.40gb": (40448,),
        "h100-4g.40gb": (40448,),
        "h100-7g.80gb": (81152,),
    }
    boards = {(15360, "t4"), (32607, "rtx-5090"), (32607, "v100-32gb"), (95830, "h100-nvl")}
    boards |= {(97887, "rtx-pro-6000"), (183359, "b200")}
    others = [mib for mib in (15360, 32607, 95830, 97887, 183359) if (mib, gpu_class) not in boards]
    assert all(bounds["min"] <= mib <= bounds["max"] for mib in known[gpu_class])
    assert not any(bounds["min"] <= mib <= bounds["max"] for mib in others)


SLICES = {"a100": {2: 28, 3: 42, 4: 56, 7: 98}, "h100": {2: 32, 3: 60, 4: 64, 7: 132}}
CARDS = {"a100": (156, 108), "h100": (433, 132)}


@pytest.mark.parametrize("gpu_class", [name for name in SHIPPED if "g." in name])
def test_a_slice_has_its_share_of_the_multiprocessors(gpu_class: str) -> None:
    card, _, profile = gpu_class.partition("-")
    rate, multiprocessors = CARDS[card]
    share = SLICES[card][int(profile[0])] / multiprocessors
    assert FRAMES_PER_S[gpu_class] == int(rate * share + 1e-9)
    for pattern in SHIPPED[gpu_class]["match"]["products"]:
        assert pattern.endswith(f"-MIG-{profile}")
