"""Builds the pod status that a kubelet writes from the states of the containers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Waiting:
    """The container does not run, with the reason."""

    reason: str
    message: str = ""

    def body(self) -> Json:
        """Return the API object."""
        text = {"message": self.message} if self.message else {}
        return {"waiting": {"reason": self.reason, **text}}


@dataclass(frozen=True, slots=True)
class Running:
    """The container has run since a time (RFC 3339)."""

    since: str

    def body(self) -> Json:
        """Return the API object."""
        return {"running": {"startedAt": self.since}}


@dataclass(frozen=True, slots=True)
class Terminated:
    """The container ended; the code is 128 + signal if a signal ended it."""

    code: int
    reason: str
    since: str
    until: str
    container_id: str
    message: str = ""

    def body(self) -> Json:
        """Return the API object."""
        text = {"message": self.message} if self.message else {}
        return {
            "terminated": {
                "exitCode": self.code,
                "reason": self.reason,
                "startedAt": self.since,
                "finishedAt": self.until,
                "containerID": self.container_id,
                **text,
            }
        }


State = Waiting | Running | Terminated


@dataclass(frozen=True, slots=True)
class Record:
    """The status of one container."""

    name: str
    image: str
    state: State
    last: Terminated | None = None
    restarts: int = 0
    started: bool = False
    ready: bool = False
    container_id: str = ""

    def with_state(self, state: State) -> Record:
        """Return the record with a new state; a terminated state becomes the last state."""
        last = self.last
        if isinstance(self.state, Terminated) and not isinstance(state, Terminated):
            last = self.state
        return replace(self, state=state, last=last, started=False, ready=False)

    def body(self) -> Json:
        """Return the API object."""
        return {
            "name": self.name,
            "image": self.image,
            "imageID": f"process://{self.image}" if self.container_id else "",
            "containerID": self.container_id,
            "restartCount": self.restarts,
            "started": self.started,
            "ready": self.ready,
            "state": self.state.body(),
            "lastState": self.last.body() if self.last else {},
        }


@dataclass(frozen=True, slots=True)
class PodFacts:
    """The data of a pod status."""

    init: tuple[Record, ...]
    main: tuple[Record, ...]
    restart_policy: str
    started_at: str
    pod_ip: str
    host_ip: str
    generation: int = 0
    gates: tuple[str, ...] = ()
    failed: tuple[str, str] | None = field(default=None)
    """Reason and message of a pod that cannot run."""


def initial(container: Mapping[str, Any], old: Json | None, reason: str) -> Record:
    """Return the record of a container before its first run.

    `old` is its status from before a restart of the node. The processes ended with the node, so the
    next run counts as a restart.
    """
    known = old or {}
    ran_before = bool(known.get("containerID"))
    return Record(
        name=container["name"],
        image=container["image"],
        state=Waiting(reason),
        restarts=known.get("restartCount", 0) + (1 if ran_before else 0),
    )


def phase(facts: PodFacts) -> str:
    """Return the phase of the pod by the rules of the kubelet (pkg/kubelet, getPhase)."""
    if facts.failed:
        return "Failed"
    if any(_ended_badly(record) for record in facts.init) and facts.restart_policy == "Never":
        return "Failed"
    if not all(_ended_well(record) for record in facts.init):
        return "Pending"
    states = [record.state for record in facts.main]
    if all(isinstance(state, Terminated) for state in states):
        codes = [state.code for state in states if isinstance(state, Terminated)]
        if facts.restart_policy == "Always":
            return "Running"
        if not any(codes):
            return "Succeeded"
        return "Failed" if facts.restart_policy == "Never" else "Running"
    if any(isinstance(r.state, Waiting) and not r.last and not r.container_id for r in facts.main):
        return "Pending"
    return "Running"


def _ended_well(record: Record) -> bool:
    return isinstance(record.state, Terminated) and record.state.code == 0


def _ended_badly(record: Record) -> bool:
    return isinstance(record.state, Terminated) and record.state.code != 0


def pod_status(facts: PodFacts, previous: Mapping[str, Any], now: str) -> Json:
    """Return the status body; the transition time of a condition changes only with its status."""
    before = {item["type"]: item for item in previous.get("conditions") or ()}
    status: Json = {
        "phase": phase(facts),
        "conditions": [
            _condition(before.get(name), name, wrong, now)
            for name, wrong in _conditions(facts, before)
        ],
        "hostIP": facts.host_ip,
        "hostIPs": [{"ip": facts.host_ip}],
        "podIP": facts.pod_ip,
        "podIPs": [{"ip": facts.pod_ip}],
        "startTime": facts.started_at,
        "containerStatuses": [record.body() for record in facts.main],
    }
    if facts.generation:
        status["observedGeneration"] = facts.generation
    if facts.init:
        status["initContainerStatuses"] = [record.body() for record in facts.init]
    if facts.failed:
        status["reason"], status["message"] = facts.failed
    return status


Wrong = tuple[str, str] | None  # reason and message of a false condition


def _conditions(
    facts: PodFacts, before: Mapping[str, Mapping[str, Any]]
) -> Sequence[tuple[str, Wrong]]:
    unready = [record.name for record in facts.main if not record.ready]
    incomplete = [record.name for record in facts.init if not _ended_well(record)]
    over = phase(facts) in ("Succeeded", "Failed")
    containers: Wrong = None
    if over:
        done = phase(facts) == "Succeeded"
        containers = ("PodCompleted", "") if done else ("PodFailed", "")
    elif unready:
        names = " ".join(unready)
        containers = ("ContainersNotReady", f"containers with unready status: [{names}]")
    closed = [gate for gate in facts.gates if before.get(gate, {}).get("status") != "True"]
    ready = containers
    if not ready and closed:
        ready = ("ReadinessGatesNotReady", f"readiness gates not met: {closed}")
    initialized: Wrong = None
    if incomplete and not over:
        names = " ".join(incomplete)
        initialized = (
            "ContainersNotInitialized",
            f"containers with incomplete status: [{names}]",
        )
    return (
        ("PodReadyToStartContainers", None),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", None),
    )


def _condition(old: Mapping[str, Any] | None, name: str, wrong: Wrong, now: str) -> Json:
    status = "False" if wrong else "True"
    same = old is not None and old.get("status") == status
    condition: Json = {
        "type": name,
        "status": status,
        "lastTransitionTime": old["lastTransitionTime"] if same and old else now,
        "lastProbeTime": None,
    }
    # A strategic merge patch keeps omitted fields: null removes an old reason.
    condition["reason"], condition["message"] = wrong or (None, None)
    return condition
