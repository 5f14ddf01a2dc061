"""Tests of what a reconcile plans with, executes and reports, on fakes around the real store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.controllers.service_controller import (
    HOLD_REMOVALS_S,
    SETTLE_S,
    STATES_WAIT_S,
    ServiceController,
)
from avatar_operator.controllers.service_state import ExecutionResult, ServiceState
from avatar_operator.controllers.tenant_quotas import TenantQuotas
from avatar_operator.core.autoscaling.observation import Demand
from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.cache.store import Store
from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.planning import planner
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.core.status import refusals
from avatar_operator.errors import Conflict, Refused
from avatar_operator.metrics import Metrics
from avatar_operator.streams.client import SILENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.operator.conftest import Body, Make

    from avatar_operator.core.cache.entries import ChangeImpact
    from avatar_operator.core.resources.service import Service
    from avatar_operator.core.resources.state import PodState

KEY = ServiceKey("acme", "concierge")


class Fakes:
    """Stands for the executor, the triggers, the streams, the shares and the decision log."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.received: dict[str, PodState] = {}
        self.executed: list[tuple[planner.Action, ...]] = []
        self.result = ExecutionResult()
        self.fault: Exception | None = None
        self.uses_during: list[int] = []
        self.statuses: list[Body] = []
        self.finalized: list[tuple[str, list[str]]] = []
        self.impacts: list[ChangeImpact] = []
        self.lacks: list[bool] = []
        self.waits: list[bool] = []
        self.shares: dict[str, object] = {}
        self.failed_shares: list[str] = []
        self.states_of_service: list[ServiceState] = []
        self.written: list[ServiceKey] = []
        self.events = 0

    def states(self, uids: Iterable[str]) -> Mapping[str, PodState]:
        return {uid: self.received[uid] for uid in uids if uid in self.received}

    def demand(self, key: ServiceKey) -> Demand:
        return Demand(gateways=1)

    def has_pdb(self, uid: str) -> bool:
        return True

    async def execute(
        self, service: Service, actions: Sequence[planner.Action], state: ServiceState
    ) -> ExecutionResult:
        self.executed.append(tuple(actions))
        self.states_of_service.append(state)
        self.uses_during.append(len(self._store.gpu_uses(0.0)))
        if self.fault is not None:
            raise self.fault
        return self.result

    async def write_status(self, *values: Any) -> None:
        self.statuses.append(values[4])

    async def emit_events(self, *_: Any) -> None:
        self.events += 1

    async def finalize(self, uid: str, pods: Sequence[Any]) -> bool:
        self.finalized.append((uid, [pod.name for pod in pods]))
        return False

    def silent(self, uids: Iterable[str]) -> Mapping[str, str]:
        return {}

    def others_wait(self, uid: str) -> bool:
        return False

    def set_waits(self, uid: str, *, waits: bool) -> None:
        self.waits.append(waits)

    def begin_term(self) -> None:
        self.shares.clear()

    def record(self, uid: str, demand: object) -> None:
        self.shares[uid] = demand

    def record_none(self, uid: str) -> None:
        self.shares.pop(uid, None)

    def record_failure(self, uid: str) -> None:
        self.failed_shares.append(uid)

    def of(self, uid: str) -> None:
        return None

    def on_change(self, impact: ChangeImpact) -> None:
        self.impacts.append(impact)

    def set_lacks_gpus(self, uid: str, lacks: bool) -> None:
        self.lacks.append(lacks)

    def write(self, key: ServiceKey, _: object) -> None:
        self.written.append(key)


class Setup:
    """A service controller with a store that the test fills."""

    def __init__(self, make: Make, watched: Sequence[str] = ()) -> None:
        self.make = make
        self.store = Store([])
        self.fakes = Fakes(self.store)
        self.metrics = Metrics()
        fake: Any = self.fakes
        self.controller = ServiceController(
            self.store,
            fake,
            fake,
            fake,
            fake,
            fake,
            fake,
            TenantQuotas(self.store, fake, lambda uids: {}, lambda: None),
            planner.Options("image"),
            self.metrics,
            watched,
            key_generation=lambda: "",
            installation="system/avatar-operator",
        )
        self.version = 100
        self.controller.begin_term()

    def apply(self, **spec: Any) -> None:
        body = self.make.service_body(**spec)
        self.observe(Kind.SERVICES, body)

    def observe(self, kind: Kind, body: Body) -> None:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.store.observe(kind, body)

    def add_cluster(self) -> None:
        self.observe(Kind.NODES, self.make.node_body())
        self.observe(Kind.PROFILES, self.make.profile_body())

    def add_pod(self, name: str = "p0", **status: Any) -> str:
        body = self.make.pod_body(name, status=status)
        service = self.make.service(replicas=1)
        labels = body["metadata"]["labels"]
        labels["avatar.musetalk.io/spec-hash"] = hash_spec(service, "image")
        self.observe(Kind.PODS, body)
        return str(body["metadata"]["uid"])

    async def reconcile(self) -> float | None:
        return await self.controller.reconcile("s1")

    def kinds(self, number: int = -1) -> list[str]:
        return [type(action).__name__ for action in self.fakes.executed[number]]


@pytest.fixture
async def setup(make: Make) -> Setup:
    setup = Setup(make)
    setup.add_cluster()
    return setup


def pass_s(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    later = loop.time() + seconds
    monkeypatch.setattr(loop, "time", lambda: later)


async def test_the_first_plan_of_a_term_waits_for_the_state_of_every_running_pod(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.apply(replicas=1)
    uid = setup.add_pod()
    assert await setup.reconcile() == STATES_WAIT_S == 0.25
    setup.fakes.received[uid] = setup.make.state(age_s=SILENCE_S)  # older than it can be
    assert await setup.reconcile() == STATES_WAIT_S
    assert setup.fakes.executed == []
    assert setup.fakes.statuses == []
    setup.fakes.received[uid] = setup.make.state(age_s=SILENCE_S - 0.1)
    await setup.reconcile()
    assert len(setup.fakes.executed) == 1
    setup.fakes.received.clear()
    await setup.reconcile()  # it waits only before the first plan
    assert len(setup.fakes.executed) == 2
    setup.controller.begin_term()
    assert await setup.reconcile() == STATES_WAIT_S
    assert SETTLE_S == 2.0  # a new leader plans within the 5 s that a failover may take
    pass_s(monkeypatch, SETTLE_S - 0.1)
    assert await setup.reconcile() == STATES_WAIT_S
    pass_s(monkeypatch, 0.2)
    await setup.reconcile()
    assert len(setup.fakes.executed) == 3


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"podIP": ""}, id="no address"),
        pytest.param({"containerStatuses": []}, id="not running"),
    ],
)
async def test_a_pod_that_cannot_send_its_state_is_not_awaited(
    setup: Setup, status: dict[str, Any]
) -> None:
    setup.apply(replicas=1)
    setup.add_pod(**status)
    await setup.reconcile()
    assert len(setup.fakes.executed) == 1


async def test_a_new_leader_holds_removals_back(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.apply(replicas=0)
    setup.fakes.received[setup.add_pod()] = setup.make.state()
    delay_s = await setup.reconcile()
    assert delay_s is not None
    assert 0.9 < delay_s <= HOLD_REMOVALS_S == 1.0
    assert "DrainPod" not in setup.kinds()
    pass_s(monkeypatch, HOLD_REMOVALS_S + 0.1)
    await setup.reconcile()
    assert "DrainPod" in setup.kinds()


async def test_the_history_of_decisions_is_used_only_in_the_term_that_made_it(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    real = planner.plan

    def plan(service: Service, observed: planner.Observed, *rest: Any) -> planner.Plan:
        assert observed.scaling_context is not None
        seen.append(observed.scaling_context.history)
        return real(service, observed, *rest)

    monkeypatch.setattr(planner, "plan", plan)
    setup.apply(autoscaling={"minReplicas": 0, "maxReplicas": 2})
    for _ in range(2):
        await setup.reconcile()
    setup.controller.begin_term()
    await setup.reconcile()
    assert [history is None for history in seen] == [True, False, True]
    assert setup.fakes.written == [KEY] * 3


async def test_a_service_of_a_fixed_size_makes_no_scaling_decisions(setup: Setup) -> None:
    setup.apply(replicas=1)
    await setup.reconcile()
    assert setup.fakes.written == []


@pytest.mark.parametrize("fails", [False, True])
async def test_gpus_of_a_pod_are_reserved_only_while_it_is_created(
    setup: Setup, fails: bool
) -> None:
    setup.apply(replicas=1)
    if fails:
        setup.fakes.fault = Refused("POST", 403, "no")
        with pytest.raises(Refused):
            await setup.reconcile()
    else:
        await setup.reconcile()
    assert "CreatePod" in setup.kinds()
    assert setup.fakes.uses_during == [1]
    assert setup.store.gpu_uses(0.0) == ()
    assert len(setup.fakes.impacts) == 1
    assert setup.fakes.impacts[0].freed_gpus


@pytest.mark.parametrize("field", ["faults", "outdated"])
async def test_a_failed_action_fails_the_reconcile_after_its_status_was_written(
    setup: Setup, field: str
) -> None:
    error = Conflict("PATCH", 409, "modified")
    getattr(setup.fakes.result, field).append(error)
    setup.apply(replicas=0)
    with pytest.raises(Conflict) as caught:
        await setup.reconcile()
    assert caught.value is error
    assert len(setup.fakes.statuses) == 1
    assert setup.fakes.events == 1


async def test_whether_a_service_lacks_gpus_is_recorded(setup: Setup) -> None:
    setup.store.observe_deletion(Kind.NODES, "n1")
    setup.apply(replicas=1)
    await setup.reconcile()
    setup.observe(Kind.NODES, setup.make.node_body("n2"))
    await setup.reconcile()
    assert setup.fakes.lacks == setup.fakes.waits == [True, False]
    assert set(setup.fakes.shares) == {"s1"}


async def test_pods_that_wait_for_the_first_one_lack_gpus_but_do_not_wait_for_them(
    setup: Setup,
) -> None:
    setup.apply(replicas=2)  # the second pod is created when the first one has started
    await setup.reconcile()
    assert (setup.fakes.lacks, setup.fakes.waits) == ([True], [False])


@pytest.mark.parametrize("waits_for_avatars", [True, False])
async def test_a_service_that_waits_for_its_avatars_keeps_no_gpu_from_others(
    make: Make, waits_for_avatars: bool
) -> None:
    """Neither a GPU is kept for it, nor do pods of others that failed give way to it."""
    setup = Setup(make)  # without any node
    setup.observe(Kind.PROFILES, make.profile_body())
    if waits_for_avatars:
        setup.observe(Kind.AVATARS, make.avatar_body())
    faces = {"persistentVolumeClaim": {"claimName": "faces"}}
    autoscaling = {"minReplicas": 0, "maxReplicas": 3, "freeSessions": {"min": 5}}
    setup.apply(avatars=["anna"], avatarSource=faces, autoscaling=autoscaling)
    await setup.reconcile()
    assert setup.fakes.waits == [not waits_for_avatars]


async def test_the_desired_replicas_are_exported_and_decisions_are_counted(setup: Setup) -> None:
    setup.apply(replicas=2)
    await setup.reconcile()
    text = setup.metrics.render().decode()
    series = 'avatar_operator_desired_replicas{namespace="acme",service="concierge"}'
    assert f"{series} 2.0" in text


async def test_conditions_that_report_a_problem_are_exported_while_they_do(setup: Setup) -> None:
    def problems() -> set[str]:
        lines = setup.metrics.render().decode().splitlines()
        return {each for each in lines if each.startswith("avatar_operator_service_problem{")}

    setup.apply(fps=7)
    await setup.reconcile()
    ours = 'namespace="acme",reason="InvalidSpec",service="concierge"'
    assert problems() == {f'avatar_operator_service_problem{{condition="Stalled",{ours}}} 1.0'}
    setup.apply(replicas=2)
    await setup.reconcile()
    assert not any("InvalidSpec" in each for each in problems())
    setup.apply(fps=7)
    await setup.reconcile()
    setup.metrics.forget_services()  # another replica leads
    assert problems() == set()
    await setup.reconcile()
    assert len(problems()) == 1
    setup.metrics.forget_service(ServiceKey("acme", "concierge"))
    assert problems() == set()


async def test_an_invalid_service_only_gets_a_status(setup: Setup) -> None:
    setup.apply(fps=7)
    assert await setup.reconcile() is None
    assert setup.fakes.executed == []
    (status,) = setup.fakes.statuses
    assert "spec.fps is 7" in str(status["conditions"])


@pytest.mark.parametrize(("watched", "pods"), [((), ["p0"]), (["acme"], ["p0"]), (["globex"], [])])
async def test_pods_of_a_deleted_service_are_finalized_in_the_watched_namespaces(
    make: Make, watched: list[str], pods: list[str]
) -> None:
    setup = Setup(make, watched)
    setup.add_pod()
    assert await setup.reconcile() is None
    assert setup.fakes.finalized == [("s1", pods)]
    assert setup.fakes.executed == []


async def test_a_service_that_is_being_deleted_is_finalized(setup: Setup) -> None:
    body = setup.make.service_body(replicas=1)
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    setup.observe(Kind.SERVICES, body)
    assert await setup.reconcile() is None
    assert setup.fakes.finalized == [("s1", [])]
    assert setup.fakes.executed == []
    assert setup.fakes.statuses == []  # it names no operator


@pytest.mark.parametrize("holder", ["system/avatar-operator", "other/avatar-operator"])
async def test_the_status_of_a_service_that_is_being_deleted_names_what_keeps_it(
    setup: Setup, holder: str
) -> None:
    body = setup.make.service_body(replicas=1)
    metadata = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.org/backup"]}
    body["metadata"].update(metadata)
    body["status"] = {"operator": holder, "state": "Serving", "readyReplicas": 1, "gpu": "l4"}
    setup.observe(Kind.SERVICES, body)
    uid = setup.add_pod()
    setup.fakes.received[uid] = setup.make.state(2)
    assert await setup.reconcile() is None
    assert setup.fakes.finalized == [("s1", ["p0"])]
    if holder != "system/avatar-operator":
        assert setup.fakes.statuses == []
        return
    (status,) = setup.fakes.statuses
    numbers = [status[name] for name in ("replicas", "readyReplicas", "sessions", "capacity")]
    assert (status["state"], numbers) == ("Terminating", [1, 0, 2, 0])
    assert "gpu" not in status
    ready = next(each for each in status["conditions"] if each["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "Terminating")
    assert ready["message"] == (
        "the service is being deleted; 1 pod left, each ends after its sessions; "
        "the finalizer example.org/backup keeps the service until its owner removes it"
    )


async def test_what_others_may_change_is_checked_once_after_a_resync(setup: Setup) -> None:
    setup.apply(replicas=0)
    await setup.reconcile()
    assert "ApplyControlSecret" in setup.kinds()
    (state,) = setup.fakes.states_of_service
    state.has_secret = True
    await setup.reconcile()
    assert "ApplyControlSecret" not in setup.kinds()
    setup.controller.on_resync()
    await setup.reconcile()
    assert "ApplyControlSecret" in setup.kinds()
    state.field_conflicts["ApplyControlSecret"] = 'conflict with "flux"'
    await setup.reconcile()
    assert "ApplyControlSecret" not in setup.kinds()
    setup.controller.on_resync()
    await setup.reconcile()
    assert "ApplyControlSecret" in setup.kinds()


async def test_a_deleted_service_is_new_when_it_is_created_again(setup: Setup) -> None:
    setup.apply(replicas=0)
    await setup.reconcile()
    await setup.reconcile()
    setup.controller.forget("s1")
    setup.controller.forget("unknown")
    await setup.reconcile()
    first, second, third = setup.fakes.states_of_service
    assert first is second
    assert third is not first


NO_CLASS = Refused(
    "POST /api/v1/namespaces/acme/pods", 403, "no PriorityClass with name ghost was found"
)


def ready_reason(setup: Setup) -> str:
    found = setup.fakes.statuses[-1]["conditions"]
    return next(str(each["reason"]) for each in found if each["type"] == "Ready")


async def refuse(setup: Setup, **spec: Any) -> None:
    """Apply a service whose pod is refused once."""
    setup.apply(replicas=1, **spec)
    setup.fakes.result = ExecutionResult(faults=[NO_CLASS])
    with pytest.raises(Refused):
        await setup.reconcile()
    setup.fakes.result = ExecutionResult()


async def test_a_refused_pod_is_not_tried_again_before_its_time(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await refuse(setup)
    assert {"ApplyControlSecret", "CreatePod"} <= set(setup.kinds())
    setup.fakes.states_of_service[-1].has_secret = True
    delay_s = await setup.reconcile()
    assert delay_s is not None
    assert 0 < delay_s <= refusals.FIRST_RETRY_S
    assert setup.kinds() == []
    assert ready_reason(setup) == "PriorityClassNotFound"
    demand: Any = setup.fakes.shares["s1"]
    assert (demand.wanted, demand.has) == (0, 0)
    assert setup.fakes.waits[-1] is False
    pass_s(monkeypatch, refusals.FIRST_RETRY_S + 0.01)
    await setup.reconcile()
    assert "CreatePod" in setup.kinds()


async def test_the_cause_of_a_refusal_is_reported_while_no_gpu_is_free(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await refuse(setup)
    stranger = setup.make.pod_body("stranger")
    stranger["metadata"]["ownerReferences"] = []
    stranger["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1000"}}
    setup.observe(Kind.PODS, stranger)
    for later_s in (0.0, refusals.LONGEST_RETRY_S + 1):
        pass_s(monkeypatch, later_s)
        await setup.reconcile()
        assert "CreatePod" not in setup.kinds()
        assert ready_reason(setup) == "PriorityClassNotFound"


async def test_a_changed_spec_is_tried_at_once(setup: Setup) -> None:
    await refuse(setup)
    changed = setup.make.service_body(replicas=1)
    changed["metadata"]["generation"] += 1
    setup.observe(Kind.SERVICES, changed)
    await setup.reconcile()
    assert "CreatePod" in setup.kinds()
