"""Eight sessions over real sockets interrupt their avatar at random times."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from typing import TYPE_CHECKING

import pytest

from localcluster import barging_callers, interrupting_callers, runtime_process
from localcluster.bench import interruptions
from localcluster.interrupting_callers import Ask

if TYPE_CHECKING:
    from pathlib import Path

    from tests.runtime.serving.conftest import Client, Event, Serve

pytestmark = [pytest.mark.slow, pytest.mark.realtime]

SESSIONS = 8
TURNS = 6
RATE = 24_000
SEED = 11
INTERRUPTIONS = {
    "response.cancel": "response.done",
    "output_audio_buffer.clear": "output_audio_buffer.cleared",
}


async def interrupted_turns(client: Client, chance: random.Random) -> None:
    audio = base64.b64encode(bytes(RATE * 2)).decode()
    for _ in range(TURNS):
        await client.send("input_audio_buffer.append", audio=audio)
        await client.until("response.created")
        for _ in range(chance.randrange(1, 12)):
            await client.until("response.video.delta")
        kind, answer = chance.choice(list(INTERRUPTIONS.items()))
        await client.send(kind)
        await client.until(answer)


def stale(events: list[Event]) -> list[Event]:
    """Return the media of an older epoch that came after the end of that epoch was told."""
    told, found = 0, []
    for event in events:
        if event["type"] in ("response.video.done", "response.done", "output_audio_buffer.cleared"):
            told = max(told, event["epoch"])
        elif event["type"].endswith(".delta") and event["epoch"] < told:
            found.append(event)
    return found


async def test_no_media_of_an_old_epoch_leaves_after_the_answer(serve: Serve) -> None:
    async with serve(AVATAR_CAPACITY=str(SESSIONS)) as served:

        async def run(seed: int) -> list[Event]:
            async with served.client() as client:
                await interrupted_turns(client, random.Random(seed))
                return client.events

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(SEED + number)) for number in range(SESSIONS)]
    for task in tasks:
        events = task.result()
        assert stale(events) == []
        created = [e["response"]["id"] for e in events if e["type"] == "response.created"]
        done = [e["response"] for e in events if e["type"] == "response.done"]
        assert created == [response["id"] for response in done]
        assert {response["status"] for response in done} == {"cancelled"}
        assert not [event for event in events if event["type"] == "error"]


@pytest.mark.parametrize("ask", [Ask.MICROPHONE, Ask.BURST], ids=lambda ask: ask.value)
async def test_every_interruption_of_a_real_process_is_answered_and_closes_the_mouth(
    tmp_path: Path, ask: Ask
) -> None:
    """The times are wall time: `bench --only interruptions` measures them."""
    log = tmp_path / "runtime.log"
    with runtime_process.serving(log, 8, device="simulated:h100-80gb") as runtime:
        callers = await asyncio.gather(
            *(
                interrupting_callers.interrupt(runtime.url, 4, SEED + number, ask=ask)
                for number in range(SESSIONS)
            )
        )
    for caller in callers:
        assert len(caller.interruptions) == 4
        assert all(one.closed_s is not None for one in caller.interruptions)
        assert caller.stale_after_answer == 0
        assert caller.created == caller.done
        assert caller.statuses == {"cancelled"}
        assert caller.errors == []


@pytest.mark.parametrize("mode", ["bridge", "speech"])
async def test_an_answer_of_an_upstream_is_interrupted_by_events_and_by_a_voice(
    tmp_path: Path, mode: str
) -> None:
    async with interruptions.upstream_of(mode) as document:
        variables = {"AVATAR_UPSTREAM": json.dumps(document)}
        with runtime_process.serving(
            tmp_path / "runtime.log", 8, variables, device="simulated:h100-80gb"
        ) as runtime:
            asked = await asyncio.gather(
                *(
                    interrupting_callers.interrupt(runtime.url, 2, SEED + number, ask=Ask.REQUEST)
                    for number in range(4)
                )
            )
            barged = await asyncio.gather(
                *(barging_callers.barge_in(runtime.url, 1, SEED + number) for number in range(2))
            )
    for caller in asked:
        assert len(caller.interruptions) == 2
        assert all(one.closed_s is not None for one in caller.interruptions)
        assert caller.statuses == {"cancelled"}
    for voice in barged:
        assert len(voice.acknowledged_s) == 1
        assert len(voice.closed_s) >= 1
        assert set(voice.reasons) <= {"turn_detected", "completed"}
    every: list[interrupting_callers.Caller | barging_callers.Caller] = [*asked, *barged]
    for each in every:
        assert each.stale_after_answer == 0
        assert each.created == each.done
        assert each.errors == []


async def test_a_voice_in_the_answer_of_a_real_process_interrupts_it(tmp_path: Path) -> None:
    log = tmp_path / "runtime.log"
    with runtime_process.serving(log, 8, device="simulated:h100-80gb") as runtime:
        callers = await asyncio.gather(
            *(barging_callers.barge_in(runtime.url, 2, SEED + number) for number in range(4))
        )
    for caller in callers:
        assert len(caller.acknowledged_s) == 2
        assert len(caller.closed_s) >= 2
        assert caller.stale_after_answer == 0
        assert caller.created == caller.done
        # A response that the server has finished is interrupted while the client plays it.
        assert set(caller.reasons) <= {"turn_detected", "completed"}
        assert caller.errors == []
