"""A runtime on a simulated device, with and without TLS, and what a microphone hears."""

from __future__ import annotations

import array
import asyncio
import os
import random
import re
import sys
import wave
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import pytest_asyncio
from tests import certificates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT: Final = Path(__file__).parents[2]
RATE: Final = 24000
SENTENCES: Final = ((0.0, 0.9), (1.8, 2.7), (5.0, 5.9))
"""Parts of the example speech, seconds: three turns."""
PAUSE_S: Final = 4.0
"""Noise after each turn: 0.5 s that end it, 1.7 s for its answer, and what a slow machine is late.
The next turn interrupts an answer that is not over."""
NOISE: Final = 60
"""Standard deviation of the noise, which is 55 dB below full scale."""
START_S: Final = 60.0


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[int]:
    """Run `avatar-runtime serve` on a simulated device, and give its port."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avatar_runtime", "serve"),
        *("--model", "examples/models/demo", "--avatars", "examples/avatars"),
        *("--device", "simulated:h100-80gb", "--batch-size", "8"),
        *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *arguments),
        cwd=ROOT,
        env={**os.environ, "AVATAR_LOG_FORMAT": "text"},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(START_S):
            port, lines = 0, list[str]()
            while not lines or " ready " not in lines[-1]:
                lines.append((await process.stderr.readline()).decode())
                assert lines[-1], f"the runtime ended: {''.join(lines)}"
                if found := re.search(r"listening sessions=127\.0\.0\.1:(\d+)", lines[-1]):
                    port = int(found[1])
        reading = asyncio.create_task(process.stderr.read())
        yield port
        process.kill()
        assert b"Traceback" not in await reading
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server() -> AsyncIterator[str]:
    """Give the address of a runtime."""
    async with running() as port:
        yield f"ws://127.0.0.1:{port}"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tls_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[str, Path]]:
    """Give the address of a runtime with TLS, and the certificate that its clients trust."""
    files = certificates.make(tmp_path_factory.mktemp("tls"))
    arguments = ("--tls-certificate", str(files.certificate), "--tls-key", str(files.key))
    async with running(*arguments) as port:
        yield f"https://localhost:{port}", files.certificate


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file with three turns in the noise of a room."""
    with wave.open(str(ROOT / "examples/speech.wav")) as file:
        assert file.getframerate() == RATE
        said = array.array("h", file.readframes(file.getnframes()))
    generator = random.Random(1)
    sound = array.array("h")
    for start, end in SENTENCES:
        sound += said[int(start * RATE) : int(end * RATE)]
        sound.extend(int(generator.gauss(0, NOISE)) for _ in range(int(PAUSE_S * RATE)))
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    with wave.open(str(path), "wb") as made:
        made.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        made.writeframes(sound.tobytes())
    return path
