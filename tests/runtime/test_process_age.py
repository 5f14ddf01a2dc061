from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from avatar_runtime import process_age

if TYPE_CHECKING:
    from pathlib import Path


def test_the_age_is_the_uptime_without_the_time_of_the_start(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text(f"7 (a) odd (name) S {'0 ' * 18}{100 * ticks} 0 0")
    (tmp_path / "uptime").write_text("112.50 400.00\n")
    assert process_age.seconds(tmp_path / "stat", tmp_path / "uptime") == 12.5


@pytest.mark.parametrize("stat", ["", "7 (a) S 1", "nothing"])
def test_what_the_system_does_not_say_is_unknown(tmp_path: Path, stat: str) -> None:
    (tmp_path / "stat").write_text(stat)
    assert process_age.seconds(tmp_path / "stat", tmp_path / "missing") is None


def test_this_process_has_an_age() -> None:
    age = process_age.seconds()
    assert age is not None
    assert age > 0
