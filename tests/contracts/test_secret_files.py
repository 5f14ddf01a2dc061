from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_contracts import secret_files

if TYPE_CHECKING:
    from pathlib import Path


def test_text_of_a_file_has_no_line_end(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" abc\n", encoding="utf-8")
    assert secret_files.read(tmp_path / "key") == "abc"


def test_file_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    assert secret_files.read(tmp_path / "key") == ""
    assert secret_files.read(tmp_path / "missing") == ""
    assert secret_files.read(tmp_path) == ""


def test_current_key_comes_before_the_previous_one(tmp_path: Path) -> None:
    assert secret_files.current_and_previous(str(tmp_path / "none"), "key") == ()
    (tmp_path / "previous-key").write_text("old", encoding="utf-8")
    assert secret_files.current_and_previous(str(tmp_path), "key") == ("old",)
    (tmp_path / "key").write_text("new", encoding="utf-8")
    assert secret_files.current_and_previous(str(tmp_path), "key") == ("new", "old")
    (tmp_path / "previous-key").write_text("\n", encoding="utf-8")
    assert secret_files.current_and_previous(str(tmp_path), "key") == ("new",)
