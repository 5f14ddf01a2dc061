"""Writes the status of a service and its Events after a reconcile."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from avatar_operator.controllers import executor
from avatar_operator.core import claims
from avatar_operator.core.autoscaling import start_times
from avatar_operator.core.manifests import ownership
from avatar_operator.core.status import conditions, refusals, service_status
from avatar_operator.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_operator.controllers.executor import Executor
    from avatar_operator.controllers.reconcile import Reconcile
    from avatar_operator.controllers.service_state import ExecutionResult, ServiceState
    from avatar_operator.core.autoscaling.start_times import PodStart
    from avatar_operator.core.cache.entries import ServiceBody
    from avatar_operator.core.cache.store import Store
    from avatar_operator.core.planning import planner
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.status.upstream_allowed import Egress
    from avatar_operator.errors import InvalidResource
    from avatar_operator.metrics import Metrics
    from avatar_operator.streams.runtimes import RuntimeStates


class ServiceReports:
    """Writes each status at most once a reconcile, and only if it changed."""

    def __init__(
        self,
        store: Store,
        runtimes: RuntimeStates,
        executor: Executor,
        metrics: Metrics,
        egress: Egress | None,
        installation: str,
    ) -> None:
        """`installation` is the name of this operator in the status of services."""
        self._store = store
        self._runtimes = runtimes
        self._executor = executor
        self._metrics = metrics
        self._egress = egress
        self._installation = installation

    async def write(
        self,
        reconcile: Reconcile,
        plan: planner.Plan,
        observed: planner.Observed,
        result: ExecutionResult,
        started: Sequence[PodStart] = (),
    ) -> float | None:
        """Write the status and the Events; return how long a status is held back, if it is.

        `started` are the pods that have started since the last reconcile.
        """
        service, state = reconcile.service, reconcile.state
        last_status, now = reconcile.last_status, reconcile.now
        failures = failures_of(result)
        refusal = reconcile.refusal
        if refusal is not None and (plan.new_pods or plan.missing):
            withheld = reconcile.retry_s(asyncio.get_running_loop().time()) > 0
            failures = refusals.merged((*failures, *refusal.reported(withheld=withheld)))
        conflicts = sorted(state.field_conflicts.values())
        taken = ownership.describe_taken(state.names_taken)
        findings = conditions.find(
            *(service, plan, observed.states, failures, conflicts, taken),
            egress=self._egress,
        )
        self._metrics.set_problems(service.key, findings)
        status = service_status.build(service, plan, observed.states, findings, last_status, now)
        status["operator"] = self._installation
        if state.starts is not None and (starts := start_times.to_status(state.starts)):
            status["starts"] = starts
        loop_now = asyncio.get_running_loop().time()
        delay_s = executor.status_delay_s(state, last_status, status, loop_now)
        if delay_s is None:
            await self._executor.write_status(
                *(reconcile.uid, service.key, reconcile.version, last_status, status, state)
            )
            notices = service_status.notices(result.done, findings, last_status, plan)
            self._metrics.count_decision(plan.desired, last_status.get("desiredReplicas"))
        else:  # what was done is reported now, the findings with the status
            notices = service_status.notices(result.done, (), last_status)
        notices += service_status.start_notices(started)
        notices += service_status.name_notices(taken, sorted(state.pods_taken))
        await self._executor.emit_events(service, notices, state, now)
        return delay_s

    async def write_invalid(
        self,
        uid: str,
        version: int,
        body: ServiceBody,
        error: InvalidResource,
        state: ServiceState,
        now: float,
    ) -> None:
        """Write what is wrong with the spec of a service; the other fields keep their values."""
        findings = conditions.invalid("; ".join(map(str, error.faults)))
        self._metrics.set_problems(body.key, findings)
        last_status = body.status
        status = service_status.build_invalid(body.generation, findings, last_status, now)
        await self._executor.write_status(uid, body.key, version, last_status, status, state)

    async def write_terminating(
        self, uid: str, body: ServiceBody, pods: Sequence[RuntimePod], state: ServiceState
    ) -> None:
        """Write why the service still exists; its finalizers may keep it for long."""
        version = self._store.services.version(uid)
        if version is None or claims.read_claim(body.status) != self._installation:
            return  # it is gone, or another operator may write its status
        states = self._runtimes.states(pod.uid for pod in pods)
        sessions = sum(state.sessions for state in states.values())
        last_status, finalizers = body.status, body.finalizers
        status = service_status.build_terminating(
            body.generation, len(pods), sessions, finalizers, last_status, time.time()
        )
        await self._executor.write_status(uid, body.key, version, last_status, status, state)


def failures_of(result: ExecutionResult) -> tuple[refusals.FailedAction, ...]:
    """Return the actions that failed at the API server."""
    errors = (fault for fault in result.faults if isinstance(fault, ClusterError))
    return refusals.merged(map(refusals.explain, errors))
