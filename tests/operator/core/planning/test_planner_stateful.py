"""Plays a cluster against the planner: whatever happens in whatever order, no session ends."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.operator.conftest import Make

from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.planning import planner, rollout
from avatar_operator.core.planning.disruption import ProtectPod, ReleasePod
from avatar_operator.core.planning.planner import CreatePod, DeletePod, DrainPod, UndrainPod
from avatar_operator.core.resources.pod import PodUse, RuntimePod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from avatar_operator.core.resources.service import Service
    from avatar_operator.core.resources.state import PodState

GPUS = 5
NODES = ("n0", "n1")
CAPACITY = 2


@dataclasses.dataclass
class Running:
    """A pod as it really is; the planner hears of it with a delay."""

    pod: RuntimePod
    sessions: int = 0
    draining: bool = False
    received: PodState | None = None
    age_s: float = 0.0


class Cluster(RuleBasedStateMachine):
    """The true cluster; `pods` is what runs, `heard` what the planner knows of it."""

    @initialize(replicas=st.integers(0, 3))
    def begin(self, replicas: int) -> None:
        self.make = Make()
        self.version = 0
        self.replicas = replicas
        self.now = 10_000.0
        self.pods: dict[str, Running] = {}
        self.cordoned: set[str] = set()
        self.made = 0
        self.ended = 0  # sessions that the operator ended

    @property
    def service(self) -> Service:
        return self.make.service(
            replicas=self.replicas, avatars=[f"v{self.version}"] if self.version else []
        )

    def observed(self) -> planner.Observed:
        nodes = [self.make.node(name, gpus=GPUS if name == "n0" else 2) for name in NODES]
        return planner.Observed(
            nodes=tuple(
                dataclasses.replace(node, unschedulable=node.name in self.cordoned)
                for node in nodes
            ),
            uses=tuple(PodUse(p.pod.node, 1, "rtx-4090") for p in self.pods.values()),
            profiles=(self.make.profile(),),
            pods=tuple(p.pod for p in self.pods.values()),
            states={
                uid: dataclasses.replace(p.received, age_s=p.age_s)
                for uid, p in self.pods.items()
                if p.received is not None
            },
            has_control_secret=True,
        )

    def plan(self) -> planner.Plan:
        return planner.plan(self.service, self.observed(), planner.Options("image"), self.now)

    def act(self, plan: planner.Plan) -> None:
        for action in plan.actions:
            match action:
                case CreatePod():
                    self.create(action)
                case DrainPod(uid=uid) | UndrainPod(uid=uid):
                    running = self.pods[uid]
                    running.draining = isinstance(action, DrainPod)
                    if running.received is not None and not running.draining:
                        # As the shell does: it is not believed to be drained any more.
                        running.received = dataclasses.replace(running.received, draining=False)
                case ProtectPod(uid=uid) | ReleasePod(uid=uid):
                    live = isinstance(action, ProtectPod)
                    pod = self.pods[uid].pod
                    self.pods[uid].pod = dataclasses.replace(pod, live=live, shielded=live)
                case DeletePod(uid=uid):
                    gone = self.pods.pop(uid)
                    self.ended += gone.sessions

    def create(self, action: CreatePod) -> None:
        taken = [p.pod.node for p in self.pods.values()]
        room = {name: GPUS if name == "n0" else 2 for name in NODES if name not in self.cordoned}
        node = next(name for name in room if taken.count(name) < room[name])
        self.made += 1
        pod = self.make.pod(
            action.name,
            uid=f"u{self.made}",
            spec_hash=hash_spec(self.service, "image"),
            node=node,
            ready=False,
            running=False,
            created_at=self.now,
        )
        self.pods[pod.uid] = Running(pod)

    def of(self, index: int) -> Iterator[Running]:
        found = list(self.pods.values())
        if found:
            yield found[index % len(found)]

    def hear(self, running: Running) -> None:
        if running.pod.running:
            empty_s = 9.0 if not running.sessions else 0.0
            running.received = self.make.state(
                running.sessions, draining=running.draining, empty_s=empty_s
            )
            running.age_s = 0.1

    @rule()
    def reconcile(self) -> None:
        plan = self.plan()
        before = dict(self.pods)
        serving = [
            p
            for p in plan.fleet.live
            if p.ready and not before[p.uid].draining  # what truly takes sessions
        ]
        creates = sum(isinstance(action, CreatePod) for action in plan.actions)
        most = plan.desired + rollout.surge(plan.desired)
        starting = sum(not p.ready for p in plan.fleet.current)
        if creates and plan.fleet.outdated:
            received = sum(p.ready and not self.says_draining(p.uid) for p in plan.fleet.live)
            assert received + starting + creates <= max(most, len(serving))
        for node in NODES:
            used = sum(p.pod.node == node for p in before.values())
            assert used <= (GPUS if node == "n0" else 2)
        for action in plan.actions:
            if isinstance(action, DeletePod) and before[action.uid].pod.running:
                state = before[action.uid]
                assert state.received is not None
                assert (state.received.sessions, state.received.draining) == (0, True)
                assert state.age_s < planner.FRESH_S
        self.act(plan)

    def says_draining(self, uid: str) -> bool:
        received = self.pods[uid].received
        return received is not None and received.draining

    @rule(index=st.integers(0, 9))
    def a_pod_becomes_ready(self, index: int) -> None:
        for running in self.of(index):
            running.pod = dataclasses.replace(running.pod, running=True, ready=True)

    @rule(index=st.integers(0, 9), sessions=st.integers(0, CAPACITY))
    def sessions_come_and_go(self, index: int, sessions: int) -> None:
        for running in self.of(index):
            if running.pod.ready and (not running.draining or sessions < running.sessions):
                running.sessions = sessions

    @rule(index=st.integers(0, 9))
    def a_pod_tells_its_state(self, index: int) -> None:
        for running in self.of(index):
            self.hear(running)

    @rule(seconds=st.sampled_from([0.5, 2.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for running in self.pods.values():
            running.age_s += seconds

    @rule(version=st.integers(0, 2), replicas=st.integers(0, 3))
    def the_spec_changes(self, version: int, replicas: int) -> None:
        self.version, self.replicas = version, replicas

    @rule(index=st.integers(0, 9))
    def someone_asks_for_a_drain(self, index: int) -> None:
        for running in self.of(index):
            running.pod = dataclasses.replace(running.pod, drain_asked=True)

    @rule()
    def a_node_is_cordoned(self) -> None:
        self.cordoned = {"n1"}

    @precondition(lambda self: self.cordoned)
    @rule()
    def a_node_is_open_again(self) -> None:
        self.cordoned = set()

    @invariant()
    def no_session_was_ended(self) -> None:
        assert getattr(self, "ended", 0) == 0

    def teardown(self) -> None:
        """Let everything settle: the pods are as the spec asks, and nothing is left to do."""
        if not hasattr(self, "pods"):
            return
        for _ in range(40):
            self.now += 1.0
            for running in self.pods.values():
                running.pod = dataclasses.replace(running.pod, running=True, ready=True)
                running.sessions = 0
                self.hear(running)
            plan = self.plan()
            if not plan.actions:
                break
            self.act(plan)
        assert self.plan().actions == ()
        wanted = hash_spec(self.service, "image")
        assert [p.pod.spec_hash for p in self.pods.values()] == [wanted] * self.replicas
        assert not any(p.pod.live or p.draining for p in self.pods.values())
        assert self.ended == 0


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=60, stateful_step_count=40)
