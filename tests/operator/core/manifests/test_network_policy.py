from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.manifests.network_policy import network_policy, parse_rules

if TYPE_CHECKING:
    from tests.operator.conftest import Make

RULES = '{"egress": [], "ingress": [{"ports": []}], "policyTypes": ["Ingress", "Egress"]}'


def test_the_policy_selects_the_pods_of_its_service(make: Make) -> None:
    body: Any = network_policy(make.service(), parse_rules(RULES), "concierge-network")
    metadata = body["metadata"]
    assert (metadata["namespace"], metadata["name"]) == ("acme", "concierge-network")
    assert metadata["ownerReferences"][0]["uid"] == "s1"
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "avatar-operator"
    assert body["spec"] == {
        "podSelector": {
            "matchLabels": {
                "app.kubernetes.io/name": "avatar-runtime",
                "avatar.musetalk.io/service": "concierge",
            }
        },
        "egress": [],
        "ingress": [{"ports": []}],
        "policyTypes": ["Ingress", "Egress"],
    }


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 10_000,
        "[]",
        "{}",
        '{"egress": [], "ingress": []}',
        '{"egress": [], "ingress": {}, "policyTypes": []}',
        '{"egress": [], "ingress": [], "policyTypes": [], "podSelector": {}}',
    ],
)
def test_other_rules_are_refused(text: str) -> None:
    """A missing list would open a direction, and a selector of the rules other pods."""
    with pytest.raises(ValueError, match=r"."):
        parse_rules(text)
