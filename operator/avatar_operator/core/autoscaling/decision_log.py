"""Writes decisions down with all that they depend on, and makes them again from what is written.

A line holds what a decision was asked. What the one before it remembered is left
out where it follows from the line before; now and then it is written in full, so
that a log can be read from its middle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_operator import names
from avatar_operator.core.autoscaling import inputs, scaling
from avatar_operator.core.autoscaling.arrivals import Arrivals
from avatar_operator.core.autoscaling.capacity import Offer, Pod
from avatar_operator.core.autoscaling.limits import Pace
from avatar_operator.core.autoscaling.stabilization import Peak, Wishes
from avatar_operator.core.resources import autoscaling
from avatar_operator.core.resources.fields import Fields

if TYPE_CHECKING:
    from avatar_operator.core.resources.autoscaling import Autoscaling

KIND: Final = "AvatarDecision"
"""Says of a line that it is ours: a container's log has others between."""

ANCHOR: Final = 100  # lines of a service, after which its history is written in full

Document = Mapping[str, object]


class Carried(Enum):
    """That a history is the one which the line before left."""

    OVER = "over"


@dataclass(frozen=True, slots=True)
class Line:
    """One decision as it was written."""

    service: str
    question: inputs.Question  # with no history of its own where it is carried over
    history: scaling.History | Carried | None
    pods: int
    reserve: int
    why: str
    limit: str | None


@dataclass(frozen=True, slots=True)
class Again:
    """A decision that was made again."""

    line: Line
    answer: inputs.Answer

    @property
    def differs(self) -> bool:
        """Whether it is another one than what was written."""
        made = self.answer.decision
        limit = None if made.limit is None else made.limit.value
        now = (made.pods, made.reserve, made.why.value, limit)
        return now != (self.line.pods, self.line.reserve, self.line.why, self.line.limit)


@dataclass(frozen=True, slots=True)
class _Last:
    history: scaling.History
    lines: int  # since it was written in full


class Journal:
    """The owner of what was written last of each service."""

    def __init__(self) -> None:
        self._last: dict[str, _Last] = {}

    def line(self, service: str, answer: inputs.Answer) -> Document:
        """Return the line of a decision."""
        last = self._last.get(service)
        history = answer.question.history
        carried = last is not None and last.history is history and last.lines < ANCHOR
        lines = last.lines + 1 if last is not None and carried else 0
        self._last[service] = _Last(answer.decision.history, lines)
        document = encode(service, answer)
        return document if carried else {**document, "history": _history(history)}

    def forget(self, service: str | None = None) -> None:
        """Write the next line of a service (None: of all) in full."""
        if service is None:
            self._last.clear()
        else:
            self._last.pop(service, None)


def replay(lines: Iterable[Line], policy: Autoscaling | None = None) -> Iterator[Again]:
    """Make decisions again, with another policy if one is given.

    What pods and callers did is as it was written: with another policy each
    decision says what it would have been at that moment, not what would have
    become of it. A line whose history is not known is passed over.
    """
    left: dict[str, scaling.History] = {}
    for line in lines:
        history = line.history
        if isinstance(history, Carried):
            if line.service not in left:
                continue
            history = left[line.service]
        elif policy is not None:
            history = left.get(line.service, history)
        question = replace(line.question, history=history)
        if policy is not None:
            question = replace(question, policy=policy)
        answer = inputs.answer(question)
        left[line.service] = answer.decision.history
        yield Again(line, answer)


def encode(service: str, answer: inputs.Answer) -> Document:
    """Return a decision as JSON data, without its history."""
    question, decision = answer.question, answer.decision
    seen, policy, inputs = question.observation, question.policy, decision.inputs
    return {
        "kind": KIND,
        "service": service,
        "wall": question.wall,
        "at": question.at,
        "policy": autoscaling.document(policy),
        "freeze": policy.freeze,
        "pauseScaleIn": policy.pause_scale_in,
        "pods": [_pod(pod) for pod in seen.pods],
        "offers": [[o.gpu_class, o.slots, o.free, _money(o.cost)] for o in seen.offers],
        "leavingCost": str(seen.leaving_cost),
        **({} if seen.share is None else {"share": [seen.share.pods, seen.share.keeps]}),
        "demand": [
            seen.demand.waiting,
            seen.demand.arrived,
            seen.demand.gateways,
            seen.demand.silent,
        ],
        "decision": {
            "pods": decision.pods,
            "reserve": decision.reserve,
            "why": decision.why.value,
            "limit": None if decision.limit is None else decision.limit.value,
            "schedules": list(answer.in_force.names),
            "sessions": inputs.sessions,
            "waiting": inputs.waiting,
            "headroom": inputs.headroom,
            "arrivalsPerSecond": inputs.arrivals_per_s,
            "startSeconds": inputs.start_s,
            "capacity": inputs.capacity,
            "wanted": inputs.wanted,
            "silent": inputs.silent,
        },
    }


def decode(document: Document) -> Line:
    """Return the decision of a line.

    Raises:
        KeyError, TypeError, ValueError, ArithmeticError: it is none.
    """
    read = _Reader(document)
    decision = read.child("decision")
    marks = {
        names.ANNOTATION_FREEZE: "true" if document["freeze"] else "",
        names.ANNOTATION_PAUSE_SCALE_IN: "true" if document["pauseScaleIn"] else "",
    }
    fields = Fields({"autoscaling": document["policy"]}, "", [])
    policy = autoscaling.parse(fields, marks)
    if fields.faults:
        raise ValueError("; ".join(map(str, fields.faults)))
    waiting, arrived, gateways, silent = map(_whole, read.items("demand"))
    question = inputs.Question(
        policy=policy,
        observation=scaling.Observation(
            pods=[_read_pod(row) for row in read.rows("pods")],
            offers=[_read_offer(row) for row in read.rows("offers")],
            demand=scaling.Demand(waiting, arrived, gateways, silent),
            leaving_cost=Decimal(str(document["leavingCost"])),
            share=_read_share(read.items("share")) if "share" in document else None,
        ),
        history=None,
        at=read.number("at"),
        wall=read.number("wall"),
    )
    history: scaling.History | Carried | None = Carried.OVER
    if "history" in document:
        history = None if document["history"] is None else _read_history(read.child("history"))
    limit = decision.document["limit"]
    return Line(
        service=str(document["service"]),
        question=question,
        history=history,
        pods=decision.whole("pods"),
        reserve=decision.whole("reserve"),
        why=str(decision.document["why"]),
        limit=None if limit is None else str(limit),
    )


def _pod(pod: Pod) -> list[object]:
    return [
        pod.uid,
        pod.slots,
        pod.sessions,
        pod.ready,
        pod.draining,
        pod.age_s,
        _finite(pod.heard_s),
        pod.strain,
        pod.reserve,
        _money(pod.cost),
    ]


def _read_pod(row: Sequence[object]) -> Pod:
    uid, slots, sessions, ready, draining, age_s, heard_s, strain, reserve, cost = row
    return Pod(
        uid=str(uid),
        slots=_whole(slots),
        sessions=_whole(sessions),
        ready=bool(ready),
        draining=bool(draining),
        age_s=_number(age_s),
        heard_s=inf if heard_s is None else _number(heard_s),
        strain=_number(strain),
        reserve=bool(reserve),
        cost=None if cost is None else Decimal(str(cost)),
    )


def _read_offer(row: Sequence[object]) -> Offer:
    gpu_class, slots, free, cost = row
    price = None if cost is None else Decimal(str(cost))
    return Offer(str(gpu_class), _whole(slots), _whole(free), price)


def _read_share(row: Sequence[object]) -> scaling.Share:
    pods, keeps = row
    return scaling.Share(_whole(pods), keeps=bool(keeps))


def _history(history: scaling.History | None) -> Document | None:
    if history is None:
        return None
    wishes = history.wishes
    return {
        "pods": history.pods,
        "since": wishes.since,
        "latest": wishes.latest,
        "latestAt": wishes.latest_at,
        "peaks": [[peak.begun, peak.ended, peak.pods] for peak in wishes.peaks],
        "pace": [list(step) for step in history.pace.steps],
        "arrivals": [list(count) for count in history.arrivals.counts],
        "starts": list(history.starts_s),
        "starting": sorted(history.starting),
        "busy": history.busy,
        "busyAt": _finite(history.busy_at),
    }


def _read_history(read: _Reader) -> scaling.History:
    peaks = [(_number(begun), _number(ended), _whole(n)) for begun, ended, n in read.rows("peaks")]
    busy_at = read.document["busyAt"]
    return scaling.History(
        pods=read.whole("pods"),
        wishes=Wishes(
            read.number("since"),
            read.whole("latest"),
            read.number("latestAt"),
            tuple(Peak(*peak) for peak in peaks),
        ),
        pace=Pace(tuple((_number(at), _whole(pods)) for at, pods in read.rows("pace"))),
        arrivals=Arrivals(tuple((_whole(at), _whole(n)) for at, n in read.rows("arrivals"))),
        starts_s=tuple(map(_number, read.items("starts"))),
        starting=frozenset(map(str, read.items("starting"))),
        busy=bool(read.document["busy"]),
        busy_at=-inf if busy_at is None else _number(busy_at),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """An object of a line; what is not as it should be raises."""

    document: Document

    def child(self, name: str) -> _Reader:
        value = self.document[name]
        if not isinstance(value, Mapping):
            raise TypeError(f"{name} is no object")
        return _Reader(value)

    def items(self, name: str) -> Sequence[object]:
        value = self.document[name]
        if not isinstance(value, list):
            raise TypeError(f"{name} is no list")
        return value

    def rows(self, name: str) -> Iterator[Sequence[object]]:
        for row in self.items(name):
            if not isinstance(row, list):
                raise TypeError(f"{name} holds something else than lists")
            yield row

    def whole(self, name: str) -> int:
        return _whole(self.document[name])

    def number(self, name: str) -> float:
        return _number(self.document[name])


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def _money(cost: Decimal | None) -> str | None:
    return None if cost is None else str(cost)


def _finite(value: float) -> float | None:
    return None if value in (inf, -inf) else value
