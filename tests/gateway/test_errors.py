from __future__ import annotations

from avatar_contracts.environment import Fault
from avatar_gateway import errors


def test_every_error_has_a_message_and_is_in_the_tree() -> None:
    made = [
        errors.SettingsError(Fault("NAME", "x", "HOST:PORT")),
        errors.Rejection("no_capacity", "all pods are full"),
        errors.PodRejection(404, {}, b'{"error": {"code": "avatar_not_found"}}'),
        errors.PodError("a/p", "gone"),
        errors.StateError("free", -1, "0 or more"),
        errors.SharedStateUnavailable("TimeoutError"),
        errors.KubernetesError(403, "no"),
        errors.CommandError("there is no such key"),
    ]
    assert {type(error) for error in made} == set(errors.AvatarGatewayError.__subclasses__())
    for error in made:
        assert type(error).__name__ in (errors.__doc__ or "")
        assert str(error)
        assert not str(error).endswith(".")


def test_a_pod_rejection_without_an_error_object_has_an_empty_one() -> None:
    for body in (b"", b"[]", b"{}", b'{"error": 5}', b"\xff", b"[" * 100_000):
        answer = errors.PodRejection(500, {}, body)
        assert (answer.error, answer.code) == ({}, "")


def test_long_values_are_truncated() -> None:
    assert errors.Rejection("c", "m", value="x" * 100).value == "x" * 64
    assert len(str(errors.StateError("k", "x" * 1000, "y"))) < 100
