"""Two operators: one leads, the other takes over, and nobody's session notices."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

import pytest
import pytest_asyncio

from localcluster import operator_process
from localcluster.controlplane import audit
from localcluster.controlplane.cluster import running
from localcluster.faults import leader_kills

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.cluster import ControlPlane

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

KILLS: Final = int(os.environ.get("AVATAR_LEADER_KILLS", "10"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("failover") / "cluster"
    async with running(folder) as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(plane: ControlPlane) -> AsyncIterator[leader_kills.Pair]:
    async with leader_kills.operating(plane) as pair:
        yield pair
        await pair.leave()
        assert pair.report.orphans == 0


async def test_a_leader_that_is_told_to_stop_hands_over(pair: leader_kills.Pair) -> None:
    """How long it takes is measured by `localcluster.bench.failover`."""
    epoch, earlier = pair.lease["leaseTransitions"], len(pair.lease_log.handovers())
    expected = []
    for _ in range(3):
        before = pair.holder
        await pair.hand_over()
        expected.append((before, pair.holder))
    assert pair.lease_log.handovers()[earlier:] == expected
    assert pair.lease["leaseTransitions"] == epoch + 3


async def test_a_leader_that_was_stopped_for_too_long_writes_nothing_when_it_goes_on(
    pair: leader_kills.Pair, plane: ControlPlane
) -> None:
    leader, holder = pair.leader, pair.holder
    before = len(pair.pods.objects)
    await pair.scale(before + 1)
    os.kill(leader.pid, signal.SIGSTOP)
    try:
        await pair.elected(but=holder)
        taken_at = pair.lease["acquireTime"]
        await pair.settled(before + 1)
    finally:
        os.kill(leader.pid, signal.SIGCONT)
    # Work that both see: a leader that does not know yet that it was deposed would do it too.
    for replicas in (before + 2, before):
        await pair.scale(replicas)
        await pair.settled(replicas)
    await leader.until_ready()
    writes = audit.read(plane.audit_log, operator_process.USER, taken_at)
    agents = {write.agent for write in writes}
    assert agents == {f"avatar-operator/{pair.holder}"}
    assert holder not in pair.holder
    assert pair.report.surplus == 0


async def test_pods_carry_the_epoch_of_their_leader(pair: leader_kills.Pair) -> None:
    before = len(pair.pods.objects)
    await pair.scale(before + 1)
    await pair.settled(before + 1)
    epochs = [
        int(pod["metadata"]["annotations"]["avatar.musetalk.io/epoch"])
        for pod in pair.pods.objects.values()
    ]
    assert max(epochs) == pair.lease["leaseTransitions"]
    await pair.scale(before)
    await pair.settled(before)


async def test_killed_leaders_are_replaced_and_nothing_is_done_twice(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with running(tmp_path_factory.mktemp("kills") / "cluster") as cluster:
        report = await leader_kills.run(cluster, KILLS)
        deposed = audit.read(cluster.audit_log, operator_process.USER)
    print(report.figures())  # noqa: T201 - pytest shows it when the test fails
    assert len(report.elected_s) == KILLS
    assert report.epochs >= KILLS
    assert (report.surplus, report.orphans, report.cut) == (0, 0, 0)
    # Names follow from what is seen, so a leader that repeats what it did not see is refused.
    creates = [w for w in deposed if (w.verb, w.resource) == ("create", "pods") and w.code == 201]
    assert creates
