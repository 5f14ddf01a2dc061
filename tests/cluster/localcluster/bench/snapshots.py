"""What the snapshots of speaking sessions cost a pod: CPU time and bytes.

`python -m localcluster.bench.snapshots` runs one runtime with a simulated GPU and sessions that
speak without a pause. A reader of the snapshots comes and goes, so that both figures are of one
run:

    PYTHONPATH=tests/cluster python -m localcluster.bench.snapshots --sessions 8 --answer-s 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import aiohttp
from websockets.asyncio.client import connect

from avatar_client.resuming import ResumingSocket
from avatar_client.session import Session
from avatar_client.sound import Sound
from avatar_client.traces import Trace
from avatar_contracts import labels
from localcluster import runtime_process

if TYPE_CHECKING:
    from collections.abc import Sequence

GATEWAY = "bench"
RATE = 24_000


class Reader:
    """Reads the snapshots of a pod, and counts them."""

    def __init__(self, url: str) -> None:
        self.snapshots = self.bytes = 0
        self._url = f"{url}{labels.SNAPSHOTS_PATH}"

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(self._url, params={"gateway": GATEWAY}) as response,
        ):
            while line := await response.content.readuntil(b"\n"):
                if line == b"\n":
                    continue
                size = json.loads(line)["bytes"]
                await response.content.readexactly(size)
                self.snapshots += 1
                self.bytes += size


async def speak(url: str, number: int, sound: Sound) -> None:
    """Speak one utterance after the other, at the pace of a microphone."""
    headers = {labels.CONNECTION_HEADER: f"{GATEWAY}/{number}"}
    address = f"{url.replace('http', 'ws')}/v1/realtime"
    async with connect(address, additional_headers=headers, compression=None, max_size=2**25) as ws:
        live = Session(ResumingSocket(ws, None), Trace(keep_media=False))
        reading = asyncio.create_task(live.read())
        await live.wait_for("session.created")
        await live.update({"audio": {"input": {"turn_detection": None}}})
        if not sound.pcm:  # silent
            await reading
        while True:
            await live.speak(sound)
            assert not reading.done()


async def measure(
    sessions: int, answer_s: float, window_s: float, rounds: int
) -> dict[str, object]:
    """Return the cost of each session, with the reader and without it."""
    sound = Sound(Random(1).randbytes(int(RATE * 2 * answer_s) // 2 * 2), RATE)
    cpu = {True: 0.0, False: 0.0}
    read = [0, 0]
    with (
        tempfile.TemporaryDirectory() as folder,
        runtime_process.serving(
            Path(folder) / "log",
            16,
            {"AVATAR_POD": "p1", "AVATAR_CAPACITY": str(sessions)},
            device="simulated:h100-80gb",
        ) as runtime,
    ):
        callers = [
            asyncio.create_task(speak(runtime.url, number, sound)) for number in range(sessions)
        ]
        await asyncio.sleep(3)
        for turn in range(2 * rounds):
            is_read = turn % 2 == 0
            reader = Reader(runtime.admin)
            task = asyncio.create_task(reader.run()) if is_read else None
            before = runtime.cpu_s()
            await asyncio.sleep(window_s)
            cpu[is_read] += runtime.cpu_s() - before
            if task is not None:
                task.cancel()
                read[0] += reader.snapshots
                read[1] += reader.bytes
        assert not any(caller.done() for caller in callers)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    seconds = window_s * rounds * sessions
    return {
        "sessions": sessions,
        "answer_s": answer_s,
        "cpu_with_percent": round(100 * cpu[True] / seconds, 2),
        "cpu_without_percent": round(100 * cpu[False] / seconds, 2),
        "cpu_of_snapshots_percent": round(100 * (cpu[True] - cpu[False]) / seconds, 2),
        "snapshots_per_s": round(read[0] / seconds, 2),
        "bytes_per_s": round(read[1] / seconds),
        "bytes_per_snapshot": round(read[1] / max(1, read[0])),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--answer-s", type=float, default=5.0, help="0: the sessions are silent")
    parser.add_argument("--window-s", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    measured = measure(options.sessions, options.answer_s, options.window_s, options.rounds)
    print(json.dumps(asyncio.run(measured), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
