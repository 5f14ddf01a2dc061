"""Tests of importing an avatar folder of upstream MuseTalk."""

from __future__ import annotations

import json
import os
import pickle
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from avatar_runtime import errors
from avatar_runtime.__main__ import main
from avatar_runtime.avatars import cache, geometry
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation import from_upstream

if TYPE_CHECKING:
    from pathlib import Path

N = 4
_SIDE = 160


def _box(index: int) -> tuple[int, int, int, int]:
    return (40 + index, 30, 136 + index, 140)


def _write(folder: Path, *, doubled: bool = True, missing: int | None = None) -> Path:
    """Write what upstream writes: every list forward, then reversed."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (_SIDE, _SIDE, 3), np.uint8) for _ in range(N)]
    boxes = [_box(i) if i != missing else (0, 0, 0, 0) for i in range(N)]
    crops = [geometry.crop_box(Box(*_box(i))) for i in range(N)]
    masks = [np.full((crop.height, crop.width), 200 + i, np.uint8) for i, crop in enumerate(crops)]
    order = [*range(N), *reversed(range(N))] if doubled else list(range(N))
    for name, pictures in (("full_imgs", frames), ("mask", masks)):
        (folder / name).mkdir(parents=True)
        for at, i in enumerate(order):
            cv2.imwrite(str(folder / name / f"{at:08d}.png"), pictures[i])
    numbers = [tuple(np.int64(v) for v in boxes[i]) for i in order]
    rows = [[c.x1, c.y1, c.x2, c.y2] for c in (crops[i] for i in order)]
    (folder / "coords.pkl").write_bytes(pickle.dumps(numbers))
    (folder / "mask_coords.pkl").write_bytes(pickle.dumps(rows))
    return folder


@pytest.mark.parametrize("doubled", [True, False])
def test_each_frame_is_read_once(tmp_path: Path, doubled: bool) -> None:
    found = from_upstream.read(_write(tmp_path / "a", doubled=doubled))
    assert found.boxes == tuple(Box(*_box(i)) for i in range(N))
    assert [path.name for path in found.pictures] == [f"{i:08d}.png" for i in range(N)]
    assert len(found.masks) == len(found.crops) == N
    word = "forward and reversed, are 4 frames" if doubled else "all are used"
    assert word in found.notes[0]


def test_a_still_picture_that_is_not_doubled_is_not_halved(tmp_path: Path) -> None:
    folder = _write(tmp_path / "a", doubled=False)
    for name, row in (("coords", _box(0)), ("mask_coords", (10, 10, 20, 20))):
        (folder / f"{name}.pkl").write_bytes(pickle.dumps([row] * N))
    assert len(from_upstream.read(folder).boxes) == N


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda f: (f / "coords.pkl").unlink(), "coords.pkl: does not exist"),
        (lambda f: (f / "mask" / "00000007.png").unlink(), "must be equal: .* mask 7"),
        (lambda f: (f / "mask" / "00000003.png").unlink(), "a file is missing"),
        (
            lambda f: (f / "coords.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR."),
            "instruction STRING|uses 'os.system'",
        ),
        (
            lambda f: (
                (f / "mask" / "00000000.png").unlink()
                or (f / "mask" / "00000000.png").symlink_to("/etc/hostname")
            ),
            "is not a regular file",
        ),
        (lambda f: os.rename(f / "full_imgs", f / "imgs"), "full_imgs: does not exist"),
    ],
    ids=["no boxes", "fewer masks", "gap", "program", "link", "no pictures"],
)
def test_a_wrong_folder_is_refused_with_the_file(tmp_path: Path, spoil: Any, fault: str) -> None:
    folder = _write(tmp_path / "a")
    spoil(folder)
    with pytest.raises(errors.AssetError, match=fault):
        from_upstream.read(folder)


@pytest.mark.slow
def test_boxes_masks_and_pictures_are_kept_and_latents_made_again(
    tmp_path: Path, assets: Any, tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _write(tmp_path / "a")
    (folder / "latents.pt").write_bytes(b"never read")
    status = main(
        [
            "prepare", "--from-upstream", str(folder), "--model", str(assets.model), "--json",
            "--out", str(tmp_path / "eve"), "--consent", "drawn", "--pixels", "png",
        ]
    )  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert status == 0, report
    avatar = cache.read(tmp_path / "eve")
    assert avatar.manifest.frames == N
    assert avatar.manifest.source["kind"] == "upstream"
    for i in range(N):
        assert avatar.box(i) == Box(*_box(i))
        assert (avatar.mask(i) == 200 + i).all()
        stored = cv2.imread(str(folder / "full_imgs" / f"{i:08d}.png"))
        np.testing.assert_array_equal(avatar.decode(i), stored)
    assert any("were not checked" in note for note in report["notes"])


@pytest.mark.slow
def test_a_frame_without_a_face_is_invalid_and_its_mask_is_not_read(
    tmp_path: Path, assets: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _write(tmp_path / "a", missing=2)
    status = main(
        [
            "prepare", "--from-upstream", str(folder), "--model", str(assets.model), "--json",
            "--out", str(tmp_path / "eve"), "--consent", "drawn",
        ]
    )  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    # 1 of 4 frames is above the limit of 10 %.
    assert status == 65
    assert [(f["check"], f["frame_numbers"]) for f in report["faults"]] == [("no_face", [2])]
