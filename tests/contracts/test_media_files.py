from __future__ import annotations

import os
from pathlib import Path

import av
import pytest

from avatar_contracts import media_files


@pytest.mark.parametrize("name", ["a.mp4", "a.MOV"])
def test_a_new_file_can_be_written_and_is_not_made(tmp_path: Path, name: str) -> None:
    assert media_files.output_fault("--out", tmp_path / name, media_files.VIDEO_SUFFIXES) is None
    assert not list(tmp_path.iterdir())


def test_an_existing_file_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"old")
    assert media_files.output_fault("--out", tmp_path / "a.mp4") is None
    assert (tmp_path / "a.mp4").read_bytes() == b"old"


def test_a_fault_names_the_option_the_file_and_the_limit(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.mp4")
    limits = {
        "a.txt": "must be a file name that ends in .mp4 or .mov",
        "a": "must be a file name that ends in .mp4 or .mov",
        "folder.mp4": "must be a file, not a folder",
        "none/a.mp4": "must be in a folder that exists",
        "file/a.mp4": "must be a file that can be written (Not a directory)",
        "pipe.mp4": "must be a regular file",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for name, limit in limits.items():
            fault = media_files.output_fault("--out", Path(name), media_files.VIDEO_SUFFIXES)
            assert str(fault) == f"--out is {name!r}, {limit}"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("none.wav", "it does not exist"),
        ("text.wav", "it is not an audio or video file"),
        ("folder", "Is a directory"),
    ],
)
def test_a_fault_of_reading_has_no_number_and_no_path(
    tmp_path: Path, name: str, fault: str
) -> None:
    (tmp_path / "text.wav").write_bytes(b"not a sound " * 99)
    (tmp_path / "folder").mkdir()
    with pytest.raises((OSError, av.FFmpegError)) as caught:
        av.open(str(tmp_path / name))
    assert media_files.read_fault(caught.value) == fault
