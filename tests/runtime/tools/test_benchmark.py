"""The benchmark's document, on a simulated card and on a small CPU run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from avatar_runtime import __main__ as command
from avatar_runtime.engine.devices.factory import open_device
from avatar_runtime.tools.benchmark import measuring, report
from avatar_runtime.tools.benchmark.plan import Plan

pytestmark = pytest.mark.slow

# What readers of the document rely on; it may hold more.
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
    chosen = ["--decoder", "taesd", "--precision", "bf16", "--autograd"]
    status = command.main(["bench", "--json", str(out), *arguments, *chosen])

    document = json.loads(out.read_text(encoding="utf-8"))
    assert status == 0
    assert document.keys() >= KEYS
    assert [row["batch"] for row in document["buckets"]] == [1, 2]
    for row in document["buckets"]:
        assert row.keys() >= BUCKET_KEYS
        assert 0 < row["unet_ms"] + row["vae_ms"] < row["total_ms"]
    assert document["model"] == "v15/taesd/bf16"
    assert document["mfu"] is None
    assert document["peak_tflops"] is None
    assert document["autograd"] is None  # no allocator to ask
    assert 0.1 < document["gflop_per_frame"] < 10
    assert document["first_frame_ms"].keys() == {"p50", "p95"}
    assert document["frame_ms"].keys() == {"p50", "p95", "p99"}
    assert "2 sessions make" in capsys.readouterr().out


def test_a_simulated_gpu_is_measured_by_its_curve() -> None:
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
    toy = open_device("simulated:toy", profile=json.dumps(profile))
    document = measuring.run(toy, Plan("tiny", 4, sessions=2, frames=8))

    assert document["device"] == "simulated"
    assert [row["total_ms"] for row in document["buckets"]] == pytest.approx([4, 16 / 3, 8], 0.01)
    assert [row["reserved_mib"] for row in document["buckets"]] == [5000, 6000, 8000]
    assert document["gflop_per_frame"] is None
    assert 0.5 <= document["batch_fill_ratio"] <= 1


def _published() -> dict[str, Any]:
    text = (Path(__file__).parents[3] / "docs/benchmarks/engine-cpu.json").read_text()
    return dict(json.loads(text))


def test_a_document_is_printed_and_plotted_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "engine.json").write_text(json.dumps(_published()))
    plot = tmp_path / "plots/engine.svg"
    arguments = ["--from", str(tmp_path / "engine.json"), "--plot", str(plot)]

    assert command.main(["bench", *arguments]) == 0

    assert capsys.readouterr().out.startswith("         batch       unet_ms")
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


def test_bars_are_as_high_as_their_figures() -> None:
    document = _published()
    root = ElementTree.fromstring(report.svg(document))
    bars = [e for e in root.iter() if e.get("class") is not None]

    def heights(kind: str) -> list[float]:
        return [float(b.attrib["height"]) for b in bars if b.get("class") == kind]

    rows = document["buckets"]
    for kind, wanted in {
        "speed": [row["frames_per_s"] for row in rows],
        "unet": [row["unet_ms"] / row["batch"] for row in rows],
        "vae": [row["vae_ms"] / row["batch"] for row in rows],
    }.items():
        drawn = heights(kind)
        assert [h / drawn[0] for h in drawn] == pytest.approx([w / wanted[0] for w in wanted], 0.01)
    # The stages of a bucket stand on one another and end at the base line.
    for i, row in enumerate(rows):
        own = [b for b in bars if b.get("x") == bars[5 * i].get("x") and b.tag.endswith("rect")][:5]
        bottoms = [float(b.attrib["y"]) + float(b.attrib["height"]) for b in own]
        assert bottoms == pytest.approx([370, *(float(b.attrib["y"]) for b in own[:-1])], abs=0.05)
        assert row["batch"]
    levels = [float(b.attrib["y1"]) for b in bars if b.get("class") == "level"]
    assert levels[0] < levels[1]  # the bare model is faster than sessions


def test_the_plot_in_the_docs_is_that_of_its_document() -> None:
    folder = Path(__file__).parents[3] / "docs/benchmarks"
    assert (folder / "engine-cpu.svg").read_text() == report.svg(_published()), (
        "avatar-runtime bench --from docs/benchmarks/engine-cpu.json "
        "--plot docs/benchmarks/engine-cpu.svg"
    )


def test_without_a_known_peak_there_is_no_utilisation() -> None:
    assert measuring.mfu(800.0, 560.0, 989.4) == 0.4528
    assert measuring.mfu(None, 560.0, 989.4) is None
    assert measuring.mfu(800.0, 560.0, None) is None


def test_memory_with_gradients_is_reported_if_it_was_measured() -> None:
    rows = [{"batch": 4, "inference_mib": 520.0, "autograd_mib": None}]
    shown = report.table({**_published(), "autograd": rows})
    assert "batch 4: 520.0 MiB over the weights, does not fit with gradients left on" in shown


@pytest.mark.parametrize("wrong", ["0", "-1", "x"])
def test_a_wrong_number_is_rejected(wrong: str) -> None:
    with pytest.raises(SystemExit):
        command.main(["bench", "--batch-size", wrong])
