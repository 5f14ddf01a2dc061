"""Tests of how decisions are written down and made again."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from decimal import Decimal
from functools import cache
from math import inf
from typing import Any

import pytest

from avatar_contracts.fields import Fields
from avatar_operator.core.autoscaling import decision_lines, decision_log, inputs, scaling
from avatar_operator.core.autoscaling.arrivals import Arrivals
from avatar_operator.core.autoscaling.capacity import Offer
from avatar_operator.core.autoscaling.limits import ScalingRateLimit
from avatar_operator.core.autoscaling.observation import Demand, Observation, Share, TenantBound
from avatar_operator.core.autoscaling.stabilization import Recommendations
from avatar_operator.core.resources import autoscaling
from avatar_operator.simulator.world import run
from localcluster.faults import policy_fuzz, scaling_campaign

SEEDS = (2, 5, 7, 20)


@cache
def written(seed: int) -> list[decision_lines.Document]:
    """Return the lines of a made world with faults, as they would be read."""
    chance = random.Random(seed)
    wanted = scaling_campaign.service(chance)
    world = scaling_campaign.settings(chance, wanted)
    ours = decision_log.DecisionLog()
    lines: list[str] = []

    def note(answer: inputs.ScalingResult) -> None:
        lines.append(json.dumps(ours.line("sim/avatar", answer)))

    callers = scaling_campaign.callers(chance)
    run(wanted, scaling_campaign.profiles(), callers, world, chance, on_decision=note)
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_every_decision_is_made_again_as_it_was_written(seed: int) -> None:
    lines = written(seed)
    again = list(decision_log.replay(map(decision_lines.decode, lines)))
    assert len(again) == len(lines) > 100
    assert not [each.logged for each in again if each.differs]
    assert len({each.logged.pods for each in again}) > 1


@pytest.mark.slow
def test_a_log_can_be_read_from_its_middle() -> None:
    lines = written(SEEDS[0])
    cut = [decision_lines.decode(line) for line in lines[150:]]
    again = list(decision_log.replay(cut))
    assert len(cut) - decision_log.FULL_HISTORY_EVERY < len(again) < len(cut)
    assert not any(each.differs for each in again)


@pytest.mark.slow
def test_another_policy_decides_otherwise() -> None:
    lines = [decision_lines.decode(line) for line in written(SEEDS[0])]
    policy = replace(lines[0].inputs.policy, free_min=200, max_replicas=1000)
    again = list(decision_log.replay(lines, policy))
    assert any(each.differs for each in again)
    assert max(each.result.decision.figures.headroom for each in again) >= 200


def test_a_changed_number_is_noticed() -> None:
    line = decision_lines.decode(written(SEEDS[0])[0])
    (again,) = decision_log.replay([replace(line, pods=line.pods + 1)])
    assert again.differs


def test_what_was_not_written_is_not_counted_on() -> None:
    lines = [decision_lines.decode(line) for line in written(SEEDS[0])[:5]]
    assert list(decision_log.replay(lines[1:])) == []


def test_after_it_forgot_a_journal_writes_in_full() -> None:
    ours = decision_log.DecisionLog()
    lines = [decision_lines.decode(line) for line in written(SEEDS[0])[:3]]
    answers = [again.result for again in decision_log.replay(lines)]
    assert ["history" in ours.line("a", answer) for answer in answers] == [True, False, False]
    ours.forget("a")
    assert "history" in ours.line("a", answers[2])
    ours.forget()
    assert "history" in ours.line("a", answers[2])


def test_a_policy_is_read_as_it_was_written() -> None:
    chance = random.Random(3)
    read = 0
    for _ in range(200):
        fields = Fields({"autoscaling": policy_fuzz.autoscaling(chance)}, "", [])
        policy = autoscaling.parse(fields, {})
        if not fields.faults:
            again = Fields({"autoscaling": autoscaling.document(policy)}, "", [])
            assert autoscaling.parse(again, {}) == policy
            assert not again.faults
            read += 1
    assert read > 50


@pytest.mark.parametrize(
    "changes",
    [
        {"demand": "none"},
        {"demand": [1, 2, 3]},
        {"decision": []},
        {"decision": {"pods": True}},
        {"pods": [{}]},
        {"at": "now"},
        {"leavingCost": "much"},
        {"policy": {"maxReplicas": 0}},
        {"history": [1]},
    ],
    ids=str,
)
def test_what_is_no_decision_is_refused(changes: dict[str, Any]) -> None:
    line = written(SEEDS[0])[0]
    with pytest.raises((KeyError, TypeError, ValueError, ArithmeticError)):
        decision_lines.decode({**line, **changes})


def test_a_history_in_full_says_all_that_is_remembered() -> None:
    names = {name.replace("_", "") for name in scaling.History.__slots__}
    assert names >= {
        "pods",
        "recommendations",
        "ratelimit",
        "arrivals",
        "startss",
        "starting",
        "busy",
        "busyat",
    }
    assert len(names) == 8


@pytest.mark.parametrize("busy_at", [-inf, 12.5])
def test_a_history_in_full_is_read_as_it_was_written(busy_at: float) -> None:
    line = written(SEEDS[0])[0]
    history = scaling.History(
        pods=3,
        recommendations=Recommendations.starting(5.0, 2),
        rate_limit=ScalingRateLimit.starting(6.0, 2),
        arrivals=Arrivals.starting(7.0, 9),
        starts_s=(3.0, 4.0),
        starting=frozenset({"p", "q"}),
        busy=True,
        busy_at=busy_at,
    )
    document = json.loads(json.dumps(decision_lines.encode_history(history)))
    assert decision_lines.decode({**line, "history": document}).history == history


@pytest.mark.parametrize("keeps", [True, False])
def test_what_a_service_has_to_do_with_a_shared_reserve_is_written_too(keeps: bool) -> None:
    share = Share(2, is_owner=keeps)
    auto = autoscaling.Autoscaling(1, 9, shared_reserve=True)
    offers = [Offer("c", 4, 9)]
    tenant = TenantBound(7, 7, None if keeps else Decimal("1.50"))
    most = None if keeps else 12
    seen = Observation(
        [], offers, Demand(waiting=5), share=share, tenant=tenant, most_sessions=most
    )
    answer = inputs.decide(inputs.ScalingInputs(auto, seen, None, 1.0, 2.0))
    line = json.loads(json.dumps(decision_log.DecisionLog().line("acme/a", answer)))
    read = decision_lines.decode(line)
    assert (read.inputs.policy, read.inputs.observation.share) == (auto, share)
    assert read.inputs.observation.tenant == tenant
    assert read.inputs.observation.most_sessions == most
    (again,) = decision_log.replay([read])
    assert not again.differs
    assert again.result.decision.reserve == (2 if keeps else 0)


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_service_that_was_never_busy_is_read_as_such(waiting: int) -> None:
    auto = autoscaling.Autoscaling(0, 9, zero_after_s=60)
    seen = Observation([], [Offer("c", 4, 9)], Demand(waiting=waiting))
    first = inputs.decide(inputs.ScalingInputs(auto, seen, None, 1.0, 2.0))
    history = first.decision.history
    answer = inputs.decide(inputs.ScalingInputs(auto, seen, history, 5.0, 6.0))
    line = json.loads(json.dumps(decision_log.DecisionLog().line("acme/a", answer)))
    read = decision_lines.decode(line)
    assert read.history == history
    assert (history.busy_at > 0) == bool(waiting)
