"""A service that is not Ready says why, in one sentence, soon after the cause."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from localcluster import waiting
from localcluster.release import condition, processes_with

if TYPE_CHECKING:
    from localcluster.release import Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

SOON_S: Final = 2.0
ONE_POD: Final[dict[str, Any]] = {"replicas": 1, "placement": {"gpuClasses": ["h100-80gb"]}}


async def reason(space: Space, name: str, words: str) -> dict[str, Any]:
    """Wait until Ready is False with words of the cause."""
    service = await waiting.until(
        lambda: space.service(name),
        lambda service: (
            condition(service, "Ready").get("status") == "False"
            and words in condition(service, "Ready")["message"]
        ),
        f"{name} says {words!r}",
        20,
    )
    return condition(service, "Ready")


def without(source: dict[str, Any]) -> dict[str, Any]:
    return {"model": {"source": source}}


LOST_SECRET: Final = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "lost", "key": "k"}}}
OF_PODS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "no image": ({"template": {"image": "nobody/has:this"}}, "ImagePull"),
    "no model": (without({"image": {"path": "/opt/avatar/models/none"}}), "models/none"),
    "no claim": (without({"persistentVolumeClaim": {"claimName": "lost"}}),
                 'persistentvolumeclaim "lost" not found'),
    "no secret": ({"template": {"env": [LOST_SECRET]}}, 'secret "lost" not found'),
    "no memory": ({"template": {"resources": {"requests": {"memory": "9Ti"}}}},
                  "Insufficient memory"),
    "no such avatar": ({"avatars": ["nobody"]}, "nobody"),
}  # fmt: skip
"""What keeps a pod from running, and the words of the reason."""

OF_SPECS: Final[dict[str, tuple[dict[str, Any], str, str]]] = {
    "no node": ({"placement": {"gpuClasses": ["l4"]}}, "NoGPUNode",
                "no matching GPU node: needs l4; the cluster has "),
    "no such node": ({"placement": {"nodeSelector": {"rack": "7"}}}, "NoGPUNode",
                     "label rack is not '7', which spec.placement.nodeSelector requires"),
    "no such class": ({"placement": {"gpuClasses": ["rtx-9999"]}}, "NoBatchFits",
                      "rtx-9999: there is no GPUProfile rtx-9999"),
    "no curve": ({"model": {"decoder": "taesd"}, "placement": {"gpuClasses": ["h100-80gb"]}},
                 "NoBatchFits", "GPUProfile h100-80gb has no curve for v15/taesd/fp16"),
    "batch too large": ({"batchSize": 64, "placement": {"gpuClasses": ["l4"]}},
                        "NoBatchFits", "l4: spec.batchSize is 64 and needs "),
    "too few GPUs": ({"replicas": 3}, "NoFreeGPU", "no free GPU: needs h100-80gb"),
}  # fmt: skip
"""What keeps pods from being created."""


@pytest.mark.parametrize(("spec", "words"), OF_PODS.values(), ids=OF_PODS.keys())
async def test_trouble_of_a_pod_is_told_soon_after_it(
    space: Space, spec: dict[str, Any], words: str
) -> None:
    await space.apply("why", **{**ONE_POD, **spec})
    cause = asyncio.create_task(trouble(space, "why"))
    ready = await reason(space, "why", words)
    told_at = time.monotonic()
    assert ready["reason"] == "PodsFailing"
    assert told_at - await cause <= SOON_S
    await told_once(space, ready, words)


@pytest.mark.parametrize(("spec", "code", "words"), OF_SPECS.values(), ids=OF_SPECS.keys())
async def test_a_spec_that_no_gpu_can_serve_is_told_soon(
    space: Space, spec: dict[str, Any], code: str, words: str
) -> None:
    await space.apply("why", **{**ONE_POD, **spec})
    applied_at = time.monotonic()
    ready = await reason(space, "why", words)
    assert time.monotonic() - applied_at <= SOON_S
    assert ready["reason"] == code
    await told_once(space, ready, words)


async def told_once(space: Space, ready: dict[str, Any], words: str) -> None:
    """Check that a person finds one sentence, in `describe` and in few Events."""
    assert len(ready["message"]) < 400
    assert words in await space.kubectl("describe", "avs", "why")
    events = json.loads(await space.kubectl("get", "events", "-o", "json"))["items"]
    ours = [e for e in events if e["involvedObject"]["kind"] == "AvatarService"]
    assert 1 <= len(ours) <= 6, [e["message"] for e in ours]
    assert len({e["message"] for e in ours}) == len(ours)


async def trouble(space: Space, name: str) -> float:
    """Return when the pod's own status first told that something is wrong."""

    def is_wrong(pods: list[dict[str, Any]]) -> bool:
        conditions = [c for pod in pods for c in pod["status"].get("conditions", ())]
        if any(c["type"] == "PodScheduled" and c["status"] == "False" for c in conditions):
            return True
        states = [
            status["state"] for pod in pods for status in pod["status"].get("containerStatuses", ())
        ]
        fine = ("ContainerCreating", "PodInitializing")
        return any(
            "terminated" in state
            or ("waiting" in state and state["waiting"].get("reason") not in fine)
            for state in states
        )

    await waiting.until(lambda: space.pods(name), is_wrong, "a pod in trouble", 20)
    return time.monotonic()


async def test_quota_that_refuses_pods_is_the_reason(space: Space) -> None:
    await space.kubectl("create", "quota", "none", "--hard=pods=0")
    await space.apply("why", **ONE_POD)
    ready = await reason(space, "why", "exceeded quota")
    assert ready["reason"] == "QuotaExceeded"
    gpu = condition(await space.service("why"), "GPUAvailable")
    assert gpu["reason"] == "GPUFree"


async def test_paused_service_says_so(space: Space) -> None:
    await space.apply("why", **{**ONE_POD, "replicas": 0})
    await space.kubectl("annotate", "avs", "why", "avatar.musetalk.io/paused=true")
    await space.kubectl("scale", "avs/why", "--replicas=1")
    ready = await reason(space, "why", "the service is paused")
    assert ready["reason"] == "Paused"
    assert "avatar.musetalk.io/paused" in ready["message"]
    assert await space.pods("why") == []
    await space.kubectl("annotate", "avs", "why", "avatar.musetalk.io/paused-")
    await space.ready("why")


async def test_hanging_runtime_is_told_by_its_silence(space: Space) -> None:
    await space.apply("why", **ONE_POD)
    await space.ready("why")
    (pod,) = await space.pods("why")
    name = pod["metadata"]["name"]
    for pid in processes_with("AVATAR_POD", name):
        os.kill(pid, signal.SIGSTOP)
    try:
        ready = await reason(space, "why", f"{name} does not answer")
        assert ready["reason"] == "PodsFailing"
        service = await space.service("why")
        assert condition(service, "StateFresh")["reason"] == "StateMissing"
        assert name in condition(service, "StateFresh")["message"]
    finally:
        for pid in processes_with("AVATAR_POD", name):
            os.kill(pid, signal.SIGCONT)
    await space.ready("why")


async def test_edits_of_our_fields_are_undone_and_others_kept(space: Space) -> None:
    await space.apply("kept", **ONE_POD)
    await space.ready("kept")
    before = await space.kubectl("get", "secret", "kept-control", "-o", "jsonpath={.data.token}")
    mine = {"annotations": {"mine": "1"}}
    for kind, name, field in (
        ("pdb", "kept-live", {"spec": {"minAvailable": 1}}),
        ("secret", "kept-control", {"data": {"token": "eA=="}}),
    ):
        patch = json.dumps({"metadata": mine, **field})
        await space.kubectl("patch", kind, name, "--type=merge", "-p", patch)

    async def fields() -> list[str]:
        pdb = "jsonpath={.spec.minAvailable} {.metadata.annotations.mine}"
        secret = "jsonpath={.data.token} {.metadata.annotations.mine}"
        return [
            await space.kubectl("get", "pdb", "kept-live", "-o", pdb),
            await space.kubectl("get", "secret", "kept-control", "-o", secret),
        ]

    await waiting.until(
        fields, lambda seen: seen == ["1000000 1", f"{before} 1"], "our fields are back", 20
    )


async def test_bad_rollout_halts_and_the_old_spec_brings_it_back(space: Space) -> None:
    await space.apply("rolled", **ONE_POD)
    await space.ready("rolled")
    (old,) = await space.pods("rolled")
    bad = {"model": {"source": {"image": {"path": "/opt/avatar/models/none"}}}}
    await space.apply("rolled", **ONE_POD, **bad)
    service = await waiting.until(
        lambda: space.service("rolled"),
        lambda service: condition(service, "Progressing").get("reason") == "RolloutHalted",
        "the rollout halts",
        40,
    )
    assert condition(service, "Ready")["status"] == "True"  # the old pod serves on
    degraded = condition(service, "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "NewPodsFailing")
    assert "models/none" in degraded["message"]
    await space.apply("rolled", **ONE_POD)
    await space.ready("rolled")
    (now,) = await space.pods("rolled")
    assert now["metadata"]["uid"] == old["metadata"]["uid"]
