"""Writes a scaling decision as a line of JSON data, and reads it back.

A line contains all inputs of the decision. The history of the previous decision is left out where
the previous line of the same service determines it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields
from avatar_operator import names
from avatar_operator.core.autoscaling import inputs, scaling
from avatar_operator.core.autoscaling.arrivals import Arrivals
from avatar_operator.core.autoscaling.capacity import Offer, Pod
from avatar_operator.core.autoscaling.limits import ScalingRateLimit
from avatar_operator.core.autoscaling.observation import (
    Demand,
    Observation,
    Share,
    TenantBound,
)
from avatar_operator.core.autoscaling.stabilization import Interval, Recommendations
from avatar_operator.core.resources import autoscaling

if TYPE_CHECKING:
    from avatar_operator.core.autoscaling.figures import Figures

KIND: Final = "AvatarDecision"
"""The `kind` of a line; the log of a container has lines of other kinds too."""

Document = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class LoggedDecision:
    """One decision as it was written."""

    service: str
    """NAMESPACE/NAME."""
    inputs: inputs.ScalingInputs
    """All inputs; `inputs.history` is None, see `history`."""
    continues: bool
    """Whether the history is the one that the previous line of the service left."""
    history: scaling.History | None
    """The history before the decision, if the line contains it."""
    pods: int
    reserve: int
    reason: str
    limit: str | None


def encode(service: str, result: inputs.ScalingResult) -> Document:
    """Return a decision as JSON data, without its history."""
    given, decision = result.inputs, result.decision
    seen, policy = given.observation, given.policy
    return {
        "kind": KIND,
        "service": service,
        "wall": given.wall,
        "at": given.at,
        "policy": autoscaling.document(policy),
        "freeze": policy.freeze,
        "pauseScaleIn": policy.pause_scale_in,
        "pods": [_pod(pod) for pod in seen.pods],
        "offers": [_offer(offer) for offer in seen.offers],
        "leavingCost": str(seen.leaving_cost),
        **({} if seen.share is None else {"share": [seen.share.pods, seen.share.is_owner]}),
        **({} if seen.tenant is None else {"tenant": _tenant(seen.tenant)}),
        **({} if seen.most_sessions is None else {"mostSessions": seen.most_sessions}),
        "demand": [
            seen.demand.waiting,
            seen.demand.arrived,
            seen.demand.gateways,
            seen.demand.silent,
        ],
        "decision": {
            "pods": decision.pods,
            "reserve": decision.reserve,
            "why": decision.reason.value,
            "limit": None if decision.limit is None else decision.limit.value,
            "schedules": list(result.effective.names),
            **_figures(decision.figures),
        },
    }


def encode_history(history: scaling.History | None) -> Document | None:
    """Return a history as JSON data."""
    if history is None:
        return None
    recommendations = history.recommendations
    return {
        "pods": history.pods,
        "since": recommendations.since,
        "latest": recommendations.latest,
        "latestAt": recommendations.latest_at,
        "peaks": [[each.start, each.end, each.pods] for each in recommendations.intervals],
        "pace": [list(step) for step in history.rate_limit.steps],
        "arrivals": [list(count) for count in history.arrivals.counts],
        "starts": list(history.starts_s),
        "starting": sorted(history.starting),
        "busy": history.busy,
        "busyAt": _finite(history.busy_at),
    }


def decode(document: Document) -> LoggedDecision:
    """Return the decision of a line.

    Raises:
        KeyError: a value is missing.
        TypeError: a value has the wrong type.
        ValueError: a value is invalid.
        ArithmeticError: a cost is not a number.
    """
    read = _Reader(document)
    decision = read.child("decision")
    limit = decision.document["limit"]
    has_history = document.get("history") is not None
    return LoggedDecision(
        service=str(document["service"]),
        inputs=_read_inputs(read),
        continues="history" not in document,
        history=_read_history(read.child("history")) if has_history else None,
        pods=decision.whole("pods"),
        reserve=decision.whole("reserve"),
        reason=str(decision.document["why"]),
        limit=None if limit is None else str(limit),
    )


def _figures(figures: Figures) -> Document:
    return {
        "sessions": figures.sessions,
        "waiting": figures.waiting,
        "headroom": figures.headroom,
        "arrivalsPerSecond": figures.arrivals_per_s,
        "startSeconds": figures.start_s,
        "capacity": figures.capacity,
        "wanted": figures.wanted,
        "silent": figures.silent,
    }


def _read_inputs(read: _Reader) -> inputs.ScalingInputs:
    document = read.document
    annotations = {
        names.ANNOTATION_FREEZE: "true" if document["freeze"] else "",
        names.ANNOTATION_PAUSE_SCALE_IN: "true" if document["pauseScaleIn"] else "",
    }
    fields = Fields({"autoscaling": document["policy"]}, "", [])
    policy = autoscaling.parse(fields, annotations)
    if fields.faults:
        raise ValueError("; ".join(map(str, fields.faults)))
    waiting, arrived, gateways, silent = map(_whole, read.items("demand"))
    return inputs.ScalingInputs(
        policy=policy,
        observation=Observation(
            pods=[_read_pod(row) for row in read.rows("pods")],
            offers=[_read_offer(row) for row in read.rows("offers")],
            demand=Demand(waiting, arrived, gateways, silent),
            leaving_cost=Decimal(str(document["leavingCost"])),
            share=_read_share(read.items("share")) if "share" in document else None,
            tenant=_read_tenant(read.items("tenant")) if "tenant" in document else None,
            most_sessions=read.whole("mostSessions") if "mostSessions" in document else None,
        ),
        history=None,
        at=read.number("at"),
        wall=read.number("wall"),
    )


def _pod(pod: Pod) -> list[object]:
    return [
        pod.uid,
        pod.slots,
        pod.sessions,
        pod.ready,
        pod.draining,
        pod.age_s,
        _finite(pod.state_age_s),
        pod.load_factor,
        pod.reserve,
        _cost(pod.cost),
    ]


def _read_pod(row: Sequence[object]) -> Pod:
    uid, slots, sessions, ready, draining, age_s, state_age_s, load_factor, reserve, cost = row
    return Pod(
        uid=str(uid),
        slots=_whole(slots),
        sessions=_whole(sessions),
        ready=bool(ready),
        draining=bool(draining),
        age_s=_number(age_s),
        state_age_s=inf if state_age_s is None else _number(state_age_s),
        load_factor=_number(load_factor),
        reserve=bool(reserve),
        cost=None if cost is None else Decimal(str(cost)),
    )


def _offer(offer: Offer) -> list[object]:
    measured = [] if offer.start_s is None else [offer.start_s]
    return [offer.gpu_class, offer.slots, offer.free, _cost(offer.cost), *measured]


def _read_offer(row: Sequence[object]) -> Offer:
    gpu_class, slots, free, cost, *measured = row
    price = None if cost is None else Decimal(str(cost))
    (start_s,) = map(_number, measured) if measured else (None,)
    return Offer(str(gpu_class), _whole(slots), _whole(free), price, start_s)


def _read_share(row: Sequence[object]) -> Share:
    pods, is_owner = row
    return Share(_whole(pods), is_owner=bool(is_owner))


def _tenant(bound: TenantBound) -> list[object]:
    return [bound.pods, bound.new, _cost(bound.cost_left)]


def _read_tenant(row: Sequence[object]) -> TenantBound:
    pods, new, cost = row
    left = None if cost is None else Decimal(str(cost))
    return TenantBound(_whole(pods), _whole(new), left)


def _read_history(read: _Reader) -> scaling.History:
    peaks = [Interval(_number(a), _number(b), _whole(n)) for a, b, n in read.rows("peaks")]
    busy_at = read.document["busyAt"]
    return scaling.History(
        pods=read.whole("pods"),
        recommendations=Recommendations(
            read.number("since"),
            read.whole("latest"),
            read.number("latestAt"),
            tuple(peaks),
        ),
        rate_limit=ScalingRateLimit(
            tuple((_number(at), _whole(pods)) for at, pods in read.rows("pace"))
        ),
        arrivals=Arrivals(tuple((_whole(at), _whole(n)) for at, n in read.rows("arrivals"))),
        starts_s=tuple(map(_number, read.items("starts"))),
        starting=frozenset(map(str, read.items("starting"))),
        busy=bool(read.document["busy"]),
        busy_at=-inf if busy_at is None else _number(busy_at),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one object of a line and raises an error for a missing or wrong value."""

    document: Document

    def child(self, name: str) -> _Reader:
        value = self.document[name]
        if not isinstance(value, Mapping):
            raise TypeError(f"{name} is not an object")
        return _Reader(value)

    def items(self, name: str) -> Sequence[object]:
        value = self.document[name]
        if not isinstance(value, list):
            raise TypeError(f"{name} is not a list")
        return value

    def rows(self, name: str) -> Iterator[Sequence[object]]:
        for row in self.items(name):
            if not isinstance(row, list):
                raise TypeError(f"{name} must contain only lists")
            yield row

    def whole(self, name: str) -> int:
        return _whole(self.document[name])

    def number(self, name: str) -> float:
        return _number(self.document[name])


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value


def _cost(cost: Decimal | None) -> str | None:
    return None if cost is None else str(cost)


def _finite(value: float) -> float | None:
    return None if value in (inf, -inf) else value
