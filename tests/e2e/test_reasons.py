"""A service that is not Ready says why, in one sentence, soon after the cause."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from localcluster import waiting
from localcluster.release import condition

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


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        pytest.param({"template": {"image": "nobody/has:this"}}, "PodsFailing", "ImagePull",
                     id="no image"),
        pytest.param({"model": {"source": {"image": {"path": "/opt/avatar/models/none"}}}},
                     "PodsFailing", "models/none", id="no model"),
        pytest.param({"template": {"env": [{"name": "X", "valueFrom": {"secretKeyRef":
                     {"name": "lost", "key": "k"}}}]}}, "PodsFailing", "lost", id="no secret"),
        pytest.param({"placement": {"gpuClasses": ["l4"]}}, "NoGPUNode", "l4", id="no node"),
    ],
)  # fmt: skip
async def test_one_reason_is_told_soon_after_its_cause(
    space: Space, spec: dict[str, Any], code: str, words: str
) -> None:
    await space.apply("why", **{**ONE_POD, **spec})
    cause = asyncio.create_task(trouble(space, "why")) if code == "PodsFailing" else None
    ready = await reason(space, "why", words)
    told_at = time.monotonic()
    assert ready["reason"] == code
    assert len(ready["message"]) < 400
    if cause is not None:
        assert told_at - await cause <= SOON_S
    assert words in await space.kubectl("describe", "avs", "why")
    events = json.loads(await space.kubectl("get", "events", "-o", "json"))["items"]
    ours = [e for e in events if e["involvedObject"]["kind"] == "AvatarService"]
    assert 1 <= len(ours) <= 6, [e["message"] for e in ours]
    assert len({e["message"] for e in ours}) == len(ours)


async def trouble(space: Space, name: str) -> float:
    """Return when the pod's own status first told that something is wrong."""

    def is_wrong(pods: list[dict[str, Any]]) -> bool:
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
    assert ready["reason"] == "ApplyFailed"


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
