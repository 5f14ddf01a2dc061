"""Which frames of an H.264 stream are keyframes, and what the client is told of the frames."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.protocol.frame_flow import MAX_UNSENT_BYTES, MAX_UNSENT_RAW_BYTES
from avatar_runtime.protocol.media import RawImage, VideoFrame
from avatar_runtime.protocol.session_config import Character, SessionConfig, VideoMode
from avatar_runtime.protocol.video_stream import VideoStream

if TYPE_CHECKING:
    from collections.abc import Callable

FPS = 25
RAW = RawImage(bytes(64 * 64 * 3 // 2), 64, 64)
H264 = {"video": {"mode": "h264"}}
CONFIG = SessionConfig(Character("anna", 64, 64), video=VideoMode.H264)

EVENTS = st.lists(
    st.sampled_from(["next", "next", "next", "next", "gap", "response", "epoch", "request",
                     "quality", "jpeg"]),
    max_size=200,
)  # fmt: skip


@given(EVENTS)
def test_a_frame_is_a_keyframe_exactly_where_it_must_not_depend_on_the_last(
    events: list[str],
) -> None:
    stream, config = VideoStream(FPS), CONFIG
    response, epoch, index = 1, 1, -1
    is_broken, since = True, 0
    for event in events:
        index += 1
        match event:
            case "gap":
                index += 1
            case "response":
                response, index = response + 1, 0
            case "epoch":
                epoch += 1
            case "request":
                stream.request_keyframe()
            case "quality":
                config = replace(config, quality=config.quality % 100 + 1)
        if event == "jpeg":
            frame = VideoFrame(index, b"jpeg", 0.0)
            assert stream.add(frame, response, epoch, config) is frame
            is_broken = True
            continue
        frame = stream.add(VideoFrame(index, RAW, 0.0), response, epoch, config)
        assert frame.encoding is not None
        assert (frame.encoding.quality, frame.encoding.bitrate) == (config.quality, config.bitrate)
        expected = is_broken or event != "next" or since == 2 * FPS
        assert frame.is_keyframe is frame.encoding.keyframe is expected
        is_broken, since = False, 1 if expected else since + 1


def test_the_frames_of_a_session_in_h264(connect: Callable[..., Any]) -> None:
    driver = connect()
    (updated,) = driver.update(avatar=H264)
    assert updated["session"]["avatar"]["video"]["mode"] == "h264"

    driver.append(bytes(2 * 960 * 10))
    driver.send("input_audio_buffer.commit")
    frames = driver.due()
    assert {frame.video for frame in frames} == {VideoMode.H264}
    for frame in frames:
        assert driver.deliver(frame, RAW)

    texts = []
    while (outgoing := driver.session.pull(driver.now)) is not None:
        if outgoing.frame is not None:
            sent = json.loads(outgoing.with_access_unit(b"unit"))
            assert sent == {**json.loads(outgoing.message), "delta": "dW5pdA=="}
            texts.append(sent)
            if len(texts) == 4:
                message = json.dumps({"type": "output_video_buffer.request_keyframe"})
                driver.session.receive(message, driver.now)
    assert [text["codec"] for text in texts] == ["h264"] * 10
    assert [text["mode"] for text in texts] == ["h264"] * 10
    assert [text["frame_index"] for text in texts if text["keyframe"]] == [0, 4]


def test_frames_that_were_requested_in_another_mode_are_sent_as_they_are(
    connect: Callable[..., Any],
) -> None:
    driver = connect()
    driver.append(bytes(2 * 960 * 12))
    driver.send("input_audio_buffer.commit")
    images = driver.due()
    driver.update(avatar=H264)
    for frame in images:
        driver.deliver(frame)
    sent = [event for event in driver.pull() if event["type"] == "response.video.delta"]
    assert [event["codec"] for event in sent] == ["jpeg"] * len(images)
    assert all(event["keyframe"] and event["delta"] for event in sent)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"mode": "h264", "resolution": {"width": 65, "height": 64}}, "width"),
        ({"mode": "h264", "resolution": {"width": 64, "height": 97}}, "height"),
    ],
)
def test_an_odd_resolution_is_refused_in_h264(
    asked: dict[str, Any], param: str, connect: Callable[..., Any]
) -> None:
    driver = connect()
    (refused,) = driver.update(avatar={"video": asked})
    path = f"session.avatar.video.resolution.{param}"
    assert refused["error"]["param"] == path
    assert refused["error"]["value"] == asked["resolution"][param]
    assert refused["error"]["limit"] == "even"

    # The same resolution is right for JPEG, and then refuses a change to h264.
    (updated,) = driver.update(avatar={"video": {**asked, "mode": "jpeg"}})
    assert updated["type"] == "session.updated"
    (refused,) = driver.update(avatar=H264)
    assert refused["error"]["param"] == path


def test_an_avatar_of_odd_size_loses_a_row_and_a_column(connect: Callable[..., Any]) -> None:
    driver = connect(Character("anna", 481, 641))
    (updated,) = driver.update(avatar=H264)
    shown = updated["session"]["avatar"]["video"]["resolution"]
    assert shown == {"width": 480, "height": 640}
    driver.append(bytes(2 * 960 * 5))
    driver.send("input_audio_buffer.commit")
    assert {(frame.width, frame.height) for frame in driver.due()} == {(480, 640)}


def test_raw_images_have_a_bound_of_their_own(connect: Callable[..., Any]) -> None:
    large = RawImage(bytes(MAX_UNSENT_BYTES - 1), 64, 64)
    driver = connect()
    driver.update(avatar=H264)
    driver.append(bytes(2 * 960 * 20))
    driver.send("input_audio_buffer.commit")
    frames = driver.due()
    assert len(frames) > MAX_UNSENT_RAW_BYTES // MAX_UNSENT_BYTES + 1
    for frame in frames:  # nothing is pulled: the socket is slow
        driver.deliver(frame, large)
    sent = driver.pull()
    shown = [event for event in sent if event["type"] == "response.video.delta"]
    dropped = [event for event in sent if event["type"] == "response.video.dropped"]
    assert len(shown) == MAX_UNSENT_RAW_BYTES // len(large.planes)
    assert {event["reason"] for event in dropped} == {"slow_client"}
    assert shown[0]["keyframe"]


@pytest.mark.parametrize("asked", [["audio", "avatar"], ["audio"]])
def test_naming_the_modalities_keeps_the_mode(
    asked: list[str], connect: Callable[..., Any]
) -> None:
    driver = connect()
    driver.update(avatar=H264)
    updated = driver.update(output_modalities=asked)[0]
    assert updated["session"]["avatar"]["video"]["mode"] == "h264"
