"""The results that Jobs leave for the operator: bounded, and with what matters most."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.tools import job_result

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = {"frames": 50, "width": 640, "height": 480, "content_hash": "old"}


def report(**changes: Any) -> dict[str, Any]:
    fault = {"check": "blurred", "frames": 3, "ranges": "1-3", "advice": "Hold still."}
    return {
        "verdict": "usable",
        "sentence": "Usable.",
        "frames": 50,
        "invalid_frames": [4, 5],
        "faults": [fault],
        "warnings": ["the demo model is for drawn faces"],
        "written": {"content_hash": "abc"},
    } | changes


def test_a_prepared_avatar_is_summarised() -> None:
    assert job_result.succeeded(MANIFEST, report()) == {
        "ok": True,
        "frames": 50,
        "width": 640,
        "height": 480,
        "content_hash": "abc",
        "report": {
            "verdict": "usable",
            "sentence": "Usable.",
            "frames": 50,
            "invalid_frames": 2,
            "faults": ["blurred: 3 frames (1-3): Hold still."],
            "warnings": ["the demo model is for drawn faces"],
        },
    }


@given(
    message=st.text(max_size=6000),
    faults=st.lists(st.text(max_size=600), max_size=20),
    sentence=st.text(max_size=3000),
)
def test_a_result_fits_in_a_termination_message(
    message: str, faults: list[str], sentence: str
) -> None:
    items = [{"check": "c", "frames": 1, "ranges": text, "advice": text} for text in faults]
    found = job_result.failed(
        message, permanent=True, report=report(sentence=sentence, faults=items, warnings=faults)
    )
    encoded = job_result.encode(found)
    assert len(encoded) <= job_result.LIMIT_BYTES
    read = json.loads(encoded)
    assert (read["ok"], read["permanent"]) == (False, True)
    assert message.startswith(read["message"])


def test_a_result_is_written_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "message"
    file.write_text("an earlier and longer message")
    job_result.write(file, job_result.failed("no face", permanent=True))
    assert json.loads(file.read_bytes())["message"] == "no face"
    job_result.write(None, {})
