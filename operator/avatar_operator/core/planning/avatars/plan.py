"""Plans the next step of an avatar: which Job to create or delete, and what its status says.

The states follow from what is observed, in this order:

1. An avatar that is being deleted keeps its finalizer while AvatarServices name it
   (`plan_deletion`).
2. Jobs of an earlier spec, and of a deleted Avatar with the same name, are deleted. Two Jobs never
   write the same folder: the next Job is created after the others and their pods are gone.
3. The latest Job of this spec decides: it waits for a node, runs, has succeeded or has failed.
4. Without such a Job, the status may say that this spec was prepared, or has failed for good.
5. Otherwise a Job is created, after a pause if another one failed, when a GPU may be used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from avatar_contracts.backoff import doubled
from avatar_operator import names
from avatar_operator.core import text
from avatar_operator.core.planning.avatars import gpu_choice
from avatar_operator.core.planning.avatars.memory import Failure, Memory, Prepared
from avatar_operator.core.resources.avatar import UrlSource
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from avatar_operator.core.gpus.inventory import ClassStock
    from avatar_operator.core.resources.avatar import Avatar
    from avatar_operator.core.resources.preparation import PreparationJob, PreparationPod, Result

BACK_OFF_S: Final = 10.0
"""Pause after the first failure; each further one doubles it."""
LONGEST_BACK_OFF_S: Final = 600.0
RESULT_S: Final = 10.0
"""How long the result of an ended Job may take to arrive: its pod is another watch."""
RECHECK_S: Final = 5.0
"""Between two checks whether a GPU may be used: demands of services change without an event."""


class Phase(Enum):
    """The state of an avatar in one word, for people."""

    WAITING = "Waiting"
    SCHEDULING = "Scheduling"
    RUNNING = "Running"
    READY = "Ready"
    FAILED = "Failed"
    DELETING = "Deleting"


@dataclass(frozen=True, slots=True)
class CreateJob:
    """Create the Job of an attempt."""

    name: str
    attempt: int
    stock: ClassStock | None
    """Its GPU class; None: on CPUs."""


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Delete a Job with its pods."""

    name: str
    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class SetFinalizer:
    """Add or remove the finalizer that keeps the avatar while services name it."""

    present: bool


Action = CreateJob | DeleteJob | SetFinalizer


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that a plan depends on besides the avatar itself."""

    jobs: tuple[PreparationJob, ...]
    """Jobs that the avatar controls, with their pods."""
    services: tuple[str, ...]
    """Names of the AvatarServices of the namespace that name the avatar."""
    has_finalizer: bool
    namesakes: tuple[PreparationJob, ...] = ()
    """Jobs of a deleted Avatar with the same name, which write the same folder."""
    orphans: int = 0
    """Pods of such Jobs, or of earlier ones, that have not ended although their Job is gone."""
    surplus: frozenset[str] = frozenset()
    """UIDs of the Jobs that run beyond the limit of their class."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions to take now, and what the status says."""

    phase: Phase
    reason: Reason
    message: str
    memory: Memory
    services: tuple[str, ...]
    actions: tuple[Action, ...] = ()
    stalled: bool = False
    """Whether waiting does not help."""
    wake_after_s: float | None = None
    """Plan again after this many seconds, even without an event."""


def plan(
    avatar: Avatar,
    observed: Observed,
    memory: Memory,
    choose: Callable[[], gpu_choice.Choice | gpu_choice.Wait],
    hosts: Collection[str],
    now: float,
) -> Plan:
    """Return the next step of an avatar.

    `choose` is called only if a Job could be created. `hosts` are those that URLs may name. `now`
    is in seconds since 1970.
    """
    spec_hash, stored = avatar.spec_hash, memory
    earlier = [job for job in observed.jobs if job.spec_hash != spec_hash]
    memory = _learn_earlier(avatar, earlier, memory)
    current = [job for job in observed.jobs if job.spec_hash == spec_hash]
    latest = max(current, key=lambda job: job.attempt, default=None)
    if earlier or observed.namesakes or observed.orphans:
        found = _wait_for_earlier((*earlier, *observed.namesakes), observed.orphans, memory)
    elif latest is not None and latest.uid in observed.surplus and not latest.terminating:
        found = _give_way(latest, memory)
    elif latest is not None and (pending := _follow(latest, memory, now)) is not None:
        found = pending
    else:
        if latest is not None:
            memory = _learn(avatar, latest, memory)
        found = _decide(avatar, memory, choose, hosts, now)
    found = replace(found, services=observed.services)
    if not observed.has_finalizer:
        found = replace(found, actions=(SetFinalizer(present=True), *found.actions))
    return _with_cleanup(found, avatar, current, stored, now)


def plan_deletion(observed: Observed, memory: Memory) -> Plan:
    """Return the next step of an avatar that is being deleted, whatever its spec is."""
    if not observed.services:
        actions = (SetFinalizer(present=False),) if observed.has_finalizer else ()
        message = "no AvatarService names the avatar; its files stay on the volume"
        return Plan(Phase.DELETING, Reason.NOT_NAMED, message, memory, (), actions)
    message = f"the deletion waits until no AvatarService names the avatar: {_named(observed)}"
    services = observed.services
    return Plan(Phase.DELETING, Reason.DELETION_WAITS, message, memory, services)


def _named(observed: Observed) -> str:
    *first, last = observed.services
    return f"{', '.join(first)} and {last}" if first else last


def _wait_for_earlier(earlier: Sequence[PreparationJob], orphans: int, memory: Memory) -> Plan:
    actions = tuple(
        DeleteJob(job.name, job.uid, "it is of an earlier spec")
        for job in earlier
        if not job.terminating
    )
    listed = ", ".join(job.name for job in earlier) or text.count(orphans, "pod")
    message = f"waiting until Jobs of earlier specs are gone: {listed}"
    reason = Reason.WAITING_FOR_JOB
    # Changes of Jobs and pods of a deleted Avatar wake nobody.
    return Plan(Phase.WAITING, reason, message, memory, (), actions, wake_after_s=RECHECK_S)


def _give_way(job: PreparationJob, memory: Memory) -> Plan:
    """Return the plan for a Job that got its node when the limit of its class was reached."""
    where = job.gpu_class or "CPUs"
    message = f"{where}: other preparations got nodes before Job {job.name}, the limit is reached"
    action = DeleteJob(job.name, job.uid, "others run, and the limit of its class is reached")
    return Plan(Phase.WAITING, Reason.WAITING_FOR_PREPARATIONS, message, memory, (), (action,))


def _learn_earlier(avatar: Avatar, earlier: Sequence[PreparationJob], memory: Memory) -> Memory:
    """Return the memory with what Jobs of earlier specs have done to the folder."""
    for job in sorted(earlier, key=lambda job: job.created_at):
        if job.ended_at is not None and not job.succeeded:
            continue  # it wrote nothing: the folder is replaced at the end
        if memory.job == job.name and job.succeeded:
            continue  # its result is known
        if job.succeeded and _ended_pod(job) is not None:
            memory = _learn(avatar, job, memory)
        elif memory.prepared is not None:
            memory = replace(memory, prepared=replace(memory.prepared, spec_hash=""))
    return memory


def _follow(job: PreparationJob, memory: Memory, now: float) -> Plan | None:
    """Return the plan while a Job is not finished or its result is unknown, else None."""
    memory = replace(memory, job=job.name, gpu_class=job.gpu_class or "cpu")
    where = f"on {job.gpu_class}" if job.gpu_class else "on CPUs"
    if job.terminating:
        message = f"waiting until Job {job.name} is gone"
        return Plan(Phase.WAITING, Reason.WAITING_FOR_JOB, message, memory, ())
    if job.ended_at is None:
        pod = job.pods[-1] if job.pods else None
        if pod is not None and pod.running:
            message = f"Job {job.name} prepares the avatar {where}"
            return Plan(Phase.RUNNING, Reason.JOB_RUNNING, message, memory, ())
        message = f"Job {job.name} starts {where}"
        if pod is not None and pod.trouble:
            message += f"; {pod.trouble}"
        elif pod is None and now - job.created_at > RESULT_S:
            message += "; it has no pod yet, its Events say why"
        return Plan(Phase.SCHEDULING, Reason.JOB_SCHEDULING, message, memory, ())
    left_s = job.ended_at + RESULT_S - now
    if _ended_pod(job) is None and not _is_known(job, memory) and left_s > 0:
        message = f"Job {job.name} has ended, waiting for its result"
        return Plan(Phase.RUNNING, Reason.JOB_RUNNING, message, memory, (), wake_after_s=left_s)
    return None


def _is_known(job: PreparationJob, memory: Memory) -> bool:
    """Return whether the memory includes the result of an ended Job."""
    if job.succeeded:
        prepared = memory.prepared
        return (
            prepared is not None and prepared.spec_hash == job.spec_hash and memory.job == job.name
        )
    failure = memory.failure
    known = failure is not None and failure.spec_hash == job.spec_hash
    return known and failure is not None and failure.attempts > job.attempt


def _ended_pod(job: PreparationJob) -> PreparationPod | None:
    return next((pod for pod in job.pods if pod.ended_at is not None), None)


def _learn(avatar: Avatar, job: PreparationJob, memory: Memory) -> Memory:
    """Return the memory with the result of an ended Job."""
    if _is_known(job, memory):
        return memory
    memory = replace(memory, job=job.name, gpu_class=job.gpu_class or "cpu")
    pod = _ended_pod(job)
    result = None if pod is None else pod.result
    if result is not None and result.report is not None:
        memory = replace(memory, report=result.report)
    if job.succeeded and result is not None and result.ok:
        prepared = Prepared(
            spec_hash=job.spec_hash,
            content_hash=result.content_hash,
            frames=result.frames,
            size=f"{result.width}x{result.height}",
            path=avatar.folder,
            at=text.rfc3339(job.ended_at or 0.0),
        )
        return replace(memory, prepared=prepared, failure=None)
    return replace(memory, failure=_failure(job, result))


def _failure(job: PreparationJob, result: Result | None) -> Failure:
    reason, message = Reason.JOB_FAILED, f"the result of Job {job.name} is unknown"
    if job.failure[0] == "DeadlineExceeded":
        reason, message = Reason.JOB_TIMED_OUT, "the Job ran longer than spec.timeoutSeconds"
    elif result is not None and not result.ok:
        message = result.message
        refused = result.report is not None and result.report.verdict == "refused"
        if refused:
            reason = Reason.SOURCE_REFUSED
        elif result.permanent:
            reason = Reason.SOURCE_UNUSABLE
    elif job.failure[1]:
        message = job.failure[1]
    permanent = reason in (Reason.SOURCE_REFUSED, Reason.SOURCE_UNUSABLE)
    at = job.ended_at or 0.0
    return Failure(job.spec_hash, job.attempt + 1, at, reason, message, permanent)


def _decide(
    avatar: Avatar,
    memory: Memory,
    choose: Callable[[], gpu_choice.Choice | gpu_choice.Wait],
    hosts: Collection[str],
    now: float,
) -> Plan:
    """Return the plan while no Job of the spec is active."""
    prepared, failure = memory.prepared, memory.failure
    if prepared is not None and prepared.spec_hash == avatar.spec_hash:
        return Plan(Phase.READY, Reason.PREPARED, _described(prepared, memory), memory, ())
    if isinstance(avatar.source, UrlSource) and not is_allowed(avatar.source.host, hosts):
        message = f"host {avatar.source.host} of spec.source.url is not among the allowed hosts: "
        message += ", ".join(sorted(hosts)) or "none (preparation.urlHosts of the chart)"
        return Plan(Phase.FAILED, Reason.HOST_NOT_ALLOWED, message, memory, (), stalled=True)
    attempts = 0
    if failure is not None and failure.spec_hash == avatar.spec_hash:
        attempts = failure.attempts
        if failure.permanent or attempts > avatar.retries:
            tried = "" if failure.permanent else f" after {text.count(attempts, 'attempt')}"
            message = f"{failure.message}{tried}"
            return Plan(Phase.FAILED, failure.reason, message, memory, (), stalled=True)
        left_s = failure.at + doubled(BACK_OFF_S, LONGEST_BACK_OFF_S, attempts) - now
        if left_s > 0:
            tried = text.count(attempts, "attempt")
            message = f"{tried} failed, the next one follows after a pause; {failure.message}"
            return Plan(Phase.WAITING, Reason.BACKING_OFF, message, memory, (), wake_after_s=left_s)
    chosen = choose()
    if isinstance(chosen, gpu_choice.Wait):
        return Plan(
            Phase.WAITING, chosen.reason, chosen.message, memory, (), wake_after_s=RECHECK_S
        )
    name = names.preparation(avatar.key.name, avatar.spec_hash, attempts)
    where = f"on {chosen.stock.gpu_class}" if chosen.stock is not None else "on CPUs"
    action = CreateJob(name, attempts, chosen.stock)
    message = f"Job {name} starts {where}"
    return Plan(Phase.SCHEDULING, Reason.JOB_SCHEDULING, message, memory, (), (action,))


def is_allowed(host: str, hosts: Collection[str]) -> bool:
    """Return whether a host is on the list; `*.example.com` allows all hosts below it."""
    return any(
        host == each or (each.startswith("*.") and host.endswith(each[1:])) for each in hosts
    )


def _described(prepared: Prepared, memory: Memory) -> str:
    described = f"{text.count(prepared.frames, 'frame')}, {prepared.size}"
    report = memory.report
    return f"{described}; {report.sentence}" if report and report.sentence else described


def _with_cleanup(
    found: Plan, avatar: Avatar, jobs: Sequence[PreparationJob], stored: Memory, now: float
) -> Plan:
    """Add the deletion of ended Jobs whose results the status has and whose time is over."""
    actions, wake_s = list(found.actions), found.wake_after_s
    for job in jobs:
        known = job.ended_at is not None and _is_known(job, stored)
        if not known or job.terminating:
            continue
        left_s = (job.ended_at or 0.0) + avatar.ttl_s - now
        if left_s <= 0:
            actions.append(DeleteJob(job.name, job.uid, "it ended ttlSecondsAfterFinished ago"))
        else:
            wake_s = left_s if wake_s is None else min(wake_s, left_s)
    return replace(found, actions=tuple(actions), wake_after_s=wake_s)
