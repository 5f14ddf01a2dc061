"""Tests of the arguments of `prepare` and of the checks before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from avatar_runtime import errors
from avatar_runtime.__main__ import main
from avatar_runtime.avatars import manifest, masks
from avatar_runtime.preparation import arguments, command, tracking

if TYPE_CHECKING:
    from pathlib import Path

_NEEDED = ["prepare", "--source", "a.mp4", "--model", "m", "--out", "eve", "--consent", "yes"]


def test_the_arguments_repeat_the_constants_of_the_modules_that_use_them() -> None:
    assert arguments.MASK_MODES == masks.MODES
    assert arguments.PIXELS == manifest.PIXELS
    assert arguments.FACE_RESIZES == manifest.FACE_RESIZES
    assert arguments.CHEEK_WIDTH == masks.CHEEK_WIDTH
    assert arguments.SMOOTHING == tracking.SMOOTHING


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (["--crop", "1,2,3"], "'1,2,3' is not X,Y,W,H"),
        (["--crop", "1,2,8,99"], "must be 16 or more"),
        (["--crop", "-1,2,80,99"], "expected one argument|is not X,Y,W,H"),
        (["--start", "nan"], "'nan' is not seconds from 0"),
        (["--end", "-5"], "expected one argument|is not seconds"),
        (["--upper-boundary", "1.5"], "'1.5' is not a number from 0 to 1"),
        (["--cheek-width", "257"], "'257' is not a whole number from 0 to 256"),
        (["--background", "green"], "'green' is not a colour #rrggbb"),
        (["--pixels", "webp"], "invalid choice: 'webp'"),
        (["--batch-size", "0"], "'0' is not a whole number from 1 to 256"),
        (["--from-upstream", "x"], "not allowed with argument --source"),
    ],
)
def test_a_wrong_argument_names_itself_and_its_limit(
    given: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*_NEEDED, *given])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert any(part in error for part in fault.split("|")), error


def test_consent_is_required_and_not_empty(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(_NEEDED[:-2])
    assert "--consent" in capsys.readouterr().err
    assert main([*_NEEDED[:-1], "  "]) == 1
    assert "--consent: is empty, must say who allowed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("consent", "disclosure", "fault"),
    [
        ("x" * 2001, "", "--consent: has 2001 characters, must be text of at most 2000"),
        ("a\x00", "", "--consent"),
        ("yes", "x" * 101, "--disclosure: is .* 0 to 100 printable characters"),
        ("yes", "two\nlines", "--disclosure"),
    ],
)
def test_texts_keep_to_the_limits_of_the_manifest(
    consent: str, disclosure: str, fault: str
) -> None:
    with pytest.raises(errors.AssetError, match=fault):
        command.check_text(consent, disclosure)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (".eve", "the name '.eve' must have 1 to 200 letters"),
        ("e e", "the name 'e e'"),
        ("x" * 201, "must have 1 to 200"),
        ("missing/eve", "missing: is not a folder; create it first"),
        ("file", "exists and is not an avatar"),
        ("old", "exists; --force replaces it"),
    ],
)
def test_a_wrong_output_is_named_before_any_work(tmp_path: Path, name: str, fault: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "manifest.json").write_text("{}")
    with pytest.raises(errors.AssetError, match=fault):
        command.check_output(tmp_path / name, force=False)


def test_force_does_not_replace_what_is_not_an_avatar(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(errors.AssetError, match="exists and is not an avatar"):
        command.check_output(tmp_path / "old", force=True)
    (tmp_path / "old" / "manifest.json").write_text("{}")
    command.check_output(tmp_path / "old", force=True)
