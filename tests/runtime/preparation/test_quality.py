"""Tests of the verdict on a clip."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation import idle, quality
from avatar_runtime.preparation.faces import OPEN_GAP
from avatar_runtime.preparation.quality import FrameFacts, Grade

if TYPE_CHECKING:
    from collections.abc import Sequence

GOOD = FrameFacts(
    faces=1, box=Box(100, 100, 300, 320), sharpness=0.1, lip_redness=12.0, presence=0.99
)
MISSING = FrameFacts(faces=0)


def _clip(total: int, faults: dict[int, FrameFacts]) -> list[FrameFacts]:
    return [faults.get(i, GOOD) for i in range(total)]


def _names(facts: Sequence[FrameFacts]) -> dict[str, tuple[int, ...]]:
    return {f.check.name: f.frames for f in quality.judge(facts).findings}


def test_a_clip_without_a_fault_is_good() -> None:
    verdict = quality.judge(_clip(250, {}))
    assert verdict.grade is Grade.GOOD
    assert verdict.sentence == "The clip is good: none of its 250 frames has a fault."
    assert quality.judge([GOOD]).sentence == "The clip is good: its only frame has no fault."


def test_a_face_missing_in_the_middle_refuses_the_clip_and_names_the_frames() -> None:
    verdict = quality.judge(_clip(100, dict.fromkeys((*range(12, 41), 66), MISSING)))
    assert verdict.grade is Grade.REFUSED
    assert verdict.sentence == (
        "The clip is refused: 30 of 100 frames have no face (30%, the limit is 10%): 12-40, 66."
    )


@pytest.mark.parametrize(
    ("missing", "grade"),
    [(0, Grade.GOOD), (1, Grade.USABLE), (10, Grade.USABLE), (11, Grade.REFUSED)],
)
def test_the_limit_itself_is_allowed(missing: int, grade: Grade) -> None:
    assert quality.judge(_clip(100, dict.fromkeys(range(missing), MISSING))).grade is grade


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("several_faces", {"faces": 2}),
        ("turned", {"yaw_degrees": -30.5}),
        ("turned", {"pitch_degrees": 31.0}),
        ("small", {"box": Box(100, 100, 195, 320)}),
        ("blurred", {"sharpness": 0.014}),
        ("cut", {"outside_ratio": 0.03}),
        ("covered", {"presence": 0.4}),
        ("covered", {"lip_redness": 3.9}),
    ],
)
def test_each_fault_is_found_in_its_frame(name: str, change: dict[str, Any]) -> None:
    facts = _clip(9, {4: replace(GOOD, **change)})
    if name == "small":
        facts = [replace(GOOD, **change)] * 9  # a single narrow box is a jump as well
        assert _names(facts) == {"small": tuple(range(9))}
    else:
        assert _names(facts) == {name: (4,)}


@pytest.mark.parametrize(
    "change",
    [
        {"yaw_degrees": 30.0},
        {"box": Box(100, 100, 196, 196)},
        {"sharpness": 0.015},
        {"outside_ratio": 0.02},
        {"presence": 0.5},
        {"lip_redness": 4.0},
    ],
)
def test_a_value_at_its_limit_is_not_a_fault(change: dict[str, Any]) -> None:
    facts = (
        [replace(GOOD, **change)] * 9 if "box" in change else _clip(9, {4: replace(GOOD, **change)})
    )
    assert _names(facts) == {}


def test_grey_lips_are_not_covered_lips() -> None:
    grey = replace(GOOD, lip_redness=0.0)
    assert _names([grey] * 20) == {}
    assert _names([grey] * 19 + [replace(grey, lip_redness=-3.0)]) == {}
    assert _names([replace(grey, lip_redness=-3.1)] * 20) == {"covered": tuple(range(20))}


def test_a_box_that_moves_or_changes_its_size_at_once_jumps() -> None:
    moved = replace(GOOD, box=Box(151, 100, 351, 320))
    near = replace(GOOD, box=Box(149, 100, 349, 320))
    larger = replace(GOOD, box=Box(70, 70, 330, 350))
    assert quality.jumps([GOOD, GOOD, moved, moved]) == [2]
    assert quality.jumps([GOOD, near]) == []
    assert quality.jumps([GOOD, larger]) == [1]
    assert quality.jumps([GOOD, MISSING, moved]) == []


def test_many_small_shares_of_faults_refuse_together() -> None:
    turned = replace(GOOD, yaw_degrees=50.0)
    blurred = replace(GOOD, sharpness=0.0)
    faults = dict.fromkeys(range(18), turned) | dict.fromkeys(range(40, 58), blurred)
    verdict = quality.judge(_clip(100, faults))
    assert verdict.grade is Grade.REFUSED
    assert "36 of 100 frames have faults (36%, the limit is 30%): 0-17, 40-57" in verdict.sentence


def test_two_people_are_reported_and_never_refuse() -> None:
    verdict = quality.judge([replace(GOOD, faces=2)] * 10)
    assert verdict.grade is Grade.USABLE
    assert str(verdict.findings[0]) == (
        "10 of 10 frames show several faces (100%, this fault never refuses a clip): 0-9"
    )
    assert (
        verdict.sentence
        == "The clip can be used: 10 of 10 frames have faults, but no fault exceeds its limit."
    )


@pytest.mark.parametrize(
    ("sides", "text"),
    [
        (
            [71],
            "1 of 1 frame has a face of less than 96 pixels, it has 71 (100%, the limit is 20%)",
        ),
        (
            [60, 70, 90],
            "3 of 3 frames have a face of less than 96 pixels, the median is 70 "
            "(100%, the limit is 20%)",
        ),
    ],
)
def test_a_small_face_is_named_with_its_size(sides: list[int], text: str) -> None:
    facts = [replace(GOOD, box=Box(100, 100, 100 + side, 300)) for side in sides]
    small = next(f for f in quality.judge(facts).findings if f.check.name == "small")
    assert small.text == text


@pytest.mark.parametrize("check", quality.CHECKS, ids=lambda check: check.name)
def test_one_frame_has_and_two_frames_have_a_fault(check: quality.Check) -> None:
    one = quality.Finding(check, (0,), 1).text
    two = quality.Finding(check, (0, 1), 3).text
    assert one.startswith(("1 of 1 frame has ", "1 of 1 frame shows ", "1 of 1 frame seems "))
    assert two.startswith(("2 of 3 frames have ", "2 of 3 frames show ", "2 of 3 frames seem "))


def test_an_open_mouth_is_information() -> None:
    verdict = quality.judge(_clip(4, {1: replace(GOOD, lip_gap=0.02)}))
    assert verdict.open_mouths == (1,)
    assert verdict.grade is Grade.GOOD


@pytest.mark.parametrize(("gap", "is_open"), [(OPEN_GAP, True), (OPEN_GAP - 1e-6, False)])
def test_the_report_and_the_pictures_for_silence_have_one_bar(gap: float, is_open: bool) -> None:
    verdict = quality.judge(_clip(3, {1: replace(GOOD, lip_gap=gap)}))
    assert verdict.open_mouths == ((1,) if is_open else ())
    assert (1 in idle.open_mouths([0.0, gap, 0.0])) == is_open


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([], ""),
        ([3], "3"),
        ([3, 4], "3-4"),
        ([*range(12, 41), 66], "12-40, 66"),
        (list(range(0, 40, 2)), "0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22 and 8 more"),
    ],
)
def test_frame_numbers_become_ranges(frames: list[int], text: str) -> None:
    assert quality.ranges(frames) == text


@given(st.sets(st.integers(0, 60), max_size=20))
def test_ranges_name_every_frame_once(frames: set[int]) -> None:
    text = quality.ranges(sorted(frames))
    named: list[int] = []
    for part in text.split(" and ")[0].split(", ") if text else []:
        first, _, last = part.partition("-")
        named += range(int(first), int(last or first) + 1)
    hidden = int(text.split(" and ")[1].split()[0]) if " and " in text else 0
    assert named == sorted(frames)[: len(named)]
    assert len(named) + hidden == len(frames)


_facts = st.builds(
    FrameFacts,
    faces=st.integers(0, 3),
    box=st.one_of(st.none(), st.just(Box(10, 10, 90, 90)), st.just(GOOD.box)),
    yaw_degrees=st.floats(-90, 90),
    pitch_degrees=st.floats(-90, 90),
    presence=st.floats(0, 1),
    lip_gap=st.floats(0, 1),
    sharpness=st.floats(0, 1),
    lip_redness=st.floats(-20, 40),
    outside_ratio=st.floats(0, 1),
)


@given(st.lists(_facts, min_size=1, max_size=60))
def test_the_grade_follows_from_the_faults(facts: list[FrameFacts]) -> None:
    verdict = quality.judge(facts)
    assert (verdict.grade is Grade.GOOD) == (not verdict.findings)
    if any(finding.refuses for finding in verdict.findings):
        assert verdict.grade is Grade.REFUSED
    for finding in verdict.findings:
        assert list(finding.frames) == sorted(set(finding.frames))
        assert all(0 <= i < len(facts) for i in finding.frames)
    if all(fact.box is None for fact in facts):
        assert verdict.grade is Grade.REFUSED
