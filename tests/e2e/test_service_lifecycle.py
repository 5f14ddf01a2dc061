"""An AvatarService from apply to delete, with the real helm and kubectl."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from localcluster import errors, paths, waiting
from localcluster.release import all_served, condition, processes_with

if TYPE_CHECKING:
    from localcluster.release import Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

ONE_POD = {"replicas": 1, "placement": {"gpuClasses": ["rtx-4090"]}}


async def test_example_becomes_ready_and_tells_its_story(space: Space) -> None:
    await space.kubectl("apply", "-f", str(paths.REPOSITORY / "examples" / "avatarservice.yaml"))
    service = await space.ready("concierge")

    status = service["status"]
    assert {c["observedGeneration"] for c in status["conditions"]} == {
        service["metadata"]["generation"]
    }
    assert status["pools"][0]["gpuClass"] == "rtx-4090"
    table = await space.kubectl("get", "avs")
    assert table.split("\n")[0].split() == [
        "NAME", "READY", "DESIRED", "SESSIONS", "FREE", "GPU", "BATCH", "STATE", "AGE",
    ]  # fmt: skip
    assert table.split("\n")[1].split()[:4] == ["concierge", "1", "1", "0"]
    story = await space.kubectl("describe", "avs", "concierge")
    assert "PodCreated" in story
    (pod,) = await space.pods("concierge")
    assert pod["spec"]["nodeName"].startswith("rtx-4090")


async def test_scale_subresource_sets_the_pods(space: Space) -> None:
    await space.apply("front", **ONE_POD)
    await space.ready("front")
    await space.kubectl("scale", "avs/front", "--replicas=2")
    await space.ready("front", pods=2)
    await space.kubectl("scale", "avs/front", "--replicas=1")
    await space.ready("front", pods=1)
    assert len(await space.pods("front")) == 1


async def test_scaling_an_autoscaled_service_is_refused_in_words(space: Space) -> None:
    await space.apply("auto", autoscaling={"minReplicas": 0, "maxReplicas": 2})
    with pytest.raises(
        errors.CommandFailed, match=r"spec.replicas must not be set together with spec.autoscaling"
    ):
        await space.kubectl("scale", "avs/auto", "--replicas=2")


async def test_deleted_service_takes_its_pods_with_it(space: Space) -> None:
    await space.apply("short", **ONE_POD)
    await space.ready("short")
    await space.kubectl("delete", "avs", "short", "--wait=true", "--timeout=30s")
    await waiting.until(
        lambda: space.pods("short"), lambda pods: pods == [], "no pods of the deleted service"
    )


async def test_killed_runtime_is_replaced(space: Space) -> None:
    await space.apply("solid", **ONE_POD)
    await space.ready("solid")
    (pod,) = await space.pods("solid")
    running = processes_with("AVATAR_POD", pod["metadata"]["name"])
    assert running
    for pid in running:
        os.kill(pid, signal.SIGKILL)

    def restarted(pods: list[dict[str, Any]]) -> bool:
        statuses = [s for pod in pods for s in pod["status"].get("containerStatuses", ())]
        return any(s["ready"] and s["restartCount"] == 1 for s in statuses)

    await waiting.until(lambda: space.pods("solid"), restarted, "the runtime runs again", 60)
    await space.ready("solid")


async def test_scale_down_keeps_the_pod_with_sessions(space: Space) -> None:
    await space.apply("busy", **{**ONE_POD, "replicas": 2})
    await space.ready("busy", pods=2)
    load = await space.load("busy", 2, 15)
    await sessions_are(space, "busy", 2)
    await space.kubectl("scale", "avs/busy", "--replicas=0")
    draining = await waiting.until(
        lambda: space.service("busy"),
        lambda service: condition(service, "Draining").get("status") == "True",
        "the service drains",
    )
    assert draining["status"]["sessions"] == 2
    await all_served(load, 2)
    await waiting.until(
        lambda: space.pods("busy"), lambda pods: pods == [], "the empty pods are gone", 60
    )


async def test_no_fitting_gpu_is_told_in_one_sentence(space: Space) -> None:
    await space.apply("picky", placement={"gpuClasses": ["l4", "l40s"]}, replicas=1)
    service = await waiting.until(
        lambda: space.service("picky"),
        lambda service: condition(service, "Ready").get("status") == "False",
        "the service says why it is not Ready",
    )
    ready = condition(service, "Ready")
    assert ready["reason"] == "NoGPUNode"
    assert "l4" in ready["message"]
    assert "rtx-4090" in ready["message"]  # what there is
    assert ready["message"] in await space.kubectl("describe", "avs", "picky")
    assert await space.pods("picky") == []


async def test_two_classes_get_two_batch_sizes(space: Space) -> None:
    shipped = await space.kubectl("get", "gpuprofiles", "-o", "json")
    published = paths.REPOSITORY / "examples" / "gpuprofile-published.yaml"
    try:
        await space.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(published))
        for name, gpu in (("small", "rtx-4090"), ("large", "a100-80gb")):
            await space.apply(
                name, replicas=1, objective="throughput", placement={"gpuClasses": [gpu]}
            )
        (small,) = (await space.ready("small"))["status"]["pools"]
        (large,) = (await space.ready("large"))["status"]["pools"]
    finally:
        await restore_profiles(space, shipped)
    assert (small["gpuClass"], small["batchSize"]) == ("rtx-4090", 16)
    assert (large["gpuClass"], large["batchSize"]) == ("a100-80gb", 64)
    assert small["limitedBy"] == "memory"
    (pod,) = await space.pods("small")
    (container,) = pod["spec"]["containers"]
    flag = container["args"].index("--batch-size")
    assert container["args"][flag + 1] == "16"


async def restore_profiles(space: Space, shipped: str) -> None:
    for profile in json.loads(shipped)["items"]:
        patch = json.dumps({"spec": profile["spec"]})
        await space.kubectl(
            "patch", "gpuprofile", profile["metadata"]["name"], "--type=merge", "-p", patch
        )


async def sessions_are(space: Space, service: str, count: int) -> None:
    """Wait until the service's own status counts the sessions."""
    await waiting.until(
        lambda: space.service(service),
        lambda seen: seen["status"].get("sessions") == count,
        f"{count} sessions in the status of {service}",
    )
