"""The fields that `session.update` accepts, and their effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.protocol.session_config import Character, Crop, source_position

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect


def test_an_update_applies_to_the_next_frames(connect: Connect) -> None:
    driver = connect()
    video = {"quality": 55, "bitrate": 500_000, "resolution": {"width": 128, "height": 130}}
    flow = {"mode": "clock", "window_ms": 400, "overrun": "pause"}
    [updated] = driver.update(avatar={"character": "ben", "video": video, "flow": flow})
    shown = updated["session"]["avatar"]
    assert shown["character"] == "ben"
    assert shown["video"]["quality"] == 55
    assert shown["flow"] == flow
    driver.append(bytes(1920 * 50))
    frames = driver.due()
    assert len(frames) == 10  # 400 ms
    assert {(f.avatar, f.quality, f.width, f.height) for f in frames} == {("ben", 55, 128, 130)}


def test_frames_have_the_size_of_the_avatar_by_default(connect: Connect) -> None:
    driver = connect()
    [updated] = driver.update(avatar={"character": "ben"})
    size = updated["session"]["avatar"]["video"]["resolution"]
    assert size == {"width": 256, "height": 320}


@given(
    fps=st.sampled_from([10, 16, 20, 25]),
    source_fps=st.integers(1, 120),
    position=st.integers(0, 10**7),
)
def test_the_source_video_plays_at_its_own_speed(fps: int, source_fps: int, position: int) -> None:
    shown = source_position(position, fps, source_fps)
    after = source_position(position + 1, fps, source_fps)

    assert shown <= position * source_fps / fps < shown + 1
    assert after - shown in {source_fps // fps, -(-source_fps // fps)}


def test_equal_rates_show_every_frame() -> None:
    assert [source_position(k, 25, 25) for k in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("fps", "expected"), [(50, [0, 2, 4, 6]), (12, [0, 0, 0, 1, 1, 2])])
def test_frames_are_taken_from_the_source_by_time(
    connect: Connect, fps: int, expected: list[int]
) -> None:
    driver = connect(anna=Character("anna", 192, 192, fps=fps, key="anna@1"))
    driver.append(bytes(1920 * 9))
    frames = driver.due()

    assert [frame.source_frame for frame in frames][: len(expected)] == expected
    assert {frame.avatar for frame in frames} == {"anna@1"}


def test_a_session_reports_the_disclosure_and_accepts_it_back(connect: Connect) -> None:
    driver = connect(anna=Character("anna", 192, 192, disclosure="AI generated"))
    [updated] = driver.update()
    shown = updated["session"]["avatar"]
    assert shown["disclosure"] == "AI generated"

    [updated] = driver.update(avatar={"disclosure": shown["disclosure"]})
    assert updated["type"] == "session.updated"

    updated, warning = driver.update(avatar={"disclosure": "none"})
    assert updated["session"]["avatar"]["disclosure"] == "AI generated"
    assert warning["warning"]["param"] == "session.avatar.disclosure"

    [updated] = driver.update(avatar={"character": "ben"})
    assert "disclosure" not in updated["session"]["avatar"]


def test_a_session_reports_the_version_of_its_avatar(connect: Connect) -> None:
    driver = connect(anna=Character("anna", 192, 192, key="anna@0123456789abcdef"))
    [updated] = driver.update()
    assert updated["session"]["avatar"]["version"] == "0123456789abcdef"
    updated, warning = driver.update(avatar={"version": "other"})
    assert updated["session"]["avatar"]["version"] == "0123456789abcdef"
    assert warning["warning"]["param"] == "session.avatar.version"
    [updated] = driver.update(avatar={"character": "ben"})
    assert "version" not in updated["session"]["avatar"]


def test_an_invalid_field_reverts_the_valid_ones_of_the_update(connect: Connect) -> None:
    driver = connect()
    [error] = driver.update(avatar={"character": "ben", "video": {"quality": 0}})
    assert error["type"] == "error"
    [updated] = driver.update()
    assert updated["session"]["avatar"]["character"] == "anna"


@pytest.mark.parametrize(
    ("given", "shown", "samples_per_frame", "width"),
    [
        ({"type": "audio/pcm"}, {"type": "audio/pcm", "rate": 24000}, 960, 2),
        ({"type": "audio/pcm", "rate": 16000}, {"type": "audio/pcm", "rate": 16000}, 640, 2),
        ({"type": "audio/pcmu"}, {"type": "audio/pcmu"}, 320, 1),
        ({"type": "audio/pcma", "rate": 8000}, {"type": "audio/pcma"}, 320, 1),
    ],
    ids=["pcm 24k", "pcm 16k", "mu-law", "A-law"],
)
def test_the_output_has_the_format_of_the_input(
    connect: Connect, given: object, shown: object, samples_per_frame: int, width: int
) -> None:
    driver = connect()
    [updated] = driver.update(audio={"input": {"format": given}, "output": {"format": given}})
    audio = updated["session"]["audio"]
    assert (audio["input"]["format"], audio["output"]["format"]) == (shown, shown)
    assert updated["session"]["avatar"]["samples_per_frame"] == samples_per_frame
    driver.append(bytes(samples_per_frame * width * 4))
    driver.send("input_audio_buffer.commit")
    frames = [e for e in driver.make() if e["type"] == "response.video.delta"]
    assert [f["offset_samples"] for f in frames] == [i * samples_per_frame for i in range(4)]
    assert [f["pts_ms"] for f in frames] == [0, 40, 80, 120]


def test_openai_fields_without_effect_are_returned_unchanged(connect: Connect) -> None:
    driver = connect()
    driver.update(
        instructions="be kind",
        tools=[],
        audio={"input": {"noise_reduction": None}, "output": {"voice": "marin", "speed": 1.0}},
    )
    updated, warning = driver.update(instructions="be brief")
    session = updated["session"]
    assert warning["warning"]["message"] == "session.instructions has no effect"
    assert (session["instructions"], session["tools"]) == ("be brief", [])
    assert session["audio"]["input"]["noise_reduction"] is None
    assert session["audio"]["output"]["voice"] == "marin"


def test_the_size_of_the_stored_fields_is_limited(connect: Connect) -> None:
    driver = connect()
    driver.update(instructions="x" * 60_000)
    [error] = driver.update(tools=["y" * 10_000])
    assert (error["error"]["code"], error["error"]["limit"]) == ("invalid_value", 65_536)


def test_a_session_object_can_be_sent_back_unchanged(connect: Connect) -> None:
    driver = connect()
    session = dict(driver.events[0]["session"])
    answers = driver.send("session.update", session=session)
    assert [answer["type"] for answer in answers] == ["session.updated"]
    assert answers[0]["session"] == session


def test_azure_fields_and_read_only_fields_give_warnings(connect: Connect) -> None:
    driver = connect()
    answers = driver.send(
        "session.update",
        event_id="evt_1",
        session={
            "type": "realtime",
            "model": "gpt-realtime",
            "avatar": {"style": "casual", "ice_servers": [], "fps": 30},
        },
    )
    assert answers[0]["type"] == "session.updated"
    warnings = [answer["warning"] for answer in answers[1:]]
    assert {warning["param"] for warning in warnings} == {
        "session.model",
        "session.avatar.fps",
        "session.avatar.style",
        "session.avatar.ice_servers",
    }
    assert {(w["code"], w["event_id"]) for w in warnings} == {("no_effect", "evt_1")}
    assert answers[0]["session"]["model"] == "acme/concierge"


CROP = {"top_left": [40, 20], "bottom_right": [240, 183]}


def test_a_crop_sets_the_part_and_the_size_of_the_frames(connect: Connect) -> None:
    driver = connect()
    [updated] = driver.update(avatar={"idle": "stream", "video": {"crop": CROP}})
    video = updated["session"]["avatar"]["video"]
    assert video["crop"] == CROP
    assert video["resolution"] == {"width": 200, "height": 163}
    driver.append(bytes(1920 * 10))
    frames = driver.due()
    assert {(f.crop, f.width, f.height) for f in frames} == {(Crop(40, 20, 240, 183), 200, 163)}

    [updated] = driver.update(avatar={"video": {"mode": "h264"}})
    video = updated["session"]["avatar"]["video"]
    assert video["resolution"] == {"width": 200, "height": 162}
    resolution = {"width": 400, "height": 320}
    [updated] = driver.update(avatar={"video": {"resolution": resolution}})
    assert updated["session"]["avatar"]["video"]["resolution"] == resolution
    [updated] = driver.update(avatar={"video": {"crop": None}})
    assert updated["session"]["avatar"]["video"]["crop"] is None


@pytest.mark.parametrize(
    ("crop", "code", "param"),
    [
        ({"left": 1}, "missing_field", "crop.top_left"),
        ([0, 0, 100, 100], "invalid_type", "crop"),
        ({**CROP, "top_left": [1]}, "invalid_value", "crop.top_left"),
        ({**CROP, "top_left": [-1, 0]}, "invalid_value", "crop.top_left"),
        ({**CROP, "top_left": [0.5, 0]}, "invalid_value", "crop.top_left"),
        ({**CROP, "top_left": "0,0"}, "invalid_type", "crop.top_left"),
        ({**CROP, "bottom_right": [103, 183]}, "invalid_value", "crop.bottom_right"),
        ({**CROP, "bottom_right": [10, 10]}, "invalid_value", "crop.bottom_right"),
        ({**CROP, "bottom_right": [385, 183]}, "invalid_value", "crop.bottom_right"),
    ],
)
def test_a_wrong_crop_changes_nothing(
    connect: Connect, crop: object, code: str, param: str
) -> None:
    driver = connect()
    [refused] = driver.update(avatar={"video": {"quality": 5, "crop": crop}})
    assert (refused["error"]["code"], refused["error"]["param"]) == (
        code,
        f"session.avatar.video.{param}",
    )
    [updated] = driver.update()
    assert updated["session"]["avatar"]["video"]["crop"] is None
    assert updated["session"]["avatar"]["video"]["quality"] == 80


def test_a_crop_must_fit_the_avatar_that_is_selected_later(connect: Connect) -> None:
    driver = connect()
    wide = {"top_left": [0, 0], "bottom_right": [384, 100]}
    driver.update(avatar={"video": {"crop": wide}})
    [refused] = driver.update(avatar={"character": "ben"})
    assert refused["error"]["param"] == "session.avatar.video.crop.bottom_right"
    assert refused["error"]["limit"] == [256, 320]
    [updated] = driver.update(avatar={"character": "ben", "video": {"crop": None}})
    assert updated["session"]["avatar"]["character"] == "ben"
