"""The drawn faces."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from avatar_training.face import draw, draw_crop, draw_frame
from avatar_training.identities import IDENTITIES
from avatar_training.measuring import cave_area
from avatar_training.painting import View
from avatar_training.posing import (
    FRAME,
    Mouth,
    Pose,
    face_box,
    moving_region,
    redrawn_region,
    swaying,
)

ANNA = IDENTITIES["anna"]


@pytest.mark.slow
@pytest.mark.parametrize("name", IDENTITIES)
def test_the_inside_of_the_mouth_grows_with_its_opening(name: str) -> None:
    areas = [
        cave_area(draw_crop(IDENTITIES[name], Pose(), Mouth(open=o), 128))
        for o in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert areas == sorted(areas)
    assert areas[-1] > areas[0] + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("change", ["wide", "round", "teeth", "tongue"])
def test_every_parameter_changes_the_picture(change: str) -> None:
    low, high = (
        draw_crop(ANNA, Pose(), Mouth(**({"open": 0.5} | {change: value})), 96).astype(int)
        for value in (0.0, 1.0)
    )
    assert np.abs(low - high)[60:].max() > 40


@pytest.mark.slow
def test_only_the_lower_half_of_the_face_box_moves_with_the_mouth() -> None:
    closed, opened = (draw_crop(ANNA, Pose(), Mouth(open=o), 128).astype(int) for o in (0, 1))
    changed = np.abs(closed - opened).max(axis=(1, 2))
    assert changed[:60].max() == 0
    assert changed[80:110].max() > 60


def test_the_face_box_is_symmetrical_about_the_nose_with_the_margin_below() -> None:
    x1, y1, x2, y2 = face_box(Pose())
    nose = FRAME * 0.47
    assert abs((nose - y1) - (y2 - 10 - nose)) <= 1
    assert abs((x1 + x2) / 2 - FRAME / 2) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", IDENTITIES)
def test_no_mouth_moves_anything_outside_the_moving_region(name: str) -> None:
    pose, who = Pose(dx=2, tilt=1, yaw=0.5), IDENTITIES[name]
    outside = moving_region(pose) == 0
    rest = draw_frame(who, pose, Mouth()).astype(int)
    for mouth in (Mouth(open=1), Mouth(open=1, wide=1), Mouth(wide=1), Mouth(open=0.4, round=1)):
        moved = np.abs(draw_frame(who, pose, mouth).astype(int) - rest).max(axis=2)
        assert moved[outside].max() <= 2
        assert moved[~outside].max() > 40


def test_the_mask_is_smaller_than_the_moving_region() -> None:
    moving, redrawn = moving_region(Pose()) > 0, redrawn_region(Pose()) > 0
    assert not (redrawn & ~moving).any()
    assert 0.4 < redrawn.sum() / moving.sum() < 0.7


def test_the_moving_region_lies_in_the_lower_half_of_the_face_box() -> None:
    rows, columns = (np.flatnonzero(moving_region(Pose()).any(axis=axis)) for axis in (1, 0))
    x1, y1, x2, y2 = face_box(Pose())
    assert (y1 + y2) // 2 <= rows[0]
    assert x1 + 7 < columns[0]
    assert columns[-1] < x2 - 7


@pytest.mark.slow
def test_a_crop_equals_the_same_region_of_the_frame() -> None:
    pose, mouth = Pose(tilt=1.5, dx=2, yaw=0.4), Mouth(open=0.6, teeth=0.3)
    x1, y1, x2, y2 = face_box(pose)
    frame = draw_frame(ANNA, pose, mouth)[y1:y2, x1:x2]
    view = View(x1, y1, x2, y2, x2 - x1, y2 - y1)
    difference = np.abs(draw(ANNA, pose, mouth, view).astype(int) - frame)
    assert difference.mean() < 0.5


@pytest.mark.slow
def test_edges_are_anti_aliased() -> None:
    frame = draw_frame(ANNA, Pose(), Mouth())
    shoulder = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)[320].astype(int)
    # A hard edge would jump at once; a smooth one passes through values between.
    steps = np.abs(np.diff(shoulder))
    edge = int(steps[:120].argmax())
    assert (steps[edge - 1 : edge + 2] > 4).sum() >= 2


def test_the_loop_has_no_speed_where_it_reverses() -> None:
    poses = swaying(48)
    for one, other in ((poses[0], poses[1]), (poses[-2], poses[-1])):
        assert abs(one.dx - other.dx) < 0.02
        assert abs(one.tilt - other.tilt) < 0.02
    assert poses[-1].blink == 1.0
    assert poses[0].blink == 0.0


def test_a_blink_closes_the_eyes_and_nothing_else() -> None:
    opened, closed = (draw_crop(ANNA, Pose(blink=b), Mouth(), 128).astype(int) for b in (0, 1))
    rows = np.flatnonzero(np.abs(opened - closed).max(axis=(1, 2)) > 8)
    assert rows.size
    assert rows[0] > 20
    assert rows[-1] < 64
