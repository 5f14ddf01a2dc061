"""What the autoscaler does when GPUs fill up with others' memory, and when nobody is heard of."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from localcluster import waiting
from localcluster.fakes import callers
from localcluster.release import condition, processes_with

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from localcluster.prometheus import Prometheus
    from localcluster.release import Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

START_S: Final = 180.0  # of pods, on a crowded machine

HOLD_S: Final = 3
LARGE: Final = {"gpuClasses": ["h100-80gb"]}  # a pod has 12 slots at 16 frames a batch
SMALL: Final = {"gpuClasses": ["a100-80gb"]}  # 5 slots
HALF_MIB: Final = 62_000  # of 80 GiB, beside 3 to 8 GiB of the pod: over 70 %, under 90 %
QUARTER_MIB: Final = 74_000  # over 90 %


def policy(free: int, most: int = 2) -> dict[str, Any]:
    return {
        "minReplicas": 1,
        "maxReplicas": most,
        "freeSessions": {"min": free, "percent": 0},
        "scaleDownAfterSeconds": HOLD_S,
    }


async def test_pod_under_memory_pressure_degrades_and_its_service_grows(
    space: Space, prometheus: Prometheus, tmp_path: Path
) -> None:
    # A folder of the machine, in which a file with a pod's name is that pod's neighbour.
    template = {
        "env": [{"name": "AVATAR_SIMULATED_NEIGHBOUR", "value": "/neighbours/$(AVATAR_POD)"}],
        "volumes": [{"name": "neighbours", "hostPath": {"path": str(tmp_path)}}],
        "volumeMounts": [{"name": "neighbours", "mountPath": "/neighbours"}],
    }
    await space.apply(
        "pressed", placement=LARGE, batchSize=16, autoscaling=policy(10),
        template=template,
    )  # fmt: skip
    await space.ready("pressed", within_s=START_S)
    (body,) = await space.pods("pressed")
    pod, address = body["metadata"]["name"], f"{body['status']['podIP']}:8080"
    # Past the gateway, so that no arrivals are counted: the free sessions alone are wished for.
    async with callers.calling(space, "pressed", 1, at=address) as talking:
        batch = f'avatar_runtime_batch_size{{namespace="{space.name}",pod="{pod}"}}'
        await prometheus.until(batch, (16, 16))

        (tmp_path / pod).write_text(str(HALF_MIB))
        await prometheus.until(batch, (8, 8))
        grown = await waiting.until(
            lambda: space.service("pressed"),
            lambda seen: seen["status"]["desiredReplicas"] == 2,
            "another pod makes up for the pressed one",
            60,
        )
        inputs = grown["status"]["decisions"][0]["inputs"]
        assert inputs["capacity"] <= 6
        assert grown["status"]["decisions"][0]["reason"] == "Demand"
        (tmp_path / pod).write_text(str(QUARTER_MIB))
        await prometheus.until(batch, (4, 4))
        await prometheus.until_firing("AvatarVramAlmostFull", True, namespace=space.name, pod=pod)

        (tmp_path / pod).unlink()
        await prometheus.until(batch, (16, 16))
        await prometheus.until_firing("AvatarVramAlmostFull", False, namespace=space.name)
        await waiting.until(
            lambda: space.pods("pressed"),
            lambda pods: [each["metadata"]["name"] for each in pods] == [pod],
            "the pod with the session is enough again",
            90,
        )
        await talking.leave()


async def test_nothing_is_taken_away_while_nobody_is_heard_of(space: Space) -> None:
    await space.apply("mute", placement=SMALL, autoscaling=policy(6))
    await space.ready("mute", pods=2, within_s=START_S)
    sources = [*await space.pods("mute"), *await space.release.pods("gateway")]
    names = [pod["metadata"]["name"] for pod in sources]
    pids = [pid for name in names for pid in processes_with("AVATAR_POD", name)]
    assert len(pids) >= 3  # two runtimes and a gateway
    with stopped(pids):
        await waiting.until(
            lambda: space.service("mute"),
            lambda seen: condition(seen, "StateFresh").get("status") == "False",
            "the service says that its state is stale",
            60,
        )
        # One pod would be enough from here on, and the hold time passes.
        await space.apply("mute", placement=SMALL, autoscaling=policy(1))
        since = time.monotonic()
        seen = await waiting.until(
            lambda: space.service("mute"),
            lambda service: (
                service["status"]["desiredReplicas"] != 2 or time.monotonic() - since > 2 * HOLD_S
            ),
            "the hold time is over twice",
            60,
        )
        assert seen["status"]["desiredReplicas"] == seen["status"]["replicas"] == 2
        assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"]
        assert condition(seen, "StateFresh")["status"] == "False"
        left = [pod["metadata"]["name"] for pod in await space.pods("mute")]
        assert left == names[:2]
    await waiting.until(
        lambda: space.service("mute"),
        lambda seen: condition(seen, "StateFresh").get("status") == "True",
        "the service is heard of again",
        60,
    )
    await space.ready("mute", pods=1, within_s=START_S)


@contextlib.contextmanager
def stopped(pids: Iterable[int]) -> Iterator[None]:
    """Freeze processes for the block: their sockets stay, and say nothing."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
