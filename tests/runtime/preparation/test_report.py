"""Tests of the report of a preparation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation import loaded_model, quality, report

if TYPE_CHECKING:
    from pathlib import Path

GOOD = quality.FrameFacts(faces=1, box=Box(100, 100, 300, 320), sharpness=0.1, lip_redness=12.0)
OPEN = quality.FrameFacts(
    faces=1, box=Box(100, 100, 300, 320), sharpness=0.1, lip_redness=12.0, lip_gap=0.1
)
MISSING = quality.FrameFacts(faces=0)
WARNING = (
    "the model was trained on drawn faces, so the mouth of any other face looks wrong, "
    "also in the pictures for silence, which the model redraws"
)


def document(facts: list[quality.FrameFacts], **context: Any) -> dict[str, Any]:
    source = {"name": "a.mp4", "kind": "video", "width": 640, "height": 480}
    made = report.Context(name="eve", source=source, options={}, tools={}, **context)
    return report.document(quality.judge(facts), made)


def test_the_verdict_on_a_good_clip_warns_of_an_unsuitable_model() -> None:
    found = document([GOOD] * 25, warnings=[WARNING])
    sentence = f"The clip is good: none of its 25 frames has a fault; but {WARNING}."
    assert found["sentence"] == sentence
    assert found["warnings"] == [WARNING]
    assert report.text(found).count(WARNING) == 1


def test_a_refused_clip_keeps_its_reason_and_the_warning() -> None:
    found = document([MISSING] * 25, warnings=[WARNING])
    assert WARNING not in found["sentence"]
    assert f"warning: {WARNING}" in report.text(found).splitlines()


def test_a_model_that_says_what_it_was_trained_on_is_warned_of(tmp_path: Path, assets: Any) -> None:
    assert loaded_model.warnings(assets.model, None) == []
    model = tmp_path / "model"
    for path in assets.model.rglob("*"):
        copy = model / path.relative_to(assets.model)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "musetalk.json":
            fields = json.loads(path.read_text()) | {"trained_on": "drawn faces"}
            copy.write_text(json.dumps(fields))
        elif path.is_file():
            copy.symlink_to(path)
    assert loaded_model.warnings(model, None) == [WARNING]


@pytest.mark.parametrize(
    ("drawn", "line"),
    [
        ((), "  mouth: open in 1 of 4 frames"),
        ((1,), "  mouth: open in 1 of 4 frames; 1 picture for silence drawn with it closed"),
        (
            (0, 1, 2),
            "  mouth: open in 1 of 4 frames; 3 pictures for silence drawn with it closed, "
            "also of frames beside the open ones, so that the change is gradual",
        ),
    ],
)
def test_more_pictures_for_silence_than_open_mouths_are_explained(
    drawn: tuple[int, ...], line: str
) -> None:
    found = document([GOOD, OPEN, GOOD, GOOD], idle_frames=drawn)
    assert line in report.text(found).splitlines()


def test_faults_are_printed_as_the_verdict_says_them() -> None:
    facts = [GOOD] * 24 + [MISSING]
    text = report.text(document(facts))
    assert "  no_face: 1 of 25 frames has no face (4%, the limit is 10%): 24" in text.splitlines()
    assert text.startswith(
        "eve: The clip can be used: 1 of 25 frames has faults, but no fault exceeds its limit."
    )
