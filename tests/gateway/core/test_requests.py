from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway import errors
from avatar_gateway.core.requests import (
    SessionRequest,
    check_no_key,
    parse,
    parse_body,
    parse_direct,
    parse_secret,
    wants_close_code,
)
from avatar_gateway.core.tenants import PLATFORM

KEY = "a-key-of-some-length"


def test_the_pod_receives_the_query_without_the_gateway_parameters() -> None:
    query = [
        ("model", "acme/concierge"),
        ("avatar", "anna"),
        ("wait_ms", "1500"),
        ("refuse", "close"),
        ("future", "x"),
    ]
    passed = [("model", "acme/concierge"), ("avatar", "anna"), ("future", "x")]
    assert parse(query) == SessionRequest("acme/concierge", 1500, passed, avatar="anna")
    assert wants_close_code(query)
    assert not wants_close_code(query[:1])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("resumes", "1", True),
        ("resumes", "0", False),
        ("resume", "sess_1", True),
        ("wait_ms", "1", False),
    ],
)
def test_a_caller_says_that_it_can_resume(name: str, value: str, expected: bool) -> None:
    request = parse([("model", "acme/concierge"), (name, value)])
    assert request.can_resume is expected
    assert all(each != "resumes" for each, _ in request.forwarded)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        pytest.param([], "model", id="no model"),
        pytest.param([("model", "")], "model", id="empty model"),
        pytest.param([("model", "concierge")], "model", id="no namespace"),
        pytest.param([("model", "Acme/x")], "model", id="upper case"),
        pytest.param([("model", "a/b/c")], "model", id="a path"),
        pytest.param([("model", "../b")], "model", id="dots"),
        pytest.param([("model", "a/b\n")], "model", id="a line end"),
        pytest.param([("model", "a/b"), ("model", "a/c")], "model", id="repeated"),
        pytest.param([("model", "a/b"), ("wait_ms", "-1")], "wait_ms", id="negative wait"),
        pytest.param([("model", "a/b"), ("wait_ms", "1.5")], "wait_ms", id="fraction"),
        pytest.param([("model", "a/b"), ("wait_ms", "600001")], "wait_ms", id="too long"),
        pytest.param([("model", "a/b"), ("wait_ms", "9" * 5000)], "wait_ms", id="huge"),
        pytest.param([("model", "a/b"), ("wait_ms", "٣")], "wait_ms", id="other digits"),
        pytest.param([("model", "a/b"), ("refuse", "loudly")], "refuse", id="refuse"),
        pytest.param([("model", "a/b"), ("resumes", "yes")], "resumes", id="resumes"),
    ],
)
def test_a_wrong_query_is_rejected_with_its_parameter(
    query: list[tuple[str, str]], param: str
) -> None:
    with pytest.raises(errors.Rejection) as rejected:
        parse(query)
    assert (rejected.value.code, rejected.value.param) == ("invalid_query", param)
    assert len(str(rejected.value)) < 200


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([], "model is missing, must be NAMESPACE/NAME"),
        ([("model", "x")], "model is 'x', must be NAMESPACE/NAME"),
        ([("model", "a/b"), ("model", "a/b")], "model is set more than once"),
        ([("x", "1"), ("y", "1"), ("y", "2")], "y is set more than once"),
        ([("model", "a/b"), ("wait_ms", "x")], "wait_ms is 'x', must be from 0 to 600000"),
        ([("model", "a/b"), ("refuse", "x")], "refuse is 'x', must be close or status"),
        ([("model", "x" * 99)], f"model is '{'x' * 64}', must be NAMESPACE/NAME"),
    ],
)
def test_the_message_names_the_value_and_the_limit(
    query: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(errors.Rejection) as rejected:
        parse(query)
    assert str(rejected.value) == message


@pytest.mark.parametrize(
    ("query", "value", "limit"),
    [
        ([("model", "x")], "x", "NAMESPACE/NAME"),
        ([("model", "a/b"), ("wait_ms", "600001")], "600001", [0, 600_000]),
        ([("model", "a/b"), ("refuse", "x")], "x", ["close", "status"]),
    ],
)
def test_a_rejection_has_the_value_and_the_limit(
    query: list[tuple[str, str]], value: str, limit: object
) -> None:
    with pytest.raises(errors.Rejection) as rejected:
        parse(query)
    assert (rejected.value.value, rejected.value.limit) == (value, limit)


@pytest.mark.parametrize("wait_ms", [0, 1, 600_000])
def test_the_limits_of_wait_ms_are_included(wait_ms: int) -> None:
    assert parse([("model", "a/b"), ("wait_ms", str(wait_ms))]).wait_ms == wait_ms
    assert parse([("model", "a/b"), ("refuse", "status")]).wait_ms == 0


@pytest.mark.parametrize(
    ("model", "valid"),
    [
        ("n" * 63 + "/" + "s" * 253, True),
        ("n" * 64 + "/s", False),
        ("n/" + "s" * 254, False),
        ("0/1", True),
        ("a-b/c-d.e", True),
        ("a.b/c", False),
        ("-a/b", False),
        ("a-/b", False),
        ("a/-b", False),
        ("a/b.", False),
    ],
)
def test_a_model_is_a_namespace_and_a_name_of_kubernetes(model: str, valid: bool) -> None:
    try:
        assert parse([("model", model)]).model == model
    except errors.Rejection:
        assert not valid
    else:
        assert valid


@given(st.lists(st.tuples(st.text(), st.text())))
def test_any_query_is_parsed_or_rejected(query: list[tuple[str, str]]) -> None:
    try:
        request = parse(query)
    except errors.Rejection:
        return
    assert request.model == dict(query)["model"]


@pytest.mark.parametrize(
    "query",
    [
        ("api_key", "x"),
        ("API-KEY", "x"),
        ("apikey", "x"),
        ("access_token", "x"),
        ("authorization", "x"),
        ("client_secret", "x"),
        ("key", "x"),
        ("resume_token", "x"),
        ("secret", "x"),
        ("token", "x"),
        ("x", KEY),
        ("x", "ek_abc"),
        ("x", "sk-1"),
        ("x", f"my key is {KEY}"),
    ],
)
def test_a_credential_in_the_url_is_rejected_and_not_repeated(query: tuple[str, str]) -> None:
    with pytest.raises(errors.Rejection) as rejected:
        check_no_key([("model", "a/b"), query], [KEY])
    assert rejected.value.code == "key_in_url"
    assert (rejected.value.value, KEY in str(rejected.value)) == (None, False)
    assert rejected.value.param == query[0]


@pytest.mark.parametrize("name", [KEY, f"{KEY}x", "ek_abc", "sk-1"])
def test_a_credential_as_the_name_of_a_parameter_is_not_repeated(name: str) -> None:
    with pytest.raises(errors.Rejection) as rejected:
        check_no_key([(name, "")], [KEY])
    assert (rejected.value.code, rejected.value.param) == ("key_in_url", None)
    assert name not in str(rejected.value)


def test_a_long_parameter_name_is_truncated_in_the_message() -> None:
    with pytest.raises(errors.Rejection) as rejected:
        check_no_key([("x" * 99, KEY)], [KEY])
    assert str(rejected.value) == f"the query parameter '{'x' * 64}' contains a credential"


def test_a_url_without_a_credential_is_accepted() -> None:
    check_no_key([("model", "a/b"), ("avatar", "anna"), ("resume", "sess_1")], [KEY])


@pytest.mark.parametrize(
    ("body", "ttl_s"),
    [
        ({}, 600),
        ({"expires_after": {"anchor": "created_at", "seconds": 60}}, 60),
        ({"expires_after": {"seconds": 600}}, 600),
    ],
)
def test_a_secret_request_has_the_format_of_openai(body: Any, ttl_s: int) -> None:
    session = {"type": "realtime", "model": "a/b"}
    request = parse_secret({**body, "session": session})
    assert (request.ttl_s, request.model) == (ttl_s, "a/b")
    assert request.session == session


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], "body"),
        ({"expires_after": 60}, "expires_after"),
        ({"expires_after": {"seconds": 59}}, "expires_after.seconds"),
        ({"expires_after": {"seconds": 601}}, "expires_after.seconds"),
        ({"expires_after": {"seconds": True}}, "expires_after.seconds"),
        ({"expires_after": {"seconds": [1] * 999}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "now"}}, "expires_after.anchor"),
        ({}, "session.model"),
        ({"session": {"type": "realtime"}}, "session.model"),
        ({"session": {"model": None}}, "session.model"),
        ({"session": "x"}, "session"),
        ({"session": {"model": 5}}, "session.model"),
        ({"session": {"model": "nonsense"}}, "session.model"),
    ],
)
def test_a_wrong_body_is_rejected_with_its_field(body: Any, param: str) -> None:
    with pytest.raises(errors.Rejection) as rejected:
        parse_secret(body)
    assert rejected.value.param == param
    assert len(str(rejected.value.value)) <= 64


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"{", b"[" * 60_000, b'{"model": NaN}', b" " * 65_537], ids=range(6)
)
def test_a_body_that_cannot_be_read_is_refused(body: bytes) -> None:
    for read in (parse_body, lambda data: parse_direct(data, PLATFORM)):
        with pytest.raises(errors.Rejection, match="the body") as refused:
            read(body)
        assert refused.value.code == "invalid_query"
