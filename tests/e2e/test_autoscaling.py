"""Pods follow the sessions of the load generator, from none to many and back to none."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.cli import replay
from localcluster import waiting
from localcluster.release import CORE, SYSTEM, all_served, condition, processes_with

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
    log = tmp_path / "operator.log"
    leader = await space.release.leader()
    log.write_text(await space.cluster.kubectl("logs", "-n", SYSTEM, leader))
    again = replay.replay(log, None)
    services: Any = again["services"]
    assert services[f"{space.name}/tide"]["decisions"] >= len(decisions)
    assert services[f"{space.name}/tide"]["max_pods"] == most
    assert (again["differences"], again["passed_over"]) == (0, 0)


async def test_the_reserve_takes_callers_at_once_and_is_made_anew(space: Space) -> None:
    always = {"name": "always", "start": "0 0 * * *", "end": "1 0 1 1 *"}
    await space.apply(
        "warm",
        autoscaling={
            "minReplicas": 1,
            "maxReplicas": 4,
            "freeSessions": {"min": 0, "percent": 0},
            "maxCostPerHour": "500",
            "schedules": [{**always, "timeZone": "Europe/Berlin", "reserve": 1}],
        },
        placement={"gpuClasses": ["rtx-4090"]},
    )
    await space.ready("warm", pods=2, within_s=120)
    kept = reserved(await space.pods("warm"))
    assert len(kept) == 1
    (pool,) = (await space.service("warm"))["status"]["pools"]
    first = pool["sessionsPerPod"] + 1  # one more than the pod that serves has slots

    async def settled() -> list[str]:
        return reserved(await space.pods("warm"))

    before = await waiting.until(settled, lambda names: len(names) == 1, "one pod is the reserve")
    # They may wait: the gateway hears of pods by itself, and to ask it would use up the reserve.
    load = await space.load("warm", first, 40, "--wait-ms", "20000")
    await waiting.until(
        settled,
        lambda names: len(names) == 1 and names != before,
        "the reserve is promoted, and another pod is it",
        90,
    )
    await all_served(load, first)
    status = (await space.service("warm"))["status"]
    assert status["decisions"][0]["inputs"]["schedules"] == ["always"]
    assert "PodPromoted" in await space.kubectl(
        "get", "events", "-o", "jsonpath={.items[*].reason}"
    )


async def test_a_service_starts_on_the_reserve_of_another_one_and_outlives_it(space: Space) -> None:
    sharing = {
        "maxReplicas": 1,
        "freeSessions": {"min": 0, "percent": 0},
        "scaleDownAfterSeconds": 600,
        "sharedReserve": True,
    }
    placement = {"gpuClasses": ["rtx-4090"]}
    keeping = {**sharing, "minReplicas": 0, "reserve": 1}
    await space.apply("first", autoscaling=keeping, placement=placement)
    await space.ready("first", pods=1)
    (warm,) = reserved(await space.pods("first"))
    await space.apply("second", autoscaling={**sharing, "minReplicas": 1}, placement=placement)
    await space.ready("second", pods=1)
    assert [pod["metadata"]["name"] for pod in await space.pods("second")] == [warm]
    events = await space.kubectl("get", "events", "-o", "json")
    reported = [each for each in json.loads(events)["items"] if each["reason"] == "PodAdopted"]
    assert [each["involvedObject"]["name"] for each in reported] == ["second"]
    await space.known_to_gateway("second", 1)  # which asks the pod as what it was started for

    load = await space.load("second", 1, 5)
    await waiting.until(
        lambda: space.service("second"), lambda seen: seen["status"]["sessions"] == 1, "a session"
    )
    await space.kubectl("delete", "avs", "first", "--timeout=60s")
    await all_served(load, 1)

    async def holders() -> str:
        secret = await space.read(CORE, "secrets/first-control")
        return " ".join(each["name"] for each in secret["metadata"].get("ownerReferences", ()))

    # A container that starts anew reads the Secret of the service that its pod was made for.
    await waiting.until(holders, lambda names: names == warm, "only the pod holds the Secret", 60)
    for process in processes_with("AVATAR_POD", warm):
        os.kill(process, signal.SIGKILL)

    def served_again(pods: list[dict[str, Any]]) -> bool:
        (pod,) = pods
        (container,) = pod["status"]["containerStatuses"]
        return bool(container["restartCount"] and container["ready"])

    await waiting.until(lambda: space.pods("second"), served_again, "the container runs again", 60)
    await space.known_to_gateway("second", 1)


def reserved(pods: list[dict[str, Any]]) -> list[str]:
    """Return the names of the pods that are ready and of the reserve."""
    return [
        pod["metadata"]["name"]
        for pod in pods
        if pod["metadata"]["labels"].get("avatar.musetalk.io/reserve") == "true"
        and condition(pod, "Ready").get("status") == "True"
    ]
