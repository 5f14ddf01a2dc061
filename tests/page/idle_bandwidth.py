"""Measure what a session takes while nobody speaks: `python -m tests.page.idle_bandwidth`.

It counts the bytes of the messages of whole groups of pictures, 2 s each, and writes them to
`build/bench/page-idle.json`. They depend on the avatar and on nothing of the machine.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

from tests.runtime.serving import runtime_page
from websockets.asyncio.client import connect

from avatar_client.binary_media import BinaryMediaReader

ROOT: Final = Path(__file__).parents[2]
RECORD: Final = ROOT / "build/bench/page-idle.json"
FPS: Final = 25
GROUP: Final = 2 * FPS
GROUPS: Final = 5
MODES: Final = ("jpeg", "h264", "fmp4")
TRANSPORTS: Final = ("json", "binary")
_LIMIT_S: Final = 120


async def main() -> None:
    """Measure each mode in each transport, one after the other."""
    found: dict[str, dict[str, float]] = {}
    async with runtime_page.runtime(ROOT / "examples/avatars") as address:
        for mode in MODES:
            found[mode] = {
                each: round(await _measure(address, mode, each), 1) for each in TRANSPORTS
            }
    record = {
        "command": "python -m tests.page.idle_bandwidth",
        "avatar": "examples/avatars/anna, 384 x 384, quality 80",
        "unit": "kB/s at 25 frames/s",
        "seconds": GROUPS * GROUP / FPS,
        "kilobytes_per_s": found,
    }
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


async def _measure(address: str, mode: str, transport: str) -> float:
    """Return the kilobytes per second of idle frames."""
    url = f"{address.replace('http', 'ws')}/v1/realtime?avatar=anna"
    avatar = {"video": {"mode": mode}, "transport": transport, "idle": "stream"}
    update = {"type": "session.update", "session": {"type": "realtime", "avatar": avatar}}
    reader, frames, size = BinaryMediaReader(), 0, 0
    async with asyncio.timeout(_LIMIT_S), connect(url, max_size=None) as socket:
        await socket.send(json.dumps(update))
        async for message in socket:
            event = _event(reader, message)
            if event.get("mode") != mode:
                continue
            frames += 1
            if frames > GROUP:  # the first one has the header of the file
                size += len(message)
            if frames == GROUP * (GROUPS + 1):
                break
    return size / (GROUPS * GROUP) * FPS / 1000


def _event(reader: BinaryMediaReader, message: str | bytes) -> dict[str, Any]:
    if isinstance(message, bytes):
        return reader.read(message)
    event: dict[str, Any] = json.loads(message)
    reader.observe(event)
    return event


if __name__ == "__main__":
    asyncio.run(main())
