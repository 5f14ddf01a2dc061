"""Whether clients that read slowly, or not at all, harm others: exactly, in virtual time.

Sessions that are well connected speak beside others of one kind: none, twenty on a fast network,
twenty on one of 1 Mbit/s each, and twenty that stop reading. The sessions, the batcher and the
connections are those of the runtime; the device takes the time of a curve that carries all of them.
The processor time is real. `slow_sockets` measures the same on sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from avatar_client import sound
from localcluster import paths, virtual_runtime
from localcluster.bench import record
from localcluster.virtual_runtime import VirtualClient, VirtualEngine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from localcluster.virtual_runtime import VirtualLoop

SPEECH: Final = paths.REPOSITORY / "examples" / "speech.wav"
RATES: Final[dict[str, float | None]] = {"fast": None, "slow": 1_000_000 / 8, "stopped": 0.0}
CURVE_MS: Final = ((1, 4.0), (4, 6.0), (8, 9.0), (16, 14.0), (32, 24.0))
JPEG_BYTES: Final = 20_000
"""Of a frame of 384 x 384."""
LATE_S: Final = 0.080
EFFECT: Final = 0.01
"""The share of frames by which slow clients may harm others, and of the first frame's time."""
PAUSE_S: Final = 0.5


def main() -> int:
    """Measure, write the record, and fail if slow clients harm others."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.slow_clients", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--sessions", type=int, default=6, help="that are measured")
    parser.add_argument("--others", type=int, default=20)
    parser.add_argument("--utterances", type=int, default=3, help="of each session, 7.4 s each")
    options = parser.parse_args()
    rows = measure(options.sessions, options.others, options.utterances)
    print(json.dumps(rows, indent=2))
    about = {name: getattr(options, name) for name in ("sessions", "others", "utterances")}
    device = {"frame_batch_ms": CURVE_MS, "jpeg_bytes": JPEG_BYTES}
    record.write(options.out, 0, "none", {**about, "virtual_device": device, "phases": rows})
    found = missed(rows)
    for line in found:
        print(f"MISSED: {line}")
    return 1 if found else 0


def measure(sessions: int, others: int, utterances: int) -> dict[str, dict[str, Any]]:
    """Return the figures of each kind of others."""
    counts = {"alone": 0, **dict.fromkeys(RATES, others)}
    return {
        kind: virtual_runtime.run(
            partial(phase, kind=kind, sessions=sessions, others=count, utterances=utterances)
        )
        for kind, count in counts.items()
    }


async def phase(
    loop: VirtualLoop, *, kind: str, sessions: int, others: int, utterances: int
) -> dict[str, Any]:
    """Measure some sessions beside others of one kind."""
    words = sound.read(SPEECH)
    runtime, live = await virtual_runtime.start(
        loop, VirtualEngine(CURVE_MS, b"\xff\xd8" + bytes(JPEG_BYTES - 2))
    )
    measured = [VirtualClient() for _ in range(sessions)]
    beside = [VirtualClient(RATES[kind]) for _ in range(others)]
    cpu_s, began = time.process_time(), loop.time()
    async with asyncio.TaskGroup() as group:
        batcher = group.create_task(runtime.batcher.run())
        served = [group.create_task(client.serve(runtime, live)) for client in [*measured, *beside]]
        length_s = words.duration_s + PAUSE_S
        talks = [
            group.create_task(talk(client, words.pcm, utterances, number * length_s / len(clients)))
            for clients in (measured, beside)
            for number, client in enumerate(clients)
        ]
        await asyncio.wait(talks[:sessions])
        seconds, cpu_s = loop.time() - began, time.process_time() - cpu_s
        await asyncio.wait(talks)
        for client in [*measured, *beside]:
            client.leave()
        await asyncio.wait(served)
        batcher.cancel()
    return {
        **described(measured, words.samples),
        "cpu_ms_per_virtual_s": round(cpu_s * 1000 / seconds, 1),
        "others": others_described(beside, words.samples),
    }


async def talk(client: VirtualClient, pcm: bytes, utterances: int, delay_s: float) -> None:
    """Let a client speak some utterances, with pauses."""
    await asyncio.sleep(delay_s)
    for _ in range(utterances):
        if client.closed is not None:
            return
        client.spoke_at.append(asyncio.get_running_loop().time())
        await client.speak(pcm)
        await asyncio.sleep(PAUSE_S)


def described(clients: Sequence[VirtualClient], samples: int) -> dict[str, Any]:
    """Return the figures of the sessions that are measured."""
    first, lateness, dropped = [], [], 0
    for client in clients:
        for spoke_at, response in zip(
            client.spoke_at, virtual_runtime.responses(client), strict=True
        ):
            frames = [(at, e) for at, e in response if e["type"] == "response.video.delta"]
            first.append(frames[0][0] - spoke_at)
            begin = frames[0][0] - frames[0][1]["pts_ms"] / 1000
            lateness += [max(0.0, at - begin - e["pts_ms"] / 1000) for at, e in frames]
            dropped += sum(drops(response).values())
    due = len(first) * -(-samples // 960)
    return {
        "frames_due": due,
        "late": sum(each > LATE_S for each in lateness) / due,
        "dropped": dropped / due,
        "latest_s": round(max(lateness), 4),
        "first_frame_s": record.figures(first),
    }


def others_described(clients: Sequence[VirtualClient], samples: int) -> dict[str, Any]:
    """Return what the clients beside the measured ones got."""
    by_reason: Counter[str] = Counter()
    frames = responses = whole = told = 0
    for client in clients:
        for response in virtual_runtime.responses(client):
            kinds = [event["type"] for _, event in response]
            if "response.video.done" not in kinds:
                continue
            responses += 1
            heard = sum(
                len(base64.b64decode(event["delta"])) // 2
                for _, event in response
                if event["type"] == "response.output_audio.delta"
            )
            whole += heard == samples
            frames += kinds.count("response.video.delta")
            told += bool(drops(response))
            by_reason.update(drops(response))
    return {
        "clients": len(clients),
        "responses": responses,
        "with_whole_sound": whole,
        "with_drops": told,
        "frames": frames,
        "dropped": dict(by_reason),
        "closed": dict(Counter(str(c.closed) for c in clients if c.closed is not None)),
    }


def drops(response: Sequence[tuple[float, dict[str, Any]]]) -> Counter[str]:
    """Return the dropped frames of a response by reason."""
    found: Counter[str] = Counter()
    for _, event in response:
        if event["type"] == "response.video.dropped":
            found[event["reason"]] += event["last_frame_index"] - event["first_frame_index"] + 1
    return found


def missed(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return what is not as it must be, in words."""
    found = []
    fast, slow, stopped = (rows[kind] for kind in ("fast", "slow", "stopped"))
    for row, kind in ((slow, "slow"), (stopped, "stopped")):
        for name in ("late", "dropped"):
            if row[name] > fast[name] + EFFECT:
                found.append(f"{kind} clients: {row[name]} of the frames of others {name}")
        median_s = row["first_frame_s"]["median"]
        if median_s > fast["first_frame_s"]["median"] * (1 + EFFECT):
            found.append(f"{kind} clients: the first frame of others after {median_s} s")
    others = slow["others"]
    if set(others["dropped"]) != {"slow_client"} or others["with_drops"] < others["responses"]:
        found.append(f"slow clients were not told of drops: {others}")
    if others["with_whole_sound"] < others["responses"] or not others["responses"]:
        found.append(f"slow clients have not got all of their sound: {others}")
    if stopped["others"]["closed"] != {"4413": stopped["others"]["clients"]}:
        found.append(f"clients that stopped were closed with {stopped['others']['closed']}")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
