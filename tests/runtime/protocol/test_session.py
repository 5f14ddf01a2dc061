"""The events of a session in order.

They follow docs/wire-protocol.md, "Drive mode", "Interruption" and "Example session".
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect, Event, SessionDriver

S = 960  # samples of a frame at 24 kHz
FRAME = bytes(2 * S)


def kinds(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def of(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["type"] == kind]


def sound_of(events: list[Event]) -> bytes:
    deltas = of(events, "response.output_audio.delta")
    return b"".join(base64.b64decode(delta["delta"]) for delta in deltas)


def spoken(connect: Connect, frames: int) -> SessionDriver:
    """Return a session that has sent `frames` frames of its open utterance."""
    driver = connect()
    driver.append(FRAME * (frames + 2))
    driver.make()
    assert len(of(driver.events, "response.video.delta")) == frames
    return driver


def test_a_new_session_describes_its_defaults_and_read_only_fields(connect: Connect) -> None:
    created = connect().events[0]
    session = created["session"]
    assert (created["seq"], created["resume"]) == (1, None)
    assert session["id"] == "sess_0a"
    assert session["object"] == "realtime.session"
    assert session["model"] == "acme/concierge"
    assert session["expires_at"] == 1_800_000_000
    assert session["output_modalities"] == ["audio"]
    assert session["audio"] == {
        "input": {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": None},
        "output": {"format": {"type": "audio/pcm", "rate": 24000}},
    }
    assert session["avatar"] == {
        "character": "anna",
        "output_protocol": "websocket",
        "video": {
            "mode": "jpeg",
            "quality": 80,
            "bitrate": 2_000_000,
            "region": "full",
            "resolution": {"width": 384, "height": 384},
            "crop": None,
        },
        "background": None,
        "audio_deltas": True,
        "idle": "none",
        "transport": "json",
        "flow": {"mode": "clock", "window_ms": 1000, "overrun": "drop"},
        "drive": {"start": "append"},
        "fps": 25,
        "samples_per_frame": 960,
    }


def test_drive_mode_sends_the_events_of_the_first_example(connect: Connect) -> None:
    driver = connect()
    driver.update(avatar={"character": "anna", "video": {"mode": "jpeg"}})
    driver.append(bytes(range(250)) * 16 + bytes(800))
    assert driver.due() == []  # frame 0 needs 120 ms of audio or the commit
    driver.send("input_audio_buffer.commit")
    driver.make()
    driver.send("output_video_buffer.ack", response_id="resp_0a_1", pts_ms=100, seq=22)
    assert kinds(driver.events) == [
        "session.created",
        "conversation.created",
        "session.updated",
        "conversation.item.added",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "input_audio_buffer.committed",
        "conversation.item.done",
        "output_audio_buffer.started",
        "session.avatar.switch_to_speaking",
        "response.output_audio.delta",
        "response.video.delta",
        "response.video.delta",
        "response.video.delta",
        "response.output_audio.done",
        "response.video.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
        "output_audio_buffer.stopped",
        "session.avatar.switch_to_idle",
    ]
    by_seq = {event["seq"]: event for event in driver.events}
    assert sorted(by_seq) == list(range(1, 25))
    assert len({event["event_id"] for event in driver.events}) == 24
    assert (by_seq[5]["response_ref"], by_seq[5]["epoch"]) == (1, 1)
    assert by_seq[5]["response"]["status"] == "in_progress"
    assert by_seq[6]["item"]["id"] == by_seq[7]["item"]["id"] == "item_0a_a1"
    assert by_seq[7]["previous_item_id"] == "item_0a_u1"
    assert by_seq[4]["item"]["id"] == by_seq[9]["item_id"] == by_seq[10]["item"]["id"]
    assert by_seq[9]["previous_item_id"] is None
    assert len(base64.b64decode(by_seq[13]["delta"])) == 2 * 2400
    assert (by_seq[13]["offset_samples"], by_seq[13]["pts_ms"]) == (0, 0)
    for seq, index in ((14, 0), (15, 1), (16, 2)):
        frame = by_seq[seq]
        assert (frame["frame_index"], frame["pts_ms"], frame["offset_samples"]) == (
            index,
            40 * index,
            960 * index,
        )
        assert (frame["keyframe"], frame["epoch"], frame["codec"]) == (True, 1, "jpeg")
        assert base64.b64decode(frame["delta"]) == b"jpeg %d" % index
    done = by_seq[18]
    assert (done["status"], done["frames"], done["dropped"]) == ("completed", 3, 0)
    assert (done["audio_samples"], done["audio_ms"], done["video_ms"]) == (2400, 100, 120)
    assert by_seq[22]["response"]["status"] == "completed"
    assert by_seq[22]["response"]["output"][0]["status"] == "completed"


def test_a_frame_is_due_when_its_audio_is_complete(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 2)
    assert driver.due() == []
    driver.append(FRAME)
    assert [frame.frame_index for frame in driver.due()] == [0]


def test_the_first_frame_of_each_response_says_since_when_it_could_be_generated(
    connect: Connect,
) -> None:
    driver = connect()
    start = driver.now
    driver.append(FRAME * 3)
    driver.now += 0.1
    driver.append(FRAME * 3)
    driver.send("input_audio_buffer.commit")
    driver.append(FRAME * 4)  # its response waits for the first one
    driver.send("input_audio_buffer.commit")
    since = []
    for _ in range(2):
        driver.now += 0.3
        for frame in driver.due():
            assert driver.deliver(frame)
        while (outgoing := driver.session.pull(driver.now)) is not None:
            if outgoing.frame is not None:
                since.append((outgoing.frame.frame_index, outgoing.speakable_at))
    assert since[0] == (0, start)
    assert since[6] == (0, start + 0.4)  # the time at which the first response ended
    assert [at for index, at in since if index] == [None] * 8


def test_the_end_of_playback_is_reported_by_the_clock(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 5)
    driver.send("input_audio_buffer.commit")
    driver.make()
    assert driver.session.wakeup() == pytest.approx(driver.now + 0.2)
    driver.now += 0.19
    driver.session.tick(driver.now)
    assert driver.pull() == []
    driver.now += 0.02
    driver.session.tick(driver.now)
    stopped, idle = driver.pull()
    assert (stopped["type"], stopped["response_id"]) == ("output_audio_buffer.stopped", "resp_0a_1")
    assert (idle["type"], idle["turn_id"]) == ("session.avatar.switch_to_idle", "resp_0a_1")


def test_response_create_after_a_commit_starts_nothing_new(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 4)
    driver.send("input_audio_buffer.commit")
    assert driver.send("response.create") == []
    driver.make()
    assert len(of(driver.events, "response.created")) == 1
    assert len(of(driver.events, "response.done")) == 1


def test_with_start_response_create_only_requested_utterances_are_spoken(connect: Connect) -> None:
    driver = connect()
    driver.update(avatar={"drive": {"start": "response.create"}})
    assert driver.append(FRAME * 10) == []
    assert kinds(driver.send("input_audio_buffer.commit"))[0] == "input_audio_buffer.committed"
    assert driver.due() == []
    assert kinds(driver.send("response.create"))[0] == "response.created"
    assert len(driver.due()) == 10


def test_a_later_utterance_waits_for_the_end_of_the_active_response(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 4)
    driver.send("input_audio_buffer.commit")
    assert driver.append(FRAME * 4) == []
    assert kinds(driver.send("input_audio_buffer.commit"))[0] == "input_audio_buffer.committed"
    driver.make()
    order = [e["type"] for e in driver.events if e["type"] in ("response.created", "response.done")]
    assert order == ["response.created", "response.done", "response.created"]
    driver.make()
    assert [e["response"]["id"] for e in of(driver.events, "response.done")] == [
        "resp_0a_1",
        "resp_0a_2",
    ]


def test_the_source_video_continues_in_the_next_response(connect: Connect) -> None:
    driver = connect()
    for _ in range(2):
        driver.append(FRAME * 4)
        driver.send("input_audio_buffer.commit")
    first = driver.due()
    driver.make(first)
    assert [frame.source_frame for frame in first] == [0, 1, 2, 3]
    assert [frame.source_frame for frame in driver.due()] == [4, 5, 6, 7]


def test_input_clear_discards_only_utterances_that_have_not_started(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 4)
    driver.send("input_audio_buffer.commit")
    driver.append(FRAME * 4)
    assert kinds(driver.send("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    driver.make()
    assert len(of(driver.events, "response.created")) == 1
    assert driver.events[-1]["type"] == "response.done"
    [error] = driver.send("response.create")
    assert error["error"]["code"] == "no_input_audio"


def test_a_cancel_ends_the_response_in_order_and_raises_the_epoch(connect: Connect) -> None:
    driver = spoken(connect, 5)
    answer = driver.send("response.cancel", response_id="resp_0a_1")
    assert kinds(answer) == [
        "conversation.item.done",
        "response.output_audio.done",
        "response.video.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    user, video, item, done = answer[0], answer[2], answer[4], answer[6]
    assert (user["item"]["id"], user["item"]["status"]) == ("item_0a_u1", "incomplete")
    assert (video["status"], video["frames"], video["epoch"]) == ("cancelled", 5, 2)
    assert item["item"]["status"] == "incomplete"
    assert (done["response"]["status"], done["epoch"]) == ("cancelled", 2)
    assert done["response"]["status_details"]["reason"] == "client_cancelled"


def test_no_media_of_the_old_epoch_follows_a_cancel(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 20)
    frames = driver.due()
    for frame in frames[:10]:
        driver.deliver(frame)  # delivered, not sent
    driver.session.receive('{"type": "response.cancel"}', driver.now)
    after = driver.pull()
    assert not any(driver.deliver(frame) for frame in frames[10:])  # late results
    assert not [e for e in after + driver.pull() if e["type"].endswith(".delta")]


def test_an_interruption_sends_the_events_of_the_second_example(connect: Connect) -> None:
    driver = spoken(connect, 25)
    driver.now += 0.6
    driver.send("response.cancel")
    [cleared, idle] = driver.send("output_audio_buffer.clear")
    [truncated] = driver.send(
        "conversation.item.truncate", item_id="item_0a_a1", content_index=0, audio_end_ms=600
    )
    created = driver.append(FRAME)[1]
    assert (cleared["response_id"], cleared["epoch"]) == ("resp_0a_1", 3)
    assert idle["type"] == "session.avatar.switch_to_idle"
    assert (truncated["item_id"], truncated["audio_end_ms"]) == ("item_0a_a1", 600)
    assert (created["response"]["id"], created["epoch"]) == ("resp_0a_2", 3)


def test_output_clear_cancels_first_and_a_second_one_is_acknowledged(connect: Connect) -> None:
    driver = spoken(connect, 5)
    first = driver.send("output_audio_buffer.clear")
    assert kinds(first)[-3:] == [
        "response.done",
        "output_audio_buffer.cleared",
        "session.avatar.switch_to_idle",
    ]
    assert first[-2]["epoch"] == 2
    [second] = driver.send("output_audio_buffer.clear")
    assert (second["type"], second["epoch"]) == ("output_audio_buffer.cleared", 3)


def test_truncating_the_item_of_the_active_response_cancels_it_first(connect: Connect) -> None:
    driver = spoken(connect, 10)
    answer = driver.send(
        "conversation.item.truncate", item_id="item_0a_a1", content_index=0, audio_end_ms=400
    )
    assert kinds(answer)[-2:] == ["response.done", "conversation.item.truncated"]


@pytest.mark.parametrize(
    ("stop", "at_once"),
    [
        ([("response.cancel", {})], 2),
        ([("output_audio_buffer.clear", {})], 25),
        (
            [
                ("response.cancel", {}),
                (
                    "conversation.item.truncate",
                    {"item_id": "item_0a_a1", "content_index": 0, "audio_end_ms": 80},
                ),
            ],
            25,
        ),
    ],
    ids=["still playing", "cleared", "truncated"],
)
def test_the_next_response_has_a_full_window_after_playback_has_stopped(
    connect: Connect, stop: list[tuple[str, dict[str, Any]]], at_once: int
) -> None:
    driver = spoken(connect, 25)
    driver.now += 0.08
    for kind, fields in stop:
        driver.send(kind, **fields)
    driver.append(FRAME * 40)
    assert len([frame for frame in driver.due() if frame.response_ref]) == at_once


def test_frames_that_were_not_sent_do_not_count_in_the_next_window(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 40)
    for frame in driver.due():
        driver.deliver(frame)  # delivered, and not sent
    driver.send("response.cancel")
    driver.append(FRAME * 40)
    assert len(driver.due()) == 25


def test_a_frame_behind_a_missing_one_is_not_sent_and_not_counted_as_played(
    connect: Connect,
) -> None:
    driver = connect()
    driver.append(FRAME * 80)
    asked = driver.due()
    for silent in asked[5:]:
        assert driver.deliver(silent)  # delivered before the first five
    driver.now += 0.8
    assert driver.pull() == []
    assert driver.due() == []  # nothing was played, so that the window has no room

    driver.make(asked[:5])
    video = [e["frame_index"] for e in driver.events if e["type"] == "response.video.delta"]
    assert video == list(range(25))
    assert not [e for e in driver.events if e["type"] == "response.video.dropped"]
    driver.now += 0.08
    assert len(driver.due()) == 2


def test_items_can_be_read_and_deleted(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 4)
    driver.send("input_audio_buffer.commit")
    driver.make()
    [got] = driver.send("conversation.item.retrieve", item_id="item_0a_u1")
    assert (got["item"]["role"], got["item"]["content"][0]["type"]) == ("user", "input_audio")
    [gone] = driver.send("conversation.item.delete", item_id="item_0a_u1")
    assert (gone["type"], gone["item_id"]) == ("conversation.item.deleted", "item_0a_u1")
    [error] = driver.send("conversation.item.retrieve", item_id="item_0a_u1")
    assert error["error"]["code"] == "item_not_found"


def test_a_failed_batch_ends_the_response_and_not_the_session(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 5)
    [frame, *_] = driver.due()
    driver.session.fail(frame.response_ref, frame.epoch, driver.now)
    events = driver.pull()
    assert (events[0]["error"]["type"], events[0]["error"]["code"]) == (
        "server_error",
        "internal_error",
    )
    assert of(events, "response.video.done")[0]["status"] == "failed"
    assert events[-1]["response"]["status"] == "failed"
    assert kinds(driver.append(FRAME))[1] == "response.created"


@pytest.mark.parametrize(
    "end",
    [
        lambda driver: driver.session.fail(1, 1, driver.now),
        lambda driver: driver.send("response.cancel"),
        lambda driver: driver.send("output_audio_buffer.clear"),
        lambda driver: driver.send(
            "conversation.item.truncate", item_id="item_0a_a1", content_index=0, audio_end_ms=0
        ),
    ],
    ids=["fail", "cancel", "clear", "truncate"],
)
def test_a_waiting_utterance_starts_when_the_active_response_ends_early(
    connect: Connect, end: Any
) -> None:
    driver = connect()
    driver.append(FRAME * 5)
    driver.send("input_audio_buffer.commit")
    driver.append(FRAME * 5)
    end(driver)
    driver.pull()
    assert [event["response_ref"] for event in of(driver.events, "response.created")] == [1, 2]
    assert driver.session.is_speaking
    assert {frame.response_ref for frame in driver.due()} == {2}


def test_a_failure_of_an_older_response_is_ignored(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 5)
    [frame, *_] = driver.due()
    driver.send("response.cancel")
    driver.append(FRAME * 5)
    driver.session.fail(frame.response_ref, frame.epoch, driver.now)
    assert driver.pull() == []
    assert driver.session.is_speaking


def test_the_first_window_is_sent_immediately_and_the_rest_in_real_time(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 200)
    driver.make()
    driver.make()
    assert len(of(driver.events, "response.video.delta")) == 25
    next_due = driver.session.next_due()
    assert next_due == pytest.approx(driver.now + 0.04)
    driver.run(2.0)
    sent = len(of(driver.events, "response.video.delta"))
    assert 74 <= sent <= 76


def test_media_is_never_more_than_a_window_ahead_over_several_responses(connect: Connect) -> None:
    driver = connect()
    driver.update(avatar={"flow": {"window_ms": 400}})
    for _ in range(5):
        driver.append(FRAME * 8)
        driver.send("input_audio_buffer.commit")
    began = driver.now
    for _ in range(200):
        driver.run(0.02)
        sent_ms = 40 * len(of(driver.events, "response.video.delta"))
        assert sent_ms - 1000 * (driver.now - began) <= 400 + 40
    assert len(of(driver.events, "response.done")) == 5
    assert of(driver.events, "response.video.dropped") == []


def test_a_client_that_has_played_everything_gets_at_most_a_window(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 4)
    driver.make()
    driver.now += 60.0  # everything was played
    driver.append(FRAME * 100)
    for _ in range(3):
        driver.make()
    assert len(of(driver.events, "response.video.delta")) == 2 + 25


def test_a_slow_socket_loses_frames_and_no_audio(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 100)
    driver.send("input_audio_buffer.commit")
    taken = len(driver.events)
    while driver.session.is_speaking and driver.now < 1010.0:
        for frame in driver.due():
            driver.deliver(frame)
        driver.now += 0.04
    driver.make()
    events = driver.events[taken:]
    gaps = of(events, "response.video.dropped")
    assert gaps
    assert {gap["reason"] for gap in gaps} == {"slow_client"}
    dropped = sum(gap["last_frame_index"] - gap["first_frame_index"] + 1 for gap in gaps)
    done = of(events, "response.video.done")[0]
    assert (done["frames"] + done["dropped"], done["dropped"]) == (100, dropped)
    assert sound_of(events) == FRAME * 100
    assert_media_order(events)


def test_overrun_counts_bytes_as_well(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 30)
    for frame in driver.due():
        driver.deliver(frame, bytes(1024 * 1024))
    driver.pull()
    assert of(driver.events, "response.video.dropped")[0]["first_frame_index"] == 0
    assert len(of(driver.events, "response.video.delta")) == 4


def test_overrun_pause_requests_no_frames_until_the_socket_has_room(connect: Connect) -> None:
    driver = connect()
    driver.update(avatar={"flow": {"overrun": "pause"}})
    driver.append(FRAME * 100)
    made = 0
    for _ in range(100):
        for frame in driver.due():
            made += driver.deliver(frame)
        driver.now += 0.04
    assert made == 25
    driver.pull()
    assert of(driver.events, "response.video.dropped") == []
    assert len(driver.due()) > 0


def test_audio_deltas_can_be_turned_off(connect: Connect) -> None:
    driver = connect()
    driver.update(avatar={"audio_deltas": False})
    driver.append(FRAME * 4)
    driver.send("input_audio_buffer.commit")
    driver.make()
    assert of(driver.events, "response.output_audio.delta") == []
    assert len(of(driver.events, "response.video.delta")) == 4
    assert driver.events[-1]["type"] == "response.done"


def test_an_idle_session_ends_and_a_speaking_one_does_not(connect: Connect) -> None:
    driver = connect(idle_timeout_s=10.0)
    driver.append(FRAME * 25 * 30)
    driver.run(25.0, step=0.2)
    assert driver.session.closing is None
    driver.send("response.cancel")
    driver.now += 10.0
    driver.session.tick(driver.now)
    assert driver.session.closing is not None
    assert driver.session.closing.code == 4408


def test_a_session_at_its_maximum_duration_ends_with_its_response(connect: Connect) -> None:
    driver = connect(max_duration_s=5.0)
    driver.append(FRAME * 25 * 30)
    events = driver.run(5.1)
    assert driver.session.closing is not None
    assert driver.session.closing.code == 4410
    assert events[-1]["type"] == "response.done"
    assert events[-1]["response"]["status_details"]["error"]["code"] == "session_ended"
    assert driver.append(FRAME) == []  # the session ignores all messages now


def test_a_client_that_does_not_read_is_not_read(connect: Connect) -> None:
    driver = connect()
    update = json.dumps(
        {"type": "session.update", "session": {"type": "realtime", "instructions": "x" * 60_000}}
    )
    for _ in range(18):
        assert driver.session.can_receive
        driver.session.receive(update, driver.now)
    assert not driver.session.can_receive
    driver.pull()
    assert driver.session.can_receive


# docs/wire-protocol.md, "Guarantees", numbers 1 to 4 and 6


def assert_media_order(events: list[Event]) -> None:
    """Check that audio precedes its frame, and that numbers increase without repeats."""
    sound_until: dict[str, int] = {}
    last_frame: dict[str, int] = {}
    seq = 0
    for event in events:
        assert seq == 0 or event["seq"] == seq + 1
        seq = event["seq"]
        if event["type"] == "response.output_audio.delta":
            response, offset = event["response_id"], event["offset_samples"]
            assert offset == sound_until.get(response, 0)
            sound_until[response] = offset + len(base64.b64decode(event["delta"])) // 2
        elif event["type"] == "response.video.dropped":
            assert event["first_frame_index"] == last_frame.get(event["response_id"], -1) + 1
            last_frame[event["response_id"]] = event["last_frame_index"]
        elif event["type"] == "response.video.delta" and event["idle"]:
            assert event["response_id"] is None
        elif event["type"] == "response.video.delta":
            response, index = event["response_id"], event["frame_index"]
            assert index == last_frame.get(response, -1) + 1
            last_frame[response] = index
            assert event["offset_samples"] == index * S
            assert event["pts_ms"] == index * 40
            whole = sound_until[response] >= (index + 1) * S
            assert whole or sound_until[response] % S  # only the last frame may have partial audio


splits = st.lists(st.integers(min_value=1, max_value=4000), min_size=1, max_size=25)


@given(sizes=splits, pauses=st.lists(st.floats(0, 0.3), max_size=25), turns=st.integers(1, 3))
@settings(max_examples=60)
def test_any_chunking_and_timing_gives_the_same_media(
    connect: Connect, sizes: list[int], pauses: list[float], turns: int
) -> None:
    driver = connect()
    sent: list[bytes] = []
    for turn in range(turns):
        sound = b"".join(bytes([turn + 1, index % 256]) * size for index, size in enumerate(sizes))
        position = 0
        for index, size in enumerate(sizes):
            driver.append(sound[position : position + 2 * size])
            position += 2 * size
            if index < len(pauses):
                driver.now += pauses[index]
            driver.make()
        driver.send("input_audio_buffer.commit")
        sent.append(sound)
    while driver.session.is_speaking:
        driver.run(0.1)
    assert_media_order(driver.events)
    for sound, done in zip(sent, of(driver.events, "response.video.done"), strict=True):
        mine = [e for e in driver.events if e.get("response_id") == done["response_id"]]
        assert sound_of(mine) == sound
        pictures = of(mine, "response.video.delta")
        assert [base64.b64decode(p["delta"]) for p in pictures] == [
            b"jpeg %d" % index for index in range(-(-len(sound) // (2 * S)))
        ]
        assert done["frames"] == len(pictures)


commands = st.sampled_from(
    [
        ("input_audio_buffer.append", {"audio": base64.b64encode(FRAME * 7).decode()}),
        ("input_audio_buffer.append", {"audio": base64.b64encode(b"\x00\x20" * S * 5).decode()}),
        ("input_audio_buffer.commit", {}),
        ("input_audio_buffer.clear", {}),
        ("output_audio_buffer.clear", {}),
        ("response.create", {}),
        ("response.cancel", {}),
        ("conversation.item.truncate", {"item_id": "item_0a_a1", "content_index": 0,
                                        "audio_end_ms": 40}),
        ("make", {}),
        ("socket", {}),
        ("wait", {}),
    ]
)  # fmt: skip
ANSWERED = {
    "input_audio_buffer.commit": "input_audio_buffer.committed",
    "input_audio_buffer.clear": "input_audio_buffer.cleared",
    "output_audio_buffer.clear": "output_audio_buffer.cleared",
    "response.cancel": "response.done",
    "conversation.item.truncate": "conversation.item.truncated",
}


starts = st.sampled_from(["append", "commit", "response.create", "server_vad"])


@given(script=st.lists(commands, max_size=60), start=starts)
@settings(max_examples=150)
def test_every_request_is_answered_and_every_response_done_once(
    connect: Connect, script: list[tuple[str, dict[str, Any]]], start: str
) -> None:
    driver = connect()
    if start == "server_vad":
        driver.update(audio={"input": {"turn_detection": {"type": start}}})
    else:
        driver.update(avatar={"drive": {"start": start}})
    in_flight = []
    for kind, fields in script:
        before = len(driver.events)
        if kind == "make":
            in_flight += driver.due()
            for frame in in_flight[::2]:
                driver.deliver(frame)
            in_flight = in_flight[1::2]
        elif kind == "socket":
            driver.pull()
        elif kind == "wait":
            driver.now += 0.1
        else:
            answers = driver.send(kind, **fields)
            answered = [e for e in answers if e["type"] in (ANSWERED.get(kind), "error")]
            assert len(answered) == 1 or kind not in ANSWERED, (kind, answers)
        assert_epochs(driver.events[before:], driver)
    for frame in in_flight:
        driver.deliver(frame)
    driver.session.end(1000, "over", driver.now)
    driver.pull()
    created = [e["response"]["id"] for e in of(driver.events, "response.created")]
    done = [e["response"]["id"] for e in of(driver.events, "response.done")]
    assert created == done
    assert_media_order(driver.events)


def assert_epochs(events: list[Event], driver: SessionDriver) -> None:
    epochs = [e["epoch"] for e in events if "epoch" in e]
    assert epochs == sorted(epochs)
    assert all(epoch <= driver.session.epoch for epoch in epochs)
