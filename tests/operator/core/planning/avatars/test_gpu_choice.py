"""Where the Job of an avatar may run: never on a GPU that a service needs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.gpus.inventory import ClassStock
from avatar_operator.core.planning.avatars.gpu_choice import (
    CPU,
    Choice,
    Situation,
    Wait,
    choose,
    count_running,
    count_without_node,
    is_surplus,
)
from avatar_operator.core.resources.devices import DeviceGroup
from avatar_operator.core.resources.preparation import PreparationJob, PreparationPod, parse_job
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make


def stock(name: str, free: int = 1, total: int = 2) -> ClassStock:
    return ClassStock(name, 24_000, total, free, ())


def situation(make: Make, *stocks: ClassStock, **changes: Any) -> Situation:
    profiles = (
        make.profile("rtx-4090", costPerHour="0.4"),
        make.profile("l4", costPerHour="0.9"),
        make.profile("h100-80gb"),
    )
    found = {each.gpu_class: each for each in stocks}
    return replace(Situation(found, profiles, (), {}, 1), **changes)


def test_the_cheapest_free_class_is_chosen(make: Make) -> None:
    seen = situation(make, stock("h100-80gb"), stock("l4"), stock("rtx-4090"))
    assert choose(make.avatar(), seen) == Choice(stock("rtx-4090"))
    seen = situation(make, stock("h100-80gb"), stock("l4"), stock("rtx-4090", free=0))
    assert choose(make.avatar(), seen) == Choice(stock("l4"))


def test_the_order_of_the_spec_wins(make: Make) -> None:
    avatar = make.avatar(placement={"gpuClasses": ["h100-80gb", "unknown", "rtx-4090"]})
    seen = situation(make, stock("h100-80gb"), stock("rtx-4090"))
    assert choose(avatar, seen) == Choice(stock("h100-80gb"))


def test_gpus_of_a_dra_driver_are_not_used(make: Make) -> None:
    card = DeviceGroup("gpu.nvidia.com", "NVIDIA L4", "", 23034, 0)
    claimed = ClassStock("l4", 23_034, 2, 2, (), "gpu.nvidia.com", (card,))
    avatar = make.avatar(placement={"gpuClasses": ["l4"]}, preparation={"device": "gpu"})
    found = choose(avatar, situation(make, claimed))
    assert isinstance(found, Wait)
    assert found.message.endswith("preparations do not use GPUs of DRA drivers")
    both = make.avatar(preparation={"device": "gpu"})
    assert choose(both, situation(make, claimed, stock("rtx-4090"))) == Choice(stock("rtx-4090"))


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"contested": {"l4"}}, Reason.WAITING_FOR_SERVICES, "l4: AvatarServices lack GPUs"),
        ({"running": {"l4": 1}}, Reason.WAITING_FOR_PREPARATIONS, "1 preparation runs"),
        ({"stocks": {"l4": stock("l4", 0)}}, Reason.WAITING_FOR_GPU, "l4: 0 of 2 GPUs are free"),
        (
            {"stocks": {"l4": stock("l4", 0, 0)}},
            Reason.WAITING_FOR_GPU,
            "no usable node has a GPU of l4",
        ),
    ],
    ids=["contested", "limit", "busy", "absent"],
)
def test_a_wait_has_its_reason(
    make: Make, changes: dict[str, Any], reason: Reason, message: str
) -> None:
    avatar = make.avatar(placement={"gpuClasses": ["l4"]}, preparation={"device": "gpu"})
    found = choose(avatar, situation(make, stock("l4"), **changes))
    assert isinstance(found, Wait)
    assert found.reason is reason
    assert message in found.message


def test_auto_uses_cpus_only_if_there_is_no_gpu(make: Make) -> None:
    assert choose(make.avatar(), situation(make, stock("l4", 0, 0))) == Choice(None)
    assert isinstance(choose(make.avatar(), situation(make, stock("l4", 0))), Wait)
    cpu = make.avatar(preparation={"device": "cpu"})
    assert choose(cpu, situation(make, stock("l4"))) == Choice(None)
    found = choose(cpu, situation(make, running={CPU: 2}, limit=2))
    assert found == Wait(
        Reason.WAITING_FOR_PREPARATIONS, "CPUs: 2 preparations run, the limit is 2"
    )


def job_with(make: Make, *pods: PreparationPod, **changes: Any) -> PreparationJob:
    job = parse_job(make.job_body())
    assert job is not None
    return replace(job, pods=pods, **changes)


def pod(*, rejected: bool = False, at: float | None = None) -> PreparationPod:
    return PreparationPod("p", "j", "", rejected, False, "", None, None, scheduled_at=at)


def test_a_job_that_finds_no_node_does_not_keep_others_waiting(make: Make) -> None:
    job = job_with(make, pod())
    waiting = job_with(make, pod(rejected=True))
    ended = job_with(make, ended_at=1.0)
    young, without_pod = job_with(make, created_at=80.0), job_with(make, created_at=10.0)
    assert count_running([job, waiting, ended, young, without_pod], 100.0) == {"rtx-4090": 2}
    found = count_without_node([job, waiting, ended, young, without_pod], "acme", 100.0)
    assert found == {"rtx-4090": 2}
    assert count_without_node([waiting], "other", 100.0) == {}


def test_a_namespace_has_few_jobs_that_find_no_node(make: Make) -> None:
    """Otherwise a hundred of them take a hundred GPUs as soon as nodes appear."""
    avatar = make.avatar(placement={"gpuClasses": ["l4"]})
    seen = situation(make, stock("l4"), without_node={"l4": 2})
    assert choose(avatar, seen) == Choice(stock("l4"))
    found = choose(avatar, situation(make, stock("l4"), without_node={"l4": 3}))
    assert isinstance(found, Wait)
    assert found.message == "l4: 3 Jobs of this namespace find no node, the limit is 3"


def test_of_jobs_that_got_nodes_at_once_the_first_continues(make: Make) -> None:
    first = job_with(make, pod(at=5.0), uid="b")
    late, later = job_with(make, pod(at=6.0), uid="a"), job_with(make, pod(at=7.0), uid="c")
    waiting = job_with(make, pod(rejected=True), uid="d")
    other = job_with(make, pod(at=1.0), uid="e", gpu_class="l4")
    ended = job_with(make, pod(at=1.0), uid="f", ended_at=2.0)
    jobs = [later, first, late, waiting, other, ended]
    assert [job.uid for job in jobs if is_surplus(job, jobs, 1)] == ["c", "a"]
    assert [job.uid for job in jobs if is_surplus(job, jobs, 2)] == ["c"]


@given(
    free=st.dictionaries(st.sampled_from(["l4", "rtx-4090", "h100-80gb"]), st.integers(0, 3)),
    contested=st.sets(st.sampled_from(["l4", "rtx-4090", "h100-80gb"])),
    running=st.dictionaries(st.sampled_from(["", "l4", "rtx-4090"]), st.integers(0, 3)),
    limit=st.integers(1, 3),
)
def test_no_choice_takes_what_others_need(
    make: Make, free: dict[str, int], contested: set[str], running: dict[str, int], limit: int
) -> None:
    stocks = [stock(name, count, 3) for name, count in free.items()]
    seen = situation(make, *stocks, contested=contested, running=running, limit=limit)
    found = choose(make.avatar(), seen)
    if isinstance(found, Choice):
        name = CPU if found.stock is None else found.stock.gpu_class
        assert name not in contested
        assert running.get(name, 0) < limit
        assert found.stock is None or found.stock.free > 0
