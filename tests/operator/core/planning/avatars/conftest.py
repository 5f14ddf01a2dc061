"""Values for the tests of the plans of avatars."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.gpus.inventory import ClassStock
from avatar_operator.core.planning.avatars.gpu_choice import Choice
from avatar_operator.core.planning.avatars.memory import Memory
from avatar_operator.core.planning.avatars.plan import Observed, Plan, plan
from avatar_operator.core.resources.preparation import PreparationJob, PreparationPod, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.operator.conftest import Make

    from avatar_operator.core.planning.avatars.gpu_choice import Wait

NOW = 1_800_000_000.0
STOCK = ClassStock("rtx-4090", 24_000, 2, 2, ((("nvidia.com/gpu.product", "4090"),),))
OK = Result(ok=True, frames=50, width=640, height=480, content_hash="abc")


class Studio:
    """One avatar with its Jobs; `plan` returns its next step."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.avatar = make.avatar()
        self.jobs: list[PreparationJob] = []
        self.memory = Memory()
        self.services: tuple[str, ...] = ()
        self.has_finalizer = True
        self.namesakes: tuple[PreparationJob, ...] = ()
        self.orphans = 0
        self.surplus: frozenset[str] = frozenset()
        self.choice: Choice | Wait = Choice(STOCK)
        self.hosts: tuple[str, ...] = ()
        self.now = NOW

    def change(self, **spec: Any) -> None:
        self.avatar = self.make.avatar(**spec)

    def add_job(self, attempt: int = 0, **changes: Any) -> PreparationJob:
        job = PreparationJob(
            name=f"anna-prepare-{attempt}",
            namespace="acme",
            uid=f"uid-{len(self.jobs)}",
            avatar="anna",
            avatar_uid="a1",
            spec_hash=self.avatar.spec_hash,
            attempt=attempt,
            gpu_class="rtx-4090",
            created_at=NOW - 60,
            ended_at=None,
            succeeded=False,
        )
        self.jobs.append(replace(job, **changes))
        return self.jobs[-1]

    def end_job(self, result: Result | None = OK, **changes: Any) -> None:
        job = self.jobs[-1]
        ended = PreparationPod(f"pod-{job.uid}", job.uid, "n1", False, True, "", self.now, result)
        pods = () if result is None else (ended,)
        succeeded = result is not None and result.ok
        values = {"ended_at": self.now, "succeeded": succeeded, "pods": pods}
        self.jobs[-1] = replace(job, **(values | changes))

    def observed(self) -> Observed:
        return Observed(
            tuple(self.jobs),
            self.services,
            self.has_finalizer,
            self.namesakes,
            self.orphans,
            self.surplus,
        )

    def plan(self, choose: Callable[[], Choice | Wait] | None = None) -> Plan:
        """Plan once, and remember what the status would say."""
        chosen = choose or (lambda: self.choice)
        found = plan(self.avatar, self.observed(), self.memory, chosen, self.hosts, self.now)
        self.memory = found.memory
        return found


@pytest.fixture
def studio(make: Make) -> Studio:
    return Studio(make)
