"""Clients on slow networks, on the sockets of a runtime: the short form of a benchmark."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from avatar_client import session, sound
from localcluster import runtime_process
from localcluster.bench import slow_clients, slow_sockets
from localcluster.fakes import slow_link
from localcluster.fakes.slow_link import TokenBucket

if TYPE_CHECKING:
    from pathlib import Path

    from avatar_client.traces import Response

pytestmark = pytest.mark.realtime


def test_a_bucket_lets_its_rate_pass_and_a_burst_at_once() -> None:
    bucket = TokenBucket(1000.0, 500.0, 10.0)
    assert bucket.take(500, 10.0) == 0
    assert bucket.take(100, 10.0) == pytest.approx(0.1)
    assert bucket.take(100, 10.1) == pytest.approx(0.1)
    assert bucket.take(500, 90.0) == 0


@pytest.mark.slow
async def test_slow_clients_lose_pictures_of_their_own_and_nothing_else(tmp_path: Path) -> None:
    words = sound.read(slow_sockets.SPEECH).cut(5.0)
    with runtime_process.serving(
        tmp_path / "runtime.log", 8, device="simulated:h100-80gb"
    ) as runtime:
        host, port = runtime.url.removeprefix("ws://").split(":")
        rate = slow_sockets.SLOW_BYTES_PER_S
        async with (
            slow_link.open_link(host, int(port), rate) as slow,
            slow_link.open_link(host, int(port)) as fast,
        ):

            async def speak(address: str) -> tuple[session.Session, Response]:
                async with session.connect(session.Target(address, "", "")) as live:
                    return live, await live.speak(words, realtime=False, timeout_s=60.0)

            addresses = (*[slow.address] * 3, fast.address)
            spoken = await asyncio.gather(*map(speak, addresses))
    for live, response in spoken:
        assert live.trace.violations == []
        assert live.trace.errors == []
        assert response.status == "completed"
        assert bytes(response.pcm) == words.pcm
        assert len(response.frames) + len(response.dropped) == response.frames_due == 125
    *those_slow, (_, quick) = spoken
    assert all(set(response.drop_reasons) == {"slow_client"} for _, response in those_slow)
    assert quick.drop_reasons.get("slow_client") is None


@pytest.mark.slow
def test_in_virtual_time_slow_clients_do_not_harm_others() -> None:
    rows = slow_clients.measure(sessions=2, others=3, utterances=1)
    assert slow_clients.missed(rows) == []
    for row in rows.values():
        assert (row["late"], row["dropped"], row["latest_s"]) == (0, 0, 0)
    assert rows["slow"]["others"]["with_whole_sound"] == 3
