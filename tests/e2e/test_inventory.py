"""What nodes say of their GPUs and what pods measure, seen in plans, with the real kubectl."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from localcluster import waiting
from localcluster.controlplane import audit
from localcluster.release import SYSTEM, condition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.release import Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

NODE = "h100-80gb-a"
PRODUCT = "nvidia.com/gpu.product"
H100 = "NVIDIA-H100-80GB-HBM3"
SIMULATED = "avatar.musetalk.io/simulated-calibrations"
OPERATOR = f"system:serviceaccount:{SYSTEM}:avatar-avatar-operator-operator"


@asynccontextmanager
async def labelled(space: Space, product: str) -> AsyncIterator[None]:
    """Label the node's GPUs as another product for a while."""
    await space.kubectl("label", "node", NODE, f"{PRODUCT}={product}", "--overwrite")
    try:
        yield
    finally:
        await space.kubectl("label", "node", NODE, f"{PRODUCT}={H100}", "--overwrite")


async def blocked(space: Space, name: str, said: str) -> dict[str, Any]:
    """Wait until a service says why no GPU is there for it."""

    def holds(service: dict[str, Any]) -> bool:
        found = condition(service, "GPUAvailable")
        return found.get("status") == "False" and said in found["message"]

    service = await waiting.until(lambda: space.service(name), holds, f"{name} tells {said!r}")
    return condition(service, "GPUAvailable")


async def profile(space: Space, name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(await space.kubectl("get", "gpup", name, "-o", "yaml")))


async def patch_profile(space: Space, name: str, patch: dict[str, Any]) -> None:
    await space.kubectl("patch", "gpup", name, "--type=merge", "-p", json.dumps(patch))


async def test_a_relabelled_node_changes_what_a_service_says_and_gets(space: Space) -> None:
    stories = {
        f"{H100}-SHARED": "is shared by an unknown number of pods, which h100-80gb does not allow",
        f"{H100}-MIG-1g.10gb": f"no GPUProfile names the product {H100}-MIG-1g.10gb",
        f"{H100}-MIG-INVALID": "MIG is configured incompletely",
    }
    async with labelled(space, f"{H100}-SHARED"):
        await space.apply("bound", replicas=1, placement={"gpuClasses": ["h100-80gb"]})
        for product, said in stories.items():
            await space.kubectl("label", "node", NODE, f"{PRODUCT}={product}", "--overwrite")
            found = await blocked(space, "bound", said)
            assert found["reason"] == "NoGPUNode"
            assert f"node {NODE} excluded" in found["message"]
    await space.ready("bound")


async def test_a_product_of_two_profiles_is_told_to_both(space: Space) -> None:
    shipped = await profile(space, "h100-80gb")
    twin = {key: shipped[key] for key in ("apiVersion", "kind", "spec")}
    twin["metadata"] = {"name": "twin"}
    await space.cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(twin))
    try:
        for name in ("h100-80gb", "twin"):
            found = await waiting.until(
                partial(profile, space, name),
                lambda body: condition(body, "NodesRecognised").get("status") == "False",
                f"{name} tells of the node",
            )
            message = condition(found, "NodesRecognised")["message"]
            assert f"node {NODE}: {H100} belongs to several GPUProfiles: h100-80gb, twin" in message
    finally:
        await space.kubectl("delete", "gpup", "twin")
    await waiting.until(
        lambda: profile(space, "h100-80gb"),
        lambda body: condition(body, "NodesRecognised").get("status") == "True",
        "the node is recognised again",
    )


async def test_strategies_choose_different_classes_and_pods_spread(space: Space) -> None:
    cost = (await profile(space, "h100-80gb"))["spec"]["costPerHour"]
    classes = ["a100-80gb", "rtx-4090", "h100-80gb"]
    try:
        await patch_profile(space, "h100-80gb", {"spec": {"costPerHour": "40"}})
        for strategy, replicas in (("cheapest", 2), ("fastest", 1)):
            placement = {"gpuClasses": classes, "strategy": strategy}
            await space.apply(strategy, replicas=replicas, placement=placement)
        cheapest = await space.ready("cheapest", pods=2)
        fastest = await space.ready("fastest")
    finally:
        await patch_profile(space, "h100-80gb", {"spec": {"costPerHour": cost}})
    assert (cheapest["status"]["gpu"], fastest["status"]["gpu"]) == ("rtx-4090", "h100-80gb")
    nodes = {pod["spec"]["nodeName"] for pod in await space.pods("cheapest")}
    assert nodes == {"rtx-4090-a", "rtx-4090-b"}  # one in each zone


async def test_a_full_class_is_waited_for_or_passed_by(space: Space) -> None:
    placement = {"gpuClasses": ["a100-80gb", "h100-80gb"], "whenFull": "wait"}
    await space.apply("front", replicas=3, placement=placement)
    found = await blocked(space, "front", "a100-80gb (spec.placement.whenFull is wait)")
    assert found["reason"] == "NoFreeGPU"
    assert len(await space.pods("front")) == 2
    await space.apply("front", replicas=3, placement={**placement, "whenFull": "fallThrough"})
    service = await space.ready("front", pods=3)
    assert service["status"]["gpu"] == "a100-80gb,h100-80gb"


async def test_what_pods_measured_is_kept_in_the_profile_and_used(space: Space) -> None:
    gpus = {"placement": {"gpuClasses": ["rtx-4090"]}, "replicas": 1}
    shipped = await profile(space, "rtx-4090")
    await space.kubectl("annotate", "gpup", "rtx-4090", f"{SIMULATED}=true")
    try:
        await space.apply("first", **gpus)
        await space.ready("first")
        calibrated = await waiting.until(
            lambda: space.service("first"),
            lambda service: condition(service, "BatchCalibrated").get("status") == "True",
            "the class is calibrated",
        )
        (pod,) = await space.pods("first")
        (found,) = (await profile(space, "rtx-4090"))["status"]["calibrations"]
        name = f"{space.name}/{pod['metadata']['name']}"
        assert (found["device"], found["pod"]) == ("simulated", name)
        assert found["node"] == pod["spec"]["nodeName"]
        assert name in condition(calibrated, "BatchCalibrated")["message"]

        (curve,) = shipped["spec"]["curves"]
        fast = [[frames, ms / 2] for frames, ms in curve["frameBatchMs"]]
        await patch_profile(
            space, "rtx-4090", {"spec": {"curves": [{**curve, "frameBatchMs": fast}]}}
        )
        differing = await waiting.until(
            lambda: space.service("first"),
            lambda service: (
                condition(service, "BatchCalibrated").get("reason") == "CalibrationDiffers"
            ),
            "the contradiction is told",
        )
        assert differing["status"]["pools"] == calibrated["status"]["pools"]  # it is not believed
        stored = await waiting.until(
            lambda: profile(space, "rtx-4090"),
            lambda body: condition(body, "BatchCalibrated")["reason"] == "CalibrationDiffers",
            "the profile tells it, too",
        )
        assert "(+100%)" in condition(stored, "BatchCalibrated")["message"]

        writes = statuses(space)
        await space.apply("second", **gpus)  # its pod measures the same, and everyone plans anew
        await space.ready("second")
        assert statuses(space) == writes
    finally:
        await space.kubectl("annotate", "gpup", "rtx-4090", f"{SIMULATED}-")
        await patch_profile(space, "rtx-4090", {"spec": shipped["spec"]})
    await waiting.until(
        lambda: profile(space, "rtx-4090"),
        lambda body: "calibrations" not in body["status"],
        "measurements of simulated devices count no more",
    )


def statuses(space: Space) -> list[audit.Write]:
    """Return what the operator wrote to the statuses of profiles."""
    writes = audit.read(space.cluster.audit_log, OPERATOR)
    return [write for write in writes if write.resource.startswith("gpuprofiles")]
