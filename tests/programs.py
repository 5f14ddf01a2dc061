"""Other programs that tests run, with a limit of time."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

import pytest


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program has ended, and what it printed."""

    status: int
    output: str
    errors: str


async def run(*command: str, limit_s: float, **variables: str) -> Ended:
    """Run a program with additional variables; the test fails if it does not end in time."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    is_late = False
    try:
        async with asyncio.timeout(limit_s):
            output, errors = await process.communicate()
    except TimeoutError:
        is_late = True
        process.kill()
        output, errors = await process.communicate()
    assert process.returncode is not None
    ended = Ended(process.returncode, output.decode(), errors.decode())
    if is_late:
        printed = (ended.output + ended.errors)[-2000:]
        pytest.fail(f"{command[0]} has not ended in {limit_s:g} s: {printed}")
    return ended
