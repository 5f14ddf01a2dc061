"""The token of the operator's own metrics."""

from __future__ import annotations

from avatar_contracts.tokens import control_token
from avatar_operator import settings
from avatar_operator.app import metrics_token
from avatar_operator.core.keys import KeyRing

ENVIRONMENT = {"AVATAR_NAMESPACE": "system", "AVATAR_RUNTIME_IMAGE": "runtime:1"}
KEYS = KeyRing("a-master-key-of-the-operator")


def test_metrics_require_a_token_that_follows_from_the_master_key() -> None:
    read = settings.from_env(ENVIRONMENT)
    expected = control_token(KEYS.current, "system/avatar-operator")
    assert metrics_token(read, KEYS) == expected


def test_before_the_key_is_known_no_token_is_valid() -> None:
    read = settings.from_env(ENVIRONMENT)
    first, second = (metrics_token(read, None) for _ in range(2))
    assert first != second
    assert first != control_token("", "system/avatar-operator")
    assert len(first or "") == 64


def test_open_metrics_require_no_token() -> None:
    read = settings.from_env({**ENVIRONMENT, "AVATAR_METRICS_OPEN": "true"})
    assert metrics_token(read, None) is None
