from __future__ import annotations

import pytest

from avatar_operator.core.status.refusals import (
    LONGEST_CAUSE,
    LONGEST_RETRY_S,
    FailedAction,
    Refusal,
    explain,
    merged,
    remember,
)
from avatar_operator.errors import ClusterError, Refused, TemporaryError
from avatar_operator.names import Reason

PODS = "POST /api/v1/namespaces/acme/pods"
FORBIDDEN = 'pods "p-0" is forbidden: '

CASES = {
    Reason.QUOTA_EXCEEDED: (
        FORBIDDEN + "exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0",
        "a ResourceQuota of the namespace allows no other pod: exceeded quota: none, requested: "
        "pods=1, used: pods=0, limited: pods=0",
    ),
    Reason.POD_SECURITY_VIOLATION: (
        FORBIDDEN + 'violates PodSecurity "restricted:latest": restricted volume types',
        "Pod Security Admission of the namespace refuses the pod: violates PodSecurity "
        '"restricted:latest": restricted volume types',
    ),
    Reason.PRIORITY_CLASS_NOT_FOUND: (
        FORBIDDEN + "no PriorityClass with name gold was found",
        "spec.template.priorityClassName names a class that does not exist: no PriorityClass with "
        "name gold was found",
    ),
    Reason.RUNTIME_CLASS_NOT_FOUND: (
        FORBIDDEN + 'pod rejected: RuntimeClass "nvidia" not found',
        "spec.template.runtimeClassName names a class that does not exist: "
        'RuntimeClass "nvidia" not found',
    ),
    Reason.SERVICE_ACCOUNT_NOT_FOUND: (
        FORBIDDEN + 'error looking up service account acme/bot: serviceaccount "bot" not found',
        "spec.template.serviceAccountName names an account that does not exist: "
        'serviceaccount "bot" not found',
    ),
    Reason.NAMESPACE_TERMINATING: (
        FORBIDDEN + "unable to create new content in namespace acme because it is being terminated",
        "no pod can be created in a namespace that is being deleted: namespace acme because it is "
        "being terminated",
    ),
    Reason.NOT_PERMITTED: (
        'pods is forbidden: User "x" cannot create resource "pods"',
        'the ServiceAccount of the operator lacks a permission: User "x" cannot create resource '
        '"pods"',
    ),
    Reason.POD_REFUSED: (
        FORBIDDEN + "maximum memory usage per Container is 1Gi,\n but limit is 2Gi",
        "the API server refuses the pod: maximum memory usage per Container is 1Gi, but limit is "
        "2Gi",
    ),
}


@pytest.mark.parametrize("reason", CASES, ids=lambda reason: reason.value)
def test_each_cause_has_its_reason_and_one_sentence(reason: Reason) -> None:
    message, sentence = CASES[reason]
    waits = reason is Reason.QUOTA_EXCEEDED
    assert explain(Refused(PODS, 403, message)) == FailedAction(reason, sentence, True, not waits)


def test_a_request_that_may_succeed_later_keeps_its_own_words() -> None:
    fault = TemporaryError(PODS, 500, "exceeded quota: no")
    assert explain(fault) == FailedAction(Reason.APPLY_FAILED, str(fault), of_pod=True)


def test_a_refusal_of_another_object_keeps_its_own_words() -> None:
    fault: ClusterError = Refused("PATCH /api/v1/namespaces/a/secrets/b", 403, "exceeded quota: s")
    assert explain(fault) == FailedAction(Reason.APPLY_FAILED, str(fault))
    fault = Refused("PATCH /api/v1/namespaces/a/secrets/b", 403, 'User "x" cannot patch')
    assert explain(fault).reason is Reason.NOT_PERMITTED
    assert not explain(fault).of_pod


def test_a_long_refusal_is_cut() -> None:
    found = explain(Refused(PODS, 422, "x" * 1000))
    assert found.message == "the API server refuses the pod: " + "x" * (LONGEST_CAUSE - 1) + "…"


def test_pods_that_are_refused_for_one_cause_are_told_once() -> None:
    first, second = (
        FailedAction(Reason.QUOTA_EXCEEDED, "a"),
        FailedAction(Reason.QUOTA_EXCEEDED, "b"),
    )
    one, two = (
        FailedAction(Reason.APPLY_FAILED, "one"),
        FailedAction(Reason.APPLY_FAILED, "two", True),
    )
    both = FailedAction(Reason.APPLY_FAILED, "one; two", of_pod=True)
    assert merged([first, one, second, two, one]) == (first, both)


def test_each_refusal_in_a_row_doubles_the_delay_up_to_a_limit() -> None:
    refused = FailedAction(Reason.POD_REFUSED, "no", of_pod=True, needs_change=True)
    found: Refusal | None = None
    delays = []
    for _ in range(12):
        found = remember(found, 1, [refused], 100.0)
        assert found is not None
        delays.append(found.retry_at - 100.0)
    assert delays[:3] == pytest.approx([0.1, 0.2, 0.4])
    assert delays[-1] == LONGEST_RETRY_S == 30.0
    assert remember(found, 1, [], 100.0) is None


def test_a_full_quota_is_reported_only_until_the_next_try() -> None:
    full = FailedAction(Reason.QUOTA_EXCEEDED, "full", of_pod=True)
    found = remember(None, 1, [full], 0.0)
    assert found is not None
    assert found.reported(withheld=True) == (full,)
    assert found.reported(withheld=False) == ()


def test_a_request_that_may_succeed_later_is_no_refusal() -> None:
    late = FailedAction(Reason.APPLY_FAILED, "timeout", of_pod=True)
    assert remember(None, 1, [late], 0.0) is None
