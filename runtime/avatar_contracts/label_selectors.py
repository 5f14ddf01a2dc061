"""Label selectors of the Kubernetes API (`metav1.LabelSelector`), evaluated in memory."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_contracts.fields import Fields


class Operator(Enum):
    """How a requirement compares a label with its values."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One item of `matchExpressions`."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether labels fulfil the requirement. As in Kubernetes, a label that is missing
        fulfils `NotIn`."""
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_IN:
                return value is None or value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.DOES_NOT_EXIST:
                return value is None


@dataclass(frozen=True, slots=True)
class Selector:
    """A selector; an empty one selects every object."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether labels fulfil every requirement."""
        return all(each.matches(labels) for each in self.requirements)


def parse_selector(fields: Fields, name: str) -> Selector | None:
    """Return the selector in a field, None if it is missing; faults are added to `fields`."""
    if not fields.has(name):
        return None
    selector = fields.child(name)
    found = [
        Requirement(key, Operator.IN, frozenset({value}))
        for key, value in selector.strings("matchLabels").items()
    ]
    for item in selector.children("matchExpressions"):
        key = item.text("key")
        operator = item.choice("operator", Operator.EXISTS)
        values = frozenset(item.texts("values"))
        if not key or not item.has("operator"):
            item.add_rule(None, "must have a key and an operator")
        elif bool(values) != (operator in (Operator.IN, Operator.NOT_IN)):
            rule = "must not be empty with In and NotIn, and must be empty with other operators"
            item.add_rule("values", rule)
        found.append(Requirement(key, operator, values))
    return Selector(tuple(found))
