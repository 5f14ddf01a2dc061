"""The benchmark's document, on a simulated card and on a small CPU run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from avatar_runtime import __main__ as command
from avatar_runtime import benchmark
from avatar_runtime.engine import device

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

# architecture.md section 3; the document may hold more.
KEYS = {
    "device", "preset", "versions", "buckets", "model_only_fps", "recipe_fps", "sessions",
    "batch_fill_ratio", "first_frame_ms", "frame_ms", "loop_lag_ms_p999", "mfu",
}  # fmt: skip
BUCKET_KEYS = {
    "batch", "unet_ms", "vae_ms", "compose_ms", "encode_ms", "total_ms", "allocated_mib",
    "reserved_mib", "frames_per_s",
}  # fmt: skip


def test_the_command_writes_the_fixed_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench" / "engine.json"
    arguments = ["--device", "cpu", "--batch-size", "2", "--sessions", "2", "--frames", "4"]
    status = command.main(["bench", "--json", str(out), *arguments])

    document = json.loads(out.read_text(encoding="utf-8"))
    assert status == 0
    assert document.keys() >= KEYS
    assert [row["batch"] for row in document["buckets"]] == [1, 2]
    for row in document["buckets"]:
        assert row.keys() >= BUCKET_KEYS
        assert 0 < row["unet_ms"] + row["vae_ms"] < row["total_ms"]
    assert document["mfu"] is None
    assert 0.1 < document["gflop_per_frame"] < 10
    assert document["first_frame_ms"].keys() == {"p50", "p95"}
    assert document["frame_ms"].keys() == {"p50", "p95", "p99"}
    assert "2 sessions make" in capsys.readouterr().out


def test_a_simulated_card_is_measured_by_its_curve() -> None:
    profile = {
        "gpuClass": "toy",
        "memoryMiB": 20_000,
        "curve": {
            "model": "v15/sd-vae/fp16",
            "baseMiB": 4000,
            "perFrameMiB": 1000,
            "frameBatchMs": [[1, 4], [4, 8]],
        },
    }
    toy = device.open_device("simulated:toy", profile=json.dumps(profile))
    document = benchmark.run(toy, benchmark.Plan("tiny", 4, sessions=2, frames=8))

    assert document["device"] == "simulated"
    assert [row["total_ms"] for row in document["buckets"]] == pytest.approx([4, 16 / 3, 8], 0.01)
    assert [row["reserved_mib"] for row in document["buckets"]] == [5000, 6000, 8000]
    assert document["gflop_per_frame"] is None
    assert 0.5 <= document["batch_fill_ratio"] <= 1


@pytest.mark.parametrize("wrong", ["0", "-1", "x"])
def test_a_wrong_number_is_refused(wrong: str) -> None:
    with pytest.raises(SystemExit):
        command.main(["bench", "--batch-size", wrong])
