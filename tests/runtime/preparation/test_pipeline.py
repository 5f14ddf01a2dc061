"""Tests of whole preparations with the real detector and a small random model."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from avatar_runtime.__main__ import main
from avatar_runtime.avatars import cache, work_folder
from avatar_runtime.preparation import making, meter, pipeline, staging

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

CONSENT = "A photograph by NASA in the public domain."


@pytest.fixture
def prepare(
    assets: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Any]]:
    """Return a caller of the command: `prepare(source, *arguments)` gives status and report."""

    def run(source: Path, *more: str) -> tuple[int, Any]:
        (tmp_path / "avatars").mkdir(exist_ok=True)
        status = main(
            [
                "prepare", "--source", str(source), "--model", str(assets.model),
                "--out", str(tmp_path / "avatars" / "eve"), "--consent", CONSENT,
                "--device", "cpu", "--json", *more,
            ]
        )  # fmt: skip
        captured = capsys.readouterr()
        return status, json.loads(captured.out) if captured.out else captured.err

    return run


def test_a_clip_becomes_an_avatar_that_the_runtime_reads(
    prepare: Any, write_clip: Any, tmp_path: Path, assets: Any
) -> None:
    clip = write_clip(tmp_path / "clip", 56)
    status, report = prepare(clip, "--disclosure", "AI generated")
    assert status == 0
    assert report["verdict"] == "good", report["sentence"]
    avatar = cache.read(tmp_path / "avatars" / "eve")
    assert avatar.manifest.frames == 56
    assert avatar.manifest.consent == CONSENT
    assert avatar.manifest.disclosure == "AI generated"
    assert avatar.manifest.source["name"] == "clip"
    assert avatar.info.content_hash == report["written"]["content_hash"]
    assert all(avatar.valid(i) for i in range(56))
    # The astronaut smiles with open lips in every frame.
    assert report["mouth_open"]["frames"] == 56
    assert all(avatar.has_idle(i) for i in range(56))
    assert not work_folder.path_of(tmp_path / "avatars" / "eve").exists()
    assert set(meter.STAGES) - {"alpha"} == set(report["timings_ms"])
    assert not avatar.info.has_alpha


def test_a_picture_with_transparent_pixels_becomes_an_avatar_with_alpha(
    prepare: Any, frame_of: Any, tmp_path: Path
) -> None:
    opaque = np.clip(np.arange(432)[:, None] * 2 - 40 + np.zeros(480), 0, 255).astype(np.uint8)
    photo = tmp_path / "cut.png"
    assert cv2.imwrite(str(photo), np.dstack([frame_of(0), opaque]))
    status, report = prepare(photo, "--background", "#00b140")
    assert status == 0
    assert report["timings_ms"]["alpha"]
    avatar = cache.read(tmp_path / "avatars" / "eve")
    assert avatar.info.has_alpha
    assert avatar.backdrop == (0x40, 0xB1, 0)
    for index in range(avatar.manifest.frames):
        assert np.abs(avatar.alpha(index).astype(int) - opaque).max() <= 1


def test_the_folder_has_the_report_and_a_contact_sheet(
    prepare: Any, write_clip: Any, tmp_path: Path
) -> None:
    _, report = prepare(write_clip(tmp_path / "clip", 25))
    folder = tmp_path / "avatars" / "eve"
    assert json.loads((folder / "report.json").read_text()) == report
    sheet = cv2.imread(str(folder / "preview.jpg"))
    assert sheet is not None
    assert sheet.shape == (3 * 256, 6 * 256, 3)
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", "avatar.safetensors", "pixels.safetensors", "report.json", "preview.jpg",
    }  # fmt: skip
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())


def test_equal_inputs_give_equal_bytes(prepare: Any, write_clip: Any, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip", 25)
    hashes = {prepare(clip, "--force")[1]["written"]["content_hash"] for _ in range(2)}
    assert len(hashes) == 1


def test_two_faces_are_reported_and_the_larger_one_is_followed(
    prepare: Any, write_clip: Any, tmp_path: Path
) -> None:
    def with_another(_: int, frame: Any) -> Any:
        small = cv2.resize(frame, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
        wide = np.hstack([frame, np.zeros_like(frame)])
        wide[: small.shape[0], frame.shape[1] : frame.shape[1] + small.shape[1]] = small
        return wide

    status, report = prepare(write_clip(tmp_path / "clip", 25, with_another))
    assert status == 0
    assert [(f["check"], f["ranges"]) for f in report["faults"]] == [("several_faces", "0-24")]
    avatar = cache.read(tmp_path / "avatars" / "eve")
    assert all(avatar.box(i).x2 < 480 for i in range(25))


@pytest.mark.parametrize(
    ("name", "ranges", "edit"),
    [
        ("no_face", "20-39", lambda i, f: np.full_like(f, 90) if 20 <= i < 40 else f),
        ("cut", "0-59", lambda i, f: f[:, 215:]),
        ("blurred", "0-59", lambda i, f: cv2.GaussianBlur(f, (0, 0), 3)),
        (
            "covered",
            "30-59",
            lambda i, f: cv2.circle(f, (238, 209), 36, (190, 190, 190), -1) if i >= 30 else f,
        ),
        ("small", "0-59", lambda i, f: cv2.resize(f, None, fx=0.6, fy=0.6)),
    ],
    ids=["no face in the middle", "cut at the edge", "blurred", "covered", "small"],
)
def test_a_bad_clip_is_refused_with_the_frames_and_nothing_is_written(
    prepare: Any, write_clip: Any, tmp_path: Path, name: str, ranges: str, edit: Any
) -> None:
    status, report = prepare(write_clip(tmp_path / "clip", 60, edit))
    assert status == 65
    assert report["verdict"] == "refused"
    refusing = {f["check"]: f["ranges"] for f in report["faults"] if f["refuses"]}
    assert refusing.get(name) == ranges, report["sentence"]
    assert report["written"] is None
    assert list((tmp_path / "avatars").iterdir()) == []


def test_a_frame_without_a_face_shows_the_source_picture(
    prepare: Any, write_clip: Any, tmp_path: Path
) -> None:
    status, report = prepare(
        write_clip(tmp_path / "clip", 30, lambda i, f: np.full_like(f, 90) if i == 7 else f)
    )
    assert status == 0
    assert report["verdict"] == "usable"
    assert report["invalid_frames"] == [7]
    avatar = cache.read(tmp_path / "avatars" / "eve")
    assert [avatar.valid(i) for i in (6, 7, 8)] == [True, False, True]
    assert avatar.box(7) == avatar.box(6)
    assert not avatar.has_idle(7)


def test_a_clip_without_any_face_is_refused(prepare: Any, write_clip: Any, tmp_path: Path) -> None:
    status, report = prepare(write_clip(tmp_path / "clip", 25, lambda i, f: np.full_like(f, 90)))
    assert status == 65
    assert report["sentence"] == (
        "The clip is refused: 25 of 25 frames have no face (100%, the limit is 10%): 0-24."
    )


def test_an_existing_avatar_is_replaced_only_by_force(
    prepare: Any, write_clip: Any, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip", 25)
    assert prepare(clip)[0] == 0
    status, error = prepare(clip)
    assert status == 65
    assert "eve: exists; --force replaces it" in error
    status, report = prepare(clip, "--force", "--pixels", "png")
    assert status == 0
    avatar = cache.read(tmp_path / "avatars" / "eve")
    assert avatar.manifest.pixels == "png"
    assert avatar.info.content_hash == report["written"]["content_hash"]


def test_another_run_on_the_same_output_is_refused(
    prepare: Any, write_clip: Any, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip", 25)
    (tmp_path / "avatars").mkdir()
    with staging.opened(tmp_path / "avatars" / "eve", "key"):
        status, error = prepare(clip)
    assert status == 75
    assert "another process prepares this avatar now" in error


def test_a_full_disk_is_named_and_the_chunks_stay(
    prepare: Any, write_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "clip", 60)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(making, "make", full)
        status, error = prepare(clip)
    assert status == 75
    assert "the disk is full; free some space" in error
    assert (tmp_path / "avatars" / ".eve-work" / "seen-000001.safetensors").is_file()
    status, report = prepare(clip)
    assert status == 0
    assert any("continued" in note for note in report["notes"])


def test_other_options_start_again_and_say_so(
    prepare: Any, write_clip: Any, tmp_path: Path
) -> None:
    (tmp_path / "avatars").mkdir()
    with staging.opened(tmp_path / "avatars" / "eve", "other inputs") as work:
        work.save("seen", 0, {"facts": np.zeros(1)})
    _, report = prepare(write_clip(tmp_path / "clip", 25))
    assert report["notes"] == ["an earlier run had other inputs and was not continued"]


def test_opencv_has_its_threads_again_after_a_preparation_that_fails() -> None:
    before = cv2.getNumThreads()
    with contextlib.suppress(OSError), pipeline.one_opencv_thread():
        assert cv2.getNumThreads() == 1
        raise OSError(28, "the disk is full")
    assert cv2.getNumThreads() == before
