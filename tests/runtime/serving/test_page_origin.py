"""Only the page of the runtime itself, in a browser on this machine, may prepare avatars."""

from __future__ import annotations

import pytest

from avatar_runtime.errors import Rejection
from avatar_runtime.serving import page_origin


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "127.0.0.1:8080", "127.3.2.1", "[::1]:8080", "[::1]"]
)
def test_a_loopback_name_and_the_own_origin_are_accepted(host: str) -> None:
    page_origin.check_origin({"host": host, "origin": f"http://{host}"})


@pytest.mark.parametrize(
    "host",
    ["", "evil.example:8080", "127.0.0.1.evil.example", "127.evil.example", "10.0.0.7", "[::1"],
)
def test_a_name_that_another_machine_may_have_is_refused(host: str) -> None:
    with pytest.raises(Rejection, match=r"^Host is ") as refused:
        page_origin.check_origin({"host": host, "origin": f"http://{host}"})
    assert (refused.value.status, refused.value.code) == (403, "forbidden_host")


@pytest.mark.parametrize(
    "origin",
    ["", "null", "http://evil.example", "http://localhost:8081", "https://localhost:8080"],
)
def test_another_origin_is_refused(origin: str) -> None:
    with pytest.raises(Rejection, match=r"^Origin is ") as refused:
        page_origin.check_origin({"host": "localhost:8080", "origin": origin})
    assert (refused.value.status, refused.value.code) == (403, "forbidden_origin")


def test_a_request_without_an_origin_is_refused() -> None:
    with pytest.raises(Rejection, match=r"^Origin is "):
        page_origin.check_origin({"host": "localhost:8080"})
