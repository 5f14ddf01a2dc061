"""Tests of the arguments of `prepare` and of the checks before any work."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from avatar_runtime import errors
from avatar_runtime.__main__ import main
from avatar_runtime.avatars import manifest, masks
from avatar_runtime.preparation import arguments, command, preview, staging, tracking

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
        (["--source", ""], "--source: is empty, must name a file or a folder"),
        (["--out", ""], "--out: is empty"),
        (["--model", " "], "--model: is empty"),
        (["--sound", "x" * 256], "has 256 bytes, must have at most 4095, and 255 between"),
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
    assert main([*_NEEDED[:-1], "  "]) == 65
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


def test_a_long_text_is_cut_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(errors.AssetError) as caught:
        command.check_output(tmp_path / ("x" * 250), force=False)
    assert f"the name '{'x' * 80}'... (250 characters) must have" in str(caught.value)
    assert "x" * 81 not in str(caught.value)
    with pytest.raises(errors.AssetError) as caught:
        command.check_text("yes", "y" * 101)
    assert f"is '{'y' * 80}'... (101 characters), must be" in str(caught.value)
    assert "y" * 81 not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(errors.AssetError) as caught, staging.opened(gone / "eve", "key"):
        pass
    fault = "the folder .eve-work cannot be made in it: No such file or directory"
    assert str(caught.value) == f"{gone}: {fault}"


_UNUSABLE = [
    pytest.param("--source", "nope.jpg", "nope.jpg: does not exist", id="no source"),
    pytest.param("--dwpose", "nope.onnx", "nope.onnx: does not exist", id="no dwpose"),
    pytest.param("--face-parser", ".", "{folder}: is a folder, must be a file", id="a folder"),
    pytest.param("--sound", "nope.wav", "nope.wav: does not exist", id="no sound"),
    pytest.param(
        "--bbox-shift",
        "5",
        "--bbox-shift: is 5, must be 0 for a model of version v15: v1 alone moves the box",
        id="shift",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "value", "fault"), _UNUSABLE)
def test_an_unusable_input_is_named_before_torch_is_loaded(
    tmp_path: Path, assets: Any, flag: str, value: str, fault: str
) -> None:
    """Runs in a new process, since this one has torch."""
    given = value if flag == "--bbox-shift" else str(tmp_path / value)
    source = [] if flag == "--source" else ["--source", str(tmp_path / "a.mp4")]
    arguments = [
        "prepare", *source, "--model", str(assets.model), "--out", str(tmp_path / "eve"),
        "--consent", "yes", flag, given,
    ]  # fmt: skip
    code = (
        "import sys; from avatar_runtime.__main__ import main; "
        "status = main(sys.argv[1:]); print('torch' in sys.modules); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.stderr.endswith(fault.format(folder=tmp_path) + "\n"), done.stderr
    assert done.stderr.count("\n") == 1
    assert (done.returncode, done.stdout) == (65, "False\n")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "does not exist"),
        (b"", "is not a WAV file, must be one of 16-bit samples"),
        (b"# readme", "is not a WAV file, must be one of 16-bit samples"),
    ],
)
def test_a_sound_that_is_none_is_named(tmp_path: Path, content: bytes | None, fault: str) -> None:
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.AssetError) as caught:
        preview.read_sound(path)
    assert str(caught.value) == f"{path}: {fault}"


def test_force_does_not_replace_what_is_not_an_avatar(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(errors.AssetError, match="exists and is not an avatar"):
        command.check_output(tmp_path / "old", force=True)
    (tmp_path / "old" / "manifest.json").write_text("{}")
    command.check_output(tmp_path / "old", force=True)
