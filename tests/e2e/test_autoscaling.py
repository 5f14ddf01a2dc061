"""Pods follow the sessions of the load generator, from none to many and back to none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from localcluster import waiting
from localcluster.release import all_served, condition

if TYPE_CHECKING:
    from pathlib import Path

    from localcluster.release import Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

SESSIONS = 12
AUTOSCALING = {
    "minReplicas": 0,
    "maxReplicas": 5,
    "freeSessions": {"min": 1, "percent": 0},
    "scaleDownAfterSeconds": 5,
    "scaleToZeroAfterSeconds": 5,
}


async def test_pods_follow_sessions_from_none_to_many_and_back(
    space: Space, tmp_path: Path
) -> None:
    placement = {"gpuClasses": ["rtx-4090", "h100-80gb"]}
    await space.apply("tide", autoscaling=AUTOSCALING, placement=placement)
    await waiting.until(
        lambda: space.service("tide"),
        lambda seen: condition(seen, "Ready").get("reason") == "ScaledToZero",
        "the service rests without pods",
    )
    visits = tmp_path / "visits.csv"
    lines = [f"{index * 1.5},{20 + index % 3}" for index in range(SESSIONS)]
    visits.write_text("\n".join(["arrival_s,duration_s", *lines]) + "\n")
    load = await space.load("tide", SESSIONS, 20, "--visits", str(visits), "--wait-ms", "90000")
    ended = asyncio.create_task(all_served(load, SESSIONS), name="load")
    course: list[dict[str, Any]] = []
    while not ended.done():
        course.append((await space.service("tide"))["status"])
        await asyncio.wait([ended], timeout=0.5)
    ended.result()

    assert max(status["sessions"] for status in course) >= SESSIONS / 2
    most = max(status["desiredReplicas"] for status in course)
    assert most >= 3
    rested = await waiting.until(
        lambda: space.service("tide"),
        lambda seen: seen["status"]["desiredReplicas"] == seen["status"]["replicas"] == 0,
        "the last pod is gone",
        90,
    )
    decisions = rested["status"]["decisions"]
    assert decisions[0]["to"] == 0
    assert decisions[0]["reason"] == "Idle"
    rises = [each for each in decisions if each["to"] > each["from"]]
    assert all(each["reason"] == "Demand" for each in rises)
    assert rises[-1]["inputs"]["waiting"] + rises[-1]["inputs"]["sessions"] >= 1
    assert await space.pods("tide") == []
    assert "ScalingUp" in await space.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}")
