"""The sums of the GPUs that pods use, through reservations, releases and expiry."""

from __future__ import annotations

from avatar_operator.core.cache.gpu_usage import GPUUsage
from avatar_operator.core.resources.pod import PodUse

ONE, TWO = PodUse("n1", 1, "a"), PodUse("n1", 2, "a")
UNBOUND = PodUse("", 1, "a")


def test_uses_of_one_node_and_class_are_summed() -> None:
    usage = GPUUsage()
    assert not usage.put("u1", 1, ONE, 0.0)
    assert not usage.put("u2", 1, TWO, 0.0)
    assert not usage.put("u3", 1, PodUse("n2", 1, "a"), 0.0)
    assert usage.sums() == (PodUse("n1", 3, "a"), PodUse("n2", 1, "a"))
    assert usage.sums() is usage.sums()
    assert usage.drop("u1")
    assert usage.sums() == (TWO, PodUse("n2", 1, "a"))
    assert not usage.drop("u1")
    assert usage.uids() == ("u2", "u3")


def test_other_resources_are_summed_beside_gpus() -> None:
    usage = GPUUsage()
    part = PodUse.of("n1", "a", {"nvidia.com/mig-1g.10gb": 2})
    usage.put("u1", 1, part, 0.0)
    usage.put("u2", 1, part, 0.0)
    assert usage.sums() == (PodUse.of("n1", "a", {"nvidia.com/mig-1g.10gb": 4}),)


def test_a_pod_that_ends_releases_its_gpus_once() -> None:
    usage = GPUUsage()
    usage.put("u1", 1, TWO, 0.0)
    assert usage.put("u1", 2, None, 0.0)
    assert usage.sums() == ()
    assert not usage.put("u1", 3, None, 0.0)
    assert not usage.put("never seen", 1, None, 0.0)
    assert usage.uids() == ("u1",)


def test_an_older_version_changes_nothing() -> None:
    usage = GPUUsage()
    usage.put("u1", 5, TWO, 0.0)
    assert not usage.put("u1", 4, None, 0.0)
    assert usage.sums() == (TWO,)


def test_a_reservation_counts_until_it_is_released() -> None:
    usage = GPUUsage()
    usage.reserve("acme/p0", ONE)
    usage.reserve("acme/p0", TWO)
    assert usage.sums() == (TWO,)
    assert usage.release("acme/p0")
    assert usage.sums() == ()
    assert not usage.release("acme/p0")


def test_a_pod_without_a_node_counts_for_ten_seconds_after_its_creation() -> None:
    usage = GPUUsage()
    assert usage.next_expiry() is None
    usage.put("u1", 1, UNBOUND, 100.0)
    usage.put("u2", 1, UNBOUND, 105.0)
    assert usage.next_expiry() == 110.0
    usage.expire(109.9)
    assert usage.sums() == (PodUse("", 2, "a"),)
    usage.expire(110.0)
    assert (usage.sums(), usage.next_expiry()) == ((UNBOUND,), 115.0)
    usage.expire(110.0)
    assert usage.sums() == (UNBOUND,)
    assert not usage.put("u1", 1, None, 100.0)  # it has released its GPU before


def test_a_pod_that_gets_a_node_or_is_deleted_does_not_expire() -> None:
    usage = GPUUsage()
    usage.put("u1", 1, UNBOUND, 100.0)
    usage.put("u2", 1, UNBOUND, 100.0)
    usage.put("u1", 2, ONE, 100.0)
    usage.drop("u2")
    assert usage.next_expiry() is None
    usage.expire(1e9)
    assert usage.sums() == (ONE,)


CLAIM = PodUse.of("", "a", {"gpu": 1})


def test_a_pod_with_a_claim_counts_until_its_claim_has_a_gpu() -> None:
    usage = GPUUsage()
    usage.put("u1", 1, CLAIM, 0.0)
    assert usage.sums() == (CLAIM,)
    usage.allocate("u1")
    assert usage.sums() == ()
    usage.put("u1", 2, CLAIM, 0.0)  # the pod is bound: the claim still has the GPU
    assert usage.sums() == ()
    usage.deallocate("u1")
    usage.put("u1", 3, CLAIM, 0.0)
    assert usage.sums() == (CLAIM,)


def test_a_claim_may_have_its_gpu_before_its_pod_is_seen() -> None:
    usage = GPUUsage()
    usage.allocate("u1")
    usage.put("u1", 1, CLAIM, 0.0)
    usage.put("u2", 1, ONE, 0.0)
    usage.allocate("u2")  # a pod of a device plugin that has a claim of another driver, too
    assert usage.sums() == (ONE,)
    usage.drop("u1")
    usage.put("u3", 1, CLAIM, 0.0)
    assert usage.sums() == (ONE, CLAIM)
