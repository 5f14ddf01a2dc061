"""By its metadata a client finds the response to its `response.create`, whenever it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect, Event, SessionDriver

FRAME = bytes(2 * 960)
METADATA = {"client_event_id": "e7"}


def create(driver: SessionDriver) -> list[Event]:
    return driver.send("response.create", response={"metadata": METADATA})


def steps(events: list[Event]) -> list[tuple[str, int, str, bool]]:
    """Return the starts and ends of responses: number, status, and whether with the metadata."""
    return [
        (
            event["type"].removeprefix("response."),
            event["response_ref"],
            event["response"]["status"],
            event["response"]["metadata"] == METADATA,
        )
        for event in events
        if event["type"] in ("response.created", "response.done")
    ]


def test_a_request_before_the_response_starts_names_that_response(connect: Connect) -> None:
    driver = connect()
    driver.update(avatar={"drive": {"start": "response.create"}})
    driver.append(FRAME * 5)
    driver.send("input_audio_buffer.commit")
    create(driver)
    driver.make()
    assert steps(driver.events) == [
        ("created", 1, "in_progress", True),
        ("done", 1, "completed", True),
    ]


@pytest.mark.parametrize("commits_first", [True, False])
def test_a_request_for_audio_that_is_being_spoken_gets_its_response_afterwards(
    connect: Connect, commits_first: bool
) -> None:
    driver = connect()
    driver.append(FRAME * 5)
    if commits_first:
        driver.send("input_audio_buffer.commit")
    assert create(driver) == []
    if not commits_first:
        driver.send("input_audio_buffer.commit")
    driver.append(FRAME * 5)  # the next utterance waits
    driver.make()
    assert steps(driver.events) == [
        ("created", 1, "in_progress", False),
        ("done", 1, "completed", False),
        ("created", 2, "in_progress", True),
        ("done", 2, "completed", True),
        ("created", 3, "in_progress", False),
    ]
    assert [e["response"]["output"] for e in driver.events if "response" in e][2:4] == [[], []]


def test_a_request_for_audio_that_was_spoken_gets_its_response_at_once(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 5)
    driver.send("input_audio_buffer.commit")
    driver.make()
    assert steps(create(driver)) == [
        ("created", 2, "in_progress", True),
        ("done", 2, "completed", True),
    ]
    [error] = create(driver)
    assert error["error"]["code"] == "no_input_audio"


@pytest.mark.parametrize(
    ("end", "status"),
    [("response.cancel", "cancelled"), ("output_audio_buffer.clear", "cancelled"), ("", "failed")],
)
def test_the_response_of_a_request_has_the_status_of_the_one_that_spoke(
    connect: Connect, end: str, status: str
) -> None:
    driver = connect()
    driver.append(FRAME * 5)
    create(driver)
    if end:
        driver.send(end)
    else:
        driver.session.fail(1, 1, driver.now)
        driver.pull()
    *_, created, done = steps(driver.events)
    assert (created, done) == (("created", 2, "in_progress", True), ("done", 2, status, True))


def test_the_last_item_can_be_truncated_after_the_response_of_a_request(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 50)
    driver.send("input_audio_buffer.commit")
    driver.run(1.1)
    create(driver)
    [truncated] = driver.send(
        "conversation.item.truncate", item_id="item_0a_a1", content_index=0, audio_end_ms=80
    )
    assert truncated["audio_end_ms"] == 80
    driver.append(FRAME * 50)
    # What was not played is gone: the whole window is free for the next response.
    assert [frame.response_ref for frame in driver.due()] == [0, *[3] * 25]
