"""Any labels, profiles and specs: no crash, and no plan that runs out of memory."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

from avatar_contracts import packaged_files
from avatar_operator.core.gpus import node_classes
from avatar_operator.core.gpus.batch_size import BatchPlan
from avatar_operator.core.manifests.pod import PodSettings, hash_spec, runtime_pod
from avatar_operator.core.planning import planner
from avatar_operator.core.resources.gpu_profile import Curve, GPUProfile, parse_profile
from avatar_operator.core.resources.node import Node, parse_node
from avatar_operator.core.resources.placement import WhenFull
from avatar_operator.core.resources.pod import PodUse
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.operator.conftest import Body, Make

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.resources.pod import RuntimePod

CASES = 10_000
VARIANT = "v15/sd-vae/fp16"
PRODUCTS = (
    "NVIDIA-GeForce-RTX-4090", "GeForce-RTX-4090-D", "NVIDIA-A100-SXM4-40GB", "A100-SXM4-80GB",
    "NVIDIA-A100-80GB-PCIe", "NVIDIA-H100-80GB-HBM3", "NVIDIA-H200", "NVIDIA-L40S", "NVIDIA-L4",
    "Tesla-T4", "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", "NVIDIA-A100-SXM4-80GB-MIG-INVALID", "", "??",
)  # fmt: skip
MEMORY = (
    "24564", "23028", "40960", "39538", "81920", "81559", "143771", "46068", "23034", "0", "-1",
    str(24564 * 2**20), "24 GB", "15360", "40192", "99999999999999999999",
)  # fmt: skip
TRUE = (
    ("NVIDIA-GeForce-RTX-4090", "24564"), ("NVIDIA-GeForce-RTX-4090", "23028"),
    ("NVIDIA-A100-SXM4-40GB", "40960"), ("NVIDIA-A100-80GB-PCIe", "81920"),
    ("NVIDIA-H100-80GB-HBM3", "81559"), ("NVIDIA-H200", "143771"), ("NVIDIA-L4", "23034"),
)  # fmt: skip
RESOURCES = ("nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-3g.40gb")
REPLICAS = ("0", "1", "2", "4", "10", "many")
CLOUDS: tuple[dict[str, str], ...] = (
    {},
    {"cloud.google.com/gke-accelerator": "nvidia-l4"},
    {"gpu.nvidia.com/model": "A100"},
    {
        "karpenter.k8s.aws/instance-gpu-name": "a100",
        "karpenter.k8s.aws/instance-gpu-memory": "81920",
    },
)


def maybe(rng: random.Random, labels: dict[str, str], key: str, values: tuple[str, ...]) -> None:
    if rng.random() < 0.7:
        labels[key] = rng.choice(values)


def node(rng: random.Random, name: str) -> Body:
    labels = dict(rng.choice(CLOUDS))
    for prefix in ("nvidia.com/gpu", "nvidia.com/mig-3g.40gb"):
        product = rng.choice(PRODUCTS) + rng.choice(("", "", "", "-SHARED"))
        maybe(rng, labels, f"{prefix}.product", (product,))
        maybe(rng, labels, f"{prefix}.memory", MEMORY)
        if rng.random() < 0.4:
            maybe(rng, labels, f"{prefix}.replicas", REPLICAS)
            maybe(rng, labels, f"{prefix}.sharing-strategy", ("none", "mps", "time-slicing"))
            maybe(rng, labels, f"{prefix}.count", ("0", "1", "2", "8"))
    if rng.random() < 0.5:  # as feature discovery does it, when all is well
        product, memory = rng.choice(TRUE)
        labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": memory}
        maybe(rng, labels, "nvidia.com/gpu.replicas", ("0", "1", "1", "2"))
    counts = {
        resource: str(rng.choice((0, 1, 2, 4, 8))) for resource in RESOURCES if rng.random() < 0.6
    }
    ready = {"type": "Ready", "status": rng.choice(("True", "True", "True", "False", "Unknown"))}
    return {
        "metadata": {"name": name, "uid": name, "labels": labels},
        "spec": {"unschedulable": rng.random() < 0.1},
        "status": {"allocatable": counts, "capacity": counts, "conditions": [ready]},
    }


def calibration(rng: random.Random) -> Body:
    factor = rng.choice((0.1, 0.9, 1.0, 1.3, 5.0))
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= rng.choice((1, 4, 16, 64))]
    return {
        "model": VARIANT,
        "baseMiB": rng.choice((1, 800, 3100, 30_000)),
        "perFrameMiB": rng.choice((1, 100, 306, 2000)),
        "frameBatchMs": [[size, (10 + 12 * size) * factor] for size in sizes],
        "device": rng.choice(("cuda", "simulated")),
    }


def profile(rng: random.Random, shipped: tuple[Body, ...]) -> GPUProfile:
    body = {**rng.choice(shipped)}
    body["spec"] = {**body["spec"], "allowShared": rng.random() < 0.5}
    if rng.random() < 0.05:
        products = rng.choice((["*"], ["*A100*"], ["*-MIG-3g.40gb"], ["NVIDIA-*"]))
        match = {"products": products, "memoryMiB": {"min": 1, "max": 10**6}}
        body["spec"] |= {"match": match}
    if rng.random() < 0.5:
        body["status"] = {"calibrations": [calibration(rng)]}
    return parse_profile(body)


def spec(rng: random.Random) -> Body:
    chosen: Body = {
        "replicas": rng.randint(1, 9),
        "fps": rng.choice((10, 16, 20, 25)),
        "placement": {
            "strategy": rng.choice(("preferred", "cheapest", "fastest")),
            "whenFull": rng.choice(("fallThrough", "wait", "createPending")),
        },
    }
    if rng.random() < 0.3:
        chosen["batchSize"] = rng.randint(1, 64)
    else:
        chosen["objective"] = rng.choice(("latency", "balanced", "throughput"))
    if rng.random() < 0.2:
        chosen["placement"]["gpuClasses"] = rng.sample(("rtx-4090", "a100-80gb", "gone"), 2)
    return chosen


def shipped_bodies() -> Iterator[Body]:
    for name, shipped in packaged_files.gpu_profiles().items():
        yield {"metadata": {"name": name}, "spec": shipped}


def observe(
    nodes: list[Node],
    uses: tuple[PodUse, ...],
    given: tuple[GPUProfile, ...],
    pods: tuple[RuntimePod, ...],
) -> planner.Observed:
    return planner.Observed(
        nodes=tuple(nodes), uses=uses, profiles=given, pods=pods, states={}, has_control_secret=True
    )


def would_run_out(curve: Curve, frames: int, memory_mib: int) -> bool:
    """Account as the simulated device does (avatar_runtime.engine.devices.simulated)."""
    return curve.base_mib + curve.per_frame_mib * frames > memory_mib


def may_land(node: Node, pool: Pool) -> bool:
    """Return whether the scheduler could bind a pod of the pool to a node, by its labels."""
    counts = {"nvidia.com/gpu": node.gpus, **dict(node.others)}
    usable = node.ready and not node.unschedulable and counts.get(pool.stock.resource, 0)
    return bool(usable) and any(
        all(node.labels.get(key, "") == value for key, value in selector)
        for selector in pool.stock.selectors
    )


def check(
    plan: planner.Plan,
    nodes: list[Node],
    given: tuple[GPUProfile, ...],
    when_full: WhenFull,
) -> int:
    """Check every pod that a plan creates; returns how many there are."""
    created = [action for action in plan.actions if isinstance(action, planner.CreatePod)]
    for pool in plan.pools:
        asked = sum(action.gpu_class == pool.gpu_class for action in created)
        assert pool.stock.free <= pool.stock.total
        # Pods that wait for nodes to come may not land on those that are there, but for the free.
        assert asked <= pool.stock.free or when_full is WhenFull.CREATE_PENDING
        if isinstance(pool.outcome, BatchPlan):
            assert pool.curve is not None
            assert pool.outcome.sessions_per_pod >= 1
            assert pool.outcome.memory_mib <= 0.9 * pool.stock.memory_mib
            assert not would_run_out(pool.curve, pool.outcome.batch_size, pool.stock.memory_mib)
    for action in created:
        stock = action.pool.stock
        usable_nodes = [node for node in nodes if may_land(node, action.pool)]
        assert usable_nodes or when_full is WhenFull.CREATE_PENDING
        for part in (part for node in usable_nodes for part in node_classes.classify(node, given)):
            if part.resource == stock.resource:
                assert part.gpu_class == action.gpu_class
                assert part.memory_mib >= stock.memory_mib
    return len(created)


def test_no_labels_and_no_spec_give_a_plan_that_runs_out_of_memory(make: Make) -> None:
    rng = random.Random(7)
    shipped = tuple(shipped_bodies())
    options = planner.Options("image")
    pods = calibrated = 0
    for case in range(CASES):
        nodes = [parse_node(node(rng, f"n{index}")) for index in range(rng.randint(0, 3))]
        found = {p.name: p for p in (profile(rng, shipped) for _ in range(rng.randint(1, 6)))}
        given = tuple(found[name] for name in sorted(found))
        calibrated += any(p.calibrations for p in given)
        service = make.service(**spec(rng))
        uses = tuple(
            PodUse(rng.choice(("n0", "n1", "")), rng.randint(0, 2), rng.choice(("", "l4")))
            for _ in range(rng.randint(0, 3))
        )
        # A lost pod proves the spec, so that a plan may create several pods.
        proof = (make.pod("proof", node="lost", spec_hash=hash_spec(service, "image")),)
        observed = observe(nodes, uses, given, proof)
        plan = planner.plan(service, observed, options, 0.0)
        pods += check(plan, nodes, given, service.placement.when_full)
        if case % 50 == 0:  # the same again is the same plan, whatever order things come in
            mixed = observe(nodes[::-1], uses[::-1], given, proof)
            assert planner.plan(service, mixed, options, 0.0) == plan
            settings = PodSettings("image", "Always")
            for action in plan.actions:
                if isinstance(action, planner.CreatePod):
                    assert runtime_pod(service, action.name, action.pool, settings, "s")
    assert pods > CASES / 10  # the fuzz does not pass by planning nothing
    assert calibrated > CASES / 4


def test_no_profile_breaks_its_parser(make: Make) -> None:
    rng = random.Random(8)
    odd: tuple[Any, ...] = (None, 0, -1, "", "x", [], {}, [[]], [[1, 2], [2, 1]], 1e400, True)
    read = 0
    for _ in range(CASES):
        body = make.profile_body(allowShared=rng.choice((True, False)))
        for _ in range(rng.randint(0, 2)):
            part = rng.choice((body["spec"], body["spec"]["match"], body["spec"]["curves"]))
            part = part[0] if isinstance(part, list) and part else part
            if isinstance(part, dict) and part:
                part[rng.choice(sorted(part))] = rng.choice(odd)
            if not isinstance(body["spec"]["match"], dict):
                break
            if not isinstance(body["spec"]["curves"], list):
                break
        with contextlib.suppress(InvalidResource):
            parsed = parse_profile(body)
            read += 1
            assert parsed.curves
            for curve in parsed.curves:
                times = [ms for _, ms in curve.frame_batch_ms]
                assert times == sorted(times)
    assert CASES / 10 < read < CASES
