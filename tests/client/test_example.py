"""The example for users runs as it stands."""

from __future__ import annotations

import asyncio
import sys
import wave
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/talk.py"


@pytest.mark.slow
async def test_the_example_writes_a_video_beside_it(avatar: Any, tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "hello.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24000)
        file.writeframes(bytes(9600))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLE), avatar.url, "acme/concierge", "hello.wav"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await child.communicate()
    assert child.returncode == 0
    assert b"5 frames for 200 ms of sound" in printed
    assert (tmp_path / "hello.mp4").stat().st_size > 1000
