"""Renders the NetworkPolicy of a service's pods, from the rules of the chart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_contracts import documents
from avatar_operator import names
from avatar_operator.core.manifests.objects import owned_metadata, service_labels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.service import Service

    Rules = Mapping[str, object]
    """The spec of a NetworkPolicy without its pod selector."""

KEYS = ("egress", "ingress", "policyTypes")


def network_policy(service: Service, rules: Rules, name: str) -> Body:
    """Render the NetworkPolicy that selects the pods of a service."""
    selected = {
        names.LABEL_NAME: names.RUNTIME_NAME,
        names.LABEL_SERVICE: service.key.name,
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owned_metadata(service, name, service_labels(service)),
        "spec": {"podSelector": {"matchLabels": selected}, **rules},
    }


def egress_of(rules: Rules | None) -> list[Mapping[str, object]] | None:
    """Return the egress rules of a policy, None without a policy."""
    if rules is None:
        return None
    egress = rules["egress"]
    return [rule for rule in egress if isinstance(rule, dict)] if isinstance(egress, list) else []


def parse_egress(text: str) -> list[Mapping[str, object]]:
    """Return the egress rules in a JSON list.

    Raises:
        ValueError: the text is anything else.
    """
    rules = documents.parse(text)
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise ValueError(text)
    return rules


def parse_rules(text: str) -> Rules:
    """Return the rules in a JSON object.

    Raises:
        ValueError: the text is anything else, or has other keys.
    """
    rules = documents.parse_object(text)
    if sorted(rules) != sorted(KEYS):
        raise ValueError(text)
    if not all(isinstance(part, list) for part in rules.values()):
        raise ValueError(text)
    return rules
