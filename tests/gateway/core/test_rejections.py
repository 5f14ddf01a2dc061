from __future__ import annotations

import pytest

from avatar_gateway import errors
from avatar_gateway.core import rejections, routing


@pytest.mark.parametrize(
    ("code", "status", "close", "header"),
    [
        ("invalid_handshake", 400, None, None),
        ("invalid_query", 400, 1008, None),
        ("key_in_url", 400, 1008, None),
        ("unauthenticated", 401, 4401, ("WWW-Authenticate", "Bearer")),
        ("origin_not_allowed", 403, 4403, None),
        ("model_not_found", 404, 4404, None),
        ("upgrade_required", 426, None, ("Upgrade", "websocket")),
        ("no_capacity", 503, 1013, ("Retry-After", "5")),
        ("draining", 503, 1013, ("Retry-After", "5")),
        ("not_ready", 503, 1013, ("Retry-After", "5")),
    ],
)
def test_each_code_has_its_status_close_code_and_headers(
    code: str, status: int, close: int | None, header: tuple[str, str] | None
) -> None:
    mapping = rejections.mapping_of(code)
    assert (mapping.status, mapping.close_code) == (status, close)
    assert header is None or header in mapping.headers
    assert ("Connection" in dict(mapping.headers)) == (code == "upgrade_required")


def test_every_shortage_has_a_mapping() -> None:
    assert {shortage.value for shortage in routing.Shortage} <= rejections.CODES


@pytest.mark.parametrize(
    ("status", "close"),
    [
        (400, 1008),
        (401, 4401),
        (403, 4403),
        (404, 4404),
        (418, 1011),
        (428, 1011),
        (429, 4429),
        (500, 1011),
        (503, 1013),
        (504, 1011),
    ],
)
def test_the_status_of_a_pod_rejection_has_a_close_code(status: int, close: int) -> None:
    assert rejections.close_code_for_status(status) == close


def test_the_error_object_names_the_field_the_value_and_the_limit() -> None:
    rejection = errors.Rejection(
        "invalid_query", "wait_ms is bad", param="w", value="x" * 99, limit=[0]
    )
    assert rejections.error_object(rejection) == {
        "type": "invalid_request_error",
        "code": "invalid_query",
        "message": "wait_ms is bad",
        "param": "w",
        "event_id": None,
        "value": "x" * 64,
        "limit": [0],
    }
    assert (
        rejections.error_object(errors.Rejection("no_capacity", "full"))["type"] == "server_error"
    )
