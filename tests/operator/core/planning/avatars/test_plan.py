"""The plans of avatars: each state, and what must hold in every sequence of events."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_operator.core.planning.avatars.gpu_choice import Choice, Wait
from avatar_operator.core.planning.avatars.plan import (
    BACK_OFF_S,
    RECHECK_S,
    RESULT_S,
    CreateJob,
    DeleteJob,
    Phase,
    SetFinalizer,
    is_allowed,
    plan_deletion,
)
from avatar_operator.core.resources.preparation import PreparationPod, Report, Result
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make
    from tests.operator.core.planning.avatars.conftest import Studio

SHA = "0" * 64
LOST = Result(ok=False, message="killed")
REFUSED = Result(
    ok=False,
    message="no face in frames 1-9",
    permanent=True,
    report=Report("refused", "no face", 9, 9),
)


def test_a_new_avatar_gets_its_finalizer_before_its_first_job(studio: Studio) -> None:
    studio.has_finalizer = False
    found = studio.plan()
    assert [type(action) for action in found.actions] == [SetFinalizer, CreateJob]
    assert (found.phase, found.stalled) == (Phase.SCHEDULING, False)


def test_a_job_is_not_created_while_no_gpu_may_be_used(studio: Studio) -> None:
    studio.choice = Wait(Reason.WAITING_FOR_GPU, "rtx-4090: 0 of 2 GPUs are free")
    found = studio.plan()
    assert (found.phase, found.reason) == (Phase.WAITING, Reason.WAITING_FOR_GPU)
    assert (found.actions, found.wake_after_s) == ((), RECHECK_S)


def test_a_job_waits_for_a_node_and_runs(studio: Studio) -> None:
    studio.add_job()
    assert studio.plan().phase is Phase.SCHEDULING
    message = 'not scheduled: persistentvolumeclaim "films" not found'
    pod = PreparationPod("p", "uid-0", "", True, False, message, None, None)
    studio.jobs[0] = replace(studio.jobs[0], pods=(pod,))
    found = studio.plan()
    assert (found.phase, found.actions) == (Phase.SCHEDULING, ())
    assert message in found.message
    running = replace(pod, node="n1", rejected=False, running=True, trouble="")
    studio.jobs[0] = replace(studio.jobs[0], pods=(running,))
    assert studio.plan().phase is Phase.RUNNING


def test_a_job_without_a_pod_refers_to_its_events(studio: Studio) -> None:
    studio.add_job(created_at=studio.now - RESULT_S - 1)
    assert "its Events say why" in studio.plan().message


def test_a_result_makes_the_avatar_ready_and_the_job_goes_later(studio: Studio) -> None:
    studio.add_job()
    studio.end_job()
    found = studio.plan()
    assert (found.phase, found.reason, found.actions) == (Phase.READY, Reason.PREPARED, ())
    assert found.memory.prepared is not None
    assert found.memory.prepared.content_hash == "abc"
    assert studio.plan().wake_after_s == studio.avatar.ttl_s
    studio.now += studio.avatar.ttl_s
    assert [type(action) for action in studio.plan().actions] == [DeleteJob]
    studio.jobs.clear()
    found = studio.plan()
    assert (found.phase, found.actions, found.wake_after_s) == (Phase.READY, (), None)


def test_a_job_is_not_deleted_before_the_status_has_its_result(studio: Studio) -> None:
    studio.change(ttlSecondsAfterFinished=0)
    studio.add_job()
    studio.end_job()
    assert studio.plan().actions == ()
    assert [type(action) for action in studio.plan().actions] == [DeleteJob]


def test_the_result_of_an_ended_job_may_arrive_later(studio: Studio) -> None:
    studio.add_job()
    studio.end_job(None, succeeded=True)
    found = studio.plan()
    assert (found.phase, found.wake_after_s) == (Phase.RUNNING, RESULT_S)
    studio.now += RESULT_S
    failure = studio.plan().memory.failure
    assert failure is not None
    assert failure.message == "the result of Job anna-prepare-0 is unknown"


def test_a_failure_is_tried_again_after_a_pause_that_grows(studio: Studio) -> None:
    for attempt, pause_s in enumerate((BACK_OFF_S, 2 * BACK_OFF_S)):
        studio.add_job(attempt)
        studio.end_job(LOST)
        found = studio.plan()
        assert (found.phase, found.reason) == (Phase.WAITING, Reason.BACKING_OFF)
        assert found.wake_after_s == pause_s
        studio.now += pause_s
        (created,) = studio.plan().actions
        assert isinstance(created, CreateJob)
        assert created.attempt == attempt + 1
    studio.add_job(2)
    studio.end_job(LOST)
    found = studio.plan()
    assert (found.phase, found.reason, found.stalled) == (Phase.FAILED, Reason.JOB_FAILED, True)
    assert found.message == "killed after 3 attempts"


def test_a_refused_source_is_not_tried_again(studio: Studio) -> None:
    studio.add_job()
    studio.end_job(REFUSED)
    found = studio.plan()
    assert (found.phase, found.reason, found.stalled) == (Phase.FAILED, Reason.SOURCE_REFUSED, True)
    assert found.message == "no face in frames 1-9"
    assert found.memory.report == REFUSED.report
    studio.jobs.clear()
    assert studio.plan().phase is Phase.FAILED


def test_a_job_that_takes_too_long_says_so(studio: Studio) -> None:
    studio.add_job()
    studio.end_job(None, failure=("DeadlineExceeded", "Job was active longer"))
    studio.now += RESULT_S
    found = studio.plan()
    assert found.memory.failure is not None
    assert found.memory.failure.reason is Reason.JOB_TIMED_OUT


def test_a_job_that_someone_deletes_is_awaited(studio: Studio) -> None:
    studio.add_job(terminating=True)
    assert studio.plan().reason is Reason.WAITING_FOR_JOB


def test_a_changed_spec_waits_until_the_earlier_job_is_gone(studio: Studio) -> None:
    studio.add_job()
    studio.change(consent="Ben")
    found = studio.plan()
    assert found.reason is Reason.WAITING_FOR_JOB
    assert [type(action) for action in found.actions] == [DeleteJob]
    studio.jobs[0] = replace(studio.jobs[0], terminating=True)
    assert studio.plan().actions == ()
    studio.jobs.clear()
    assert [type(action) for action in studio.plan().actions] == [CreateJob]


def test_an_earlier_version_stays_known_while_the_next_one_is_prepared(studio: Studio) -> None:
    studio.add_job()
    studio.end_job()
    studio.plan()
    studio.change(consent="Ben")
    studio.plan()
    studio.jobs.clear()
    found = studio.plan()
    assert found.phase is Phase.SCHEDULING
    assert found.memory.prepared is not None
    assert found.memory.prepared.content_hash == "abc"


def test_a_spec_that_returns_needs_no_job_if_nothing_has_replaced_its_files(
    studio: Studio,
) -> None:
    studio.add_job()
    studio.end_job()
    studio.plan()
    first, studio.jobs = studio.avatar, []
    studio.change(consent="Ben")
    studio.add_job()
    studio.end_job(LOST)
    studio.plan()
    studio.avatar = first
    studio.plan()
    studio.jobs.clear()
    assert studio.plan().phase is Phase.READY


def test_a_spec_that_returns_is_prepared_again_if_a_job_may_have_replaced_its_files(
    studio: Studio,
) -> None:
    studio.add_job()
    studio.end_job()
    studio.plan()
    first, studio.jobs = studio.avatar, []
    studio.change(consent="Ben")
    studio.add_job()  # it runs, and may finish while it is deleted
    studio.avatar = first
    assert studio.plan().memory.prepared is not None
    studio.jobs.clear()
    assert [type(action) for action in studio.plan().actions] == [CreateJob]


def test_a_url_of_an_unknown_host_creates_no_job(studio: Studio) -> None:
    studio.change(source={"url": {"url": "https://a.example/b.mp4", "sha256": SHA}})
    found = studio.plan(choose=lambda: pytest.fail("no Job may be created"))
    assert (found.reason, found.stalled) == (Reason.HOST_NOT_ALLOWED, True)
    assert "host a.example of spec.source.url" in found.message
    studio.hosts = ("*.example",)
    assert [type(action) for action in studio.plan().actions] == [CreateJob]


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("a.example", True),
        ("b.a.example", False),
        ("x.media.example", True),
        ("media.example", False),
        ("xmedia.example", False),
        ("", False),
    ],
)
def test_a_pattern_allows_the_hosts_below_it(host: str, allowed: bool) -> None:
    assert is_allowed(host, ("a.example", "*.media.example")) is allowed


def test_a_deletion_waits_for_the_services_that_name_the_avatar(studio: Studio) -> None:
    studio.services = ("desk", "show")
    found = plan_deletion(studio.observed(), studio.memory)
    assert (found.phase, found.reason, found.actions) == (
        Phase.DELETING,
        Reason.DELETION_WAITS,
        (),
    )
    assert found.message.endswith("desk and show")
    studio.services = ()
    found = plan_deletion(studio.observed(), studio.memory)
    assert found.actions == (SetFinalizer(present=False),)
    studio.has_finalizer = False
    assert plan_deletion(studio.observed(), studio.memory).actions == ()


EVENTS = ("ok", "lost", "refused", "lost-result", "change", "revert", "wait", "gone", "run")


@settings(max_examples=200)
@given(events=st.lists(st.sampled_from(EVENTS), max_size=20), retries=st.integers(0, 3))
def test_no_sequence_runs_two_jobs_or_more_than_its_attempts(
    make: Make, events: list[str], retries: int
) -> None:
    from tests.operator.core.planning.avatars.conftest import Studio

    studio = Studio(make)
    versions = {"change": "Ben", "revert": "Anna"}
    consent, created = "Anna", 0
    studio.change(consent=consent, retries=retries)
    for event in events:
        active = [job for job in studio.jobs if job.ended_at is None]
        if event in versions:
            consent = versions[event]
            studio.change(consent=consent, retries=retries)
            created = 0
        elif event == "wait":
            studio.now += 700
        elif event == "gone":
            studio.jobs = [job for job in studio.jobs if not job.terminating]
        elif active and studio.jobs[-1].ended_at is None and event != "run":
            results = {"ok": None, "lost": LOST, "refused": REFUSED}
            if event == "ok":
                studio.end_job()
            else:
                studio.end_job(results.get(event), succeeded=False)
        found = studio.plan()
        for action in found.actions:
            if isinstance(action, CreateJob):
                assert all(job.ended_at is not None for job in studio.jobs)
                assert all(job.spec_hash == studio.avatar.spec_hash for job in studio.jobs)
                created += 1
                assert action.attempt <= retries
                assert isinstance(studio.choice, Choice)
                studio.add_job(action.attempt, name=action.name, created_at=studio.now)
            elif isinstance(action, DeleteJob):
                index = next(i for i, job in enumerate(studio.jobs) if job.uid == action.uid)
                studio.jobs[index] = replace(studio.jobs[index], terminating=True)
        assert sum(job.ended_at is None for job in studio.jobs if not job.terminating) <= 1
        assert found.stalled == (found.phase is Phase.FAILED)
        if found.phase is Phase.READY:
            assert found.memory.prepared is not None
            assert found.memory.prepared.spec_hash == studio.avatar.spec_hash


def test_jobs_and_pods_of_a_deleted_avatar_of_this_name_are_gone_first(studio: Studio) -> None:
    """They write the same folder."""
    job = studio.add_job(avatar_uid="deleted")
    studio.jobs.clear()
    studio.namesakes = (job,)
    found = studio.plan()
    assert found.actions == (DeleteJob(job.name, job.uid, "it is of an earlier spec"),)
    assert (found.reason, found.wake_after_s) == (Reason.WAITING_FOR_JOB, RECHECK_S)
    studio.namesakes, studio.orphans = (), 1
    found = studio.plan()
    assert (found.actions, found.reason) == ((), Reason.WAITING_FOR_JOB)
    assert found.message == "waiting until Jobs of earlier specs are gone: 1 pod"
    studio.orphans = 0
    assert isinstance(studio.plan().actions[0], CreateJob)


def test_a_job_beyond_the_limit_gives_way_and_is_no_failed_attempt(studio: Studio) -> None:
    job = studio.add_job()
    studio.surplus = frozenset({job.uid})
    found = studio.plan()
    (action,) = found.actions
    assert isinstance(action, DeleteJob)
    assert action.uid == job.uid
    assert (found.phase, found.reason) == (Phase.WAITING, Reason.WAITING_FOR_PREPARATIONS)
    studio.jobs.clear()
    studio.surplus = frozenset()
    (action,) = studio.plan().actions
    assert isinstance(action, CreateJob)
    assert action.attempt == 0
