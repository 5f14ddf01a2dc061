"""At which second a pod has failed, which class is to blame, and how many pods may be tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.gpus.batch_size import BatchPlan, NoBatch
from avatar_operator.core.gpus.inventory import ClassStock
from avatar_operator.core.gpus.pools import Pool
from avatar_operator.core.planning import attempts
from avatar_operator.core.planning.disruption import LOST_S
from avatar_operator.core.planning.failures import FailedPod, Failure
from avatar_operator.core.planning.fleet import Fleet
from avatar_operator.core.resources.placement import Placement, WhenFull

if TYPE_CHECKING:
    from tests.operator.conftest import Make

    from avatar_operator.core.resources.pod import RuntimePod

NOW = 10_000.0
NO_GPU = "not scheduled: 0/4 nodes are available: 2 Insufficient nvidia.com/gpu"
NO_CPU = "not scheduled: 0/4 nodes are available: 2 Insufficient cpu"
NO_CLAIM = "not scheduled: 0/4 nodes are available: persistentvolumeclaim is missing"
SELECTORS = ((("nvidia.com/gpu.product", "x"),),)
PENDING = Placement(when_full=WhenFull.CREATE_PENDING)


def pool(
    gpu_class: str = "rtx-4090", free: int = 0, total: int = 2, *, serves: bool = True
) -> Pool:
    outcome: Any = object.__new__(BatchPlan) if serves else NoBatch("too slow")
    return Pool(gpu_class, outcome, ClassStock(gpu_class, 24564, total, free, SELECTORS), None)


def fleet(*pods: RuntimePod, outdated: tuple[RuntimePod, ...] = ()) -> Fleet:
    return Fleet(tuple(pods), outdated, (), (), ())


def find(
    pod: RuntimePod, pools: tuple[Pool, ...] = (pool(),), **given: Any
) -> tuple[tuple[FailedPod, ...], float | None]:
    known = {"failures": (), "states": {}, "placement": Placement(), "now": NOW, **given}
    return attempts.find_failed(fleet(pod), pools, **known)


@pytest.mark.parametrize(
    ("changes", "pools", "after_s"),
    [
        ({"rejected_at": NOW, "trouble": NO_CPU}, (pool(free=1),), 3.0),
        ({"rejected_at": NOW, "trouble": NO_GPU}, (pool(free=0),), 3.0),
        ({"rejected_at": NOW, "trouble": NO_GPU}, (pool(free=1),), 12.0),
        ({"rejected_at": NOW, "trouble": NO_GPU}, (pool("a100-80gb", free=1),), 3.0),
        ({"bound_at": NOW, "waiting": "ErrImagePull"}, (), 15.0),
        ({"created_at": NOW, "waiting": "ErrImagePull"}, (), 15.0),
        ({"bound_at": NOW, "mounted": False}, (), 120.0),
        ({"bound_at": NOW, "waiting": "CrashLoopBackOff", "restarts": 2}, (), 15.0),
    ],
)
def test_each_trouble_has_its_time(
    make: Make, changes: dict[str, Any], pools: tuple[Pool, ...], after_s: float
) -> None:
    node = "" if "rejected_at" in changes else "n1"
    pod = make.pod(running=False, ready=False, node=node, **{"mounted": True, **changes})
    assert find(pod, pools, now=NOW + after_s - 0.5) == ((), 0.5)
    failed, wait_s = find(pod, pools, now=NOW + after_s)
    assert [each.pod for each in failed] == [pod]
    assert wait_s is None


@pytest.mark.parametrize(
    "changes",
    [
        {"node": ""},
        {"mounted": True},
        {"mounted": True, "waiting": "CrashLoopBackOff", "restarts": 1},
        {"running": True, "waiting": "ErrImagePull"},
    ],
    ids=str,
)
def test_a_pod_that_progresses_never_fails(make: Make, changes: dict[str, Any]) -> None:
    pod = make.pod(**{"running": False, "ready": False, "mounted": False, **changes})
    assert find(pod, now=1e9) == ((), None)


def test_a_pod_with_a_state_has_not_failed(make: Make) -> None:
    pod = make.pod(running=False, bound_at=0.0, waiting="ErrImagePull", trouble="no image")
    for age_s, fails in ((0.0, False), (LOST_S, False), (LOST_S + 0.1, True)):
        states = {pod.uid: make.state(0, age_s=age_s)}
        assert bool(find(pod, states=states)[0]) is fails


@pytest.mark.parametrize(
    ("changes", "pools", "blamed"),
    [
        ({"rejected_at": 0.0, "trouble": NO_CPU, "node": ""}, (pool(),), "rtx-4090"),
        ({"rejected_at": 0.0, "trouble": NO_CLAIM, "node": ""}, (pool(),), "rtx-4090"),
        ({"rejected_at": 0.0, "trouble": NO_GPU, "node": ""}, (pool(),), None),
        ({"rejected_at": 0.0, "trouble": NO_GPU, "node": ""}, (pool(free=1),), "rtx-4090"),
        ({"bound_at": 0.0, "waiting": "ErrImagePull"}, (pool(),), ""),
    ],
)
def test_a_class_is_blamed_unless_it_was_only_full(
    make: Make, changes: dict[str, Any], pools: tuple[Pool, ...], blamed: str | None
) -> None:
    pod = make.pod(**{"running": False, "trouble": "no", **changes})
    assert find(pod, pools) == ((FailedPod(pod, pod.trouble, blamed),), None)
    outdated = attempts.find_failed(fleet(outdated=(pod,)), pools, (), {}, Placement(), NOW)
    assert outdated == ((FailedPod(pod, pod.trouble, None),), None)


def test_a_pod_without_a_reason_has_no_volumes(make: Make) -> None:
    pod = make.pod(running=False, mounted=False)
    assert find(pod) == ((FailedPod(pod, "its volumes are not mounted", ""),), None)


def test_a_pending_pod_stays_unless_another_class_is_free(make: Make) -> None:
    pod = make.pod(running=False, node="", rejected_at=0.0, trouble=NO_CPU)
    other = pool("a100-80gb", free=1)

    def fails(*pools: Pool, failures: tuple[Failure, ...] = ()) -> bool:
        return bool(find(pod, pools, placement=PENDING, failures=failures)[0])

    assert not fails(pool())
    assert not fails(pool(free=1))
    assert fails(pool(), other)
    assert not fails(pool(), pool("a100-80gb", free=0))
    assert not fails(pool(), pool("a100-80gb", free=1, serves=False))
    closed = Failure("h", "a100-80gb", 1, 1, NOW - 9.9, 2, "p", "no")
    assert not fails(pool(), other, failures=(closed,))
    open_again = Failure("h", "a100-80gb", 1, 1, NOW - 10.0, 2, "p", "no")
    assert fails(pool(), other, failures=(open_again,))
    assert find(pod, (pool(),))[0]
    kept = attempts.find_failed(fleet(outdated=(pod,)), (pool(),), (), {}, PENDING, NOW)
    assert len(kept[0]) == 1


def test_pods_that_no_node_fits_are_counted(make: Make) -> None:
    pods = [
        make.pod("a", node="", rejected_at=1.0, trouble=NO_CPU),
        make.pod("b", node="", rejected_at=1.0, trouble=NO_GPU),
        make.pod("c", node="", trouble=NO_CPU),
        make.pod("d", node="", rejected_at=0.0, trouble=NO_CLAIM),
    ]
    assert attempts.count_unfit(fleet(*pods[:2], outdated=tuple(pods[2:])), (pool(),)) == 2


def allowed(pods: Fleet, *failures: Failure, count: int = 5, **given: Any) -> attempts.Allowance:
    placement = given.pop("placement", Placement())
    pools = given.pop("pools", (pool(free=2), pool("a100-80gb", free=2)))
    return attempts.allow(pods, "current", pools, failures, placement, count, NOW, **given)


def general(after_s: float, *, rounds: int = 1, pods: int = 1) -> Failure:
    return Failure("current", "", rounds, pods, NOW - after_s, 0, "p", "no")


def test_a_new_spec_gets_one_pod(make: Make) -> None:
    assert allowed(fleet()).count == 1
    assert allowed(fleet(), adopts=True).count == 5
    assert allowed(fleet(make.pod(ready=False))).count == 5  # a node has accepted it
    assert allowed(fleet(make.pod(ready=False, node=""))).count == 0
    assert allowed(fleet(make.pod(ready=False, waiting="ErrImagePull"))).count == 0
    assert allowed(fleet(make.pod(ready=False, spec_hash="old"))).count == 0
    assert allowed(Fleet((), (), (make.pod(ready=False),), (), ())).count == 5
    assert allowed(Fleet((), (), (), (make.pod(ready=True),), ())).count == 5
    assert allowed(Fleet((), (), (), (), (make.pod(ready=True),))).count == 1


def test_a_failed_spec_waits_for_its_delay(make: Make) -> None:
    assert (allowed(fleet(), general(4)).count, allowed(fleet(), general(4)).wait_s) == (0, 6.0)
    assert (allowed(fleet(), general(10)).count, allowed(fleet(), general(10)).wait_s) == (1, None)
    healthy = fleet(make.pod())
    assert allowed(healthy, general(4, pods=2)).count == 3
    assert allowed(healthy, general(4, pods=9)).count == 0
    assert allowed(healthy, general(10, pods=2)).count == 5


def test_another_try_yields_to_services_that_wait(make: Make) -> None:
    def tried(after_s: float, *, others_wait: bool = True) -> tuple[int, float | None]:
        found = allowed(fleet(make.pod()), general(after_s), others_wait=others_wait)
        return found.count, found.wait_s

    assert tried(9) == (4, 5.0)
    assert tried(2) == (4, 8.0)
    assert tried(299) == (4, 5.0)
    assert tried(300) == (5, None)
    assert tried(299, others_wait=False) == (5, None)


def test_a_closed_class_has_no_gpu_until_its_time_or_until_its_gpus_change(make: Make) -> None:
    closed = Failure("current", "rtx-4090", 1, 1, NOW - 4, 2, "p", "no")
    found = allowed(fleet(make.pod()), closed)
    assert (found.count, found.wait_s, found.closed) == (5, 6.0, frozenset({"rtx-4090"}))
    assert [(each.stock.free, each.stock.selectors) for each in found.pools] == [
        (0, ()),
        (2, SELECTORS),
    ]
    pools = (pool(free=2, total=3),)
    changed = allowed(fleet(make.pod()), closed, pools=pools)
    assert (changed.wait_s, changed.closed, changed.pools) == (None, frozenset(), pools)


def test_pods_that_wait_for_nodes_do_not_keep_others_from_a_try(make: Make) -> None:
    waits = make.pod("w", node="", ready=False, running=False, rejected_at=1.0, trouble=NO_GPU)
    pools = (pool(free=0),)
    assert allowed(fleet(waits), pools=pools, placement=PENDING).count == 5
    assert allowed(fleet(waits), pools=pools).count == 0
    unfit = make.pod("w", node="", ready=False, running=False, rejected_at=1.0, trouble=NO_CPU)
    assert allowed(fleet(unfit), pools=pools, placement=PENDING).count == 0
