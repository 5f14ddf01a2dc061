"""Frames that show only what differs from the avatar in silence."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from avatar_client.binary_media import BinaryMediaReader
from avatar_contracts.binary_messages import Flag, unpack, unpack_patch
from avatar_runtime.protocol.media import PatchImage
from avatar_runtime.protocol.session_config import Character

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect, Event, SessionDriver

FRAME = bytes(2 * 960)
ANNA = Character("anna b", 384, 256, key="anna b@0123456789abcdef", frames=50)
PATCH = PatchImage(b"a patch", (16, 32, 48, 64), 7)
NOTHING = PatchImage(b"", (0, 0, 0, 0), 8)


def asked(connect: Connect, **avatar: Any) -> tuple[SessionDriver, Event]:
    driver = connect(ANNA)
    video = {"region": "patch", **avatar.pop("video", {})}
    [updated] = driver.update(avatar={"video": video, **avatar})
    return driver, updated["session"]["avatar"]


def said(driver: SessionDriver, *images: PatchImage) -> list[str | bytes]:
    """Return the messages with media of a response with these images."""
    audio = base64.b64encode(FRAME * len(images)).decode()
    driver.send("input_audio_buffer.append", audio=audio)
    driver.send("input_audio_buffer.commit")
    for due, image in zip(driver.due(), images, strict=True):
        assert due.is_patch
        driver.deliver(due, image)
    taken = []
    while (outgoing := driver.session.pull(driver.now)) is not None:
        if outgoing.frame is not None:
            taken.append(outgoing.message)
    return taken


def test_the_session_says_where_the_pictures_below_come_from(connect: Connect) -> None:
    crop = {"top_left": [10, 20], "bottom_right": [110, 120]}
    _, avatar = asked(connect, video={"crop": crop, "quality": 70})
    assert avatar["video"]["region"] == "patch"
    assert avatar["idle_frames"] == 50
    path, _, query = avatar["idle_url"].partition("?")
    assert path == "/v1/avatars/anna%20b/idle/{frame}.jpg"
    assert {name: values[0] for name, values in parse_qs(query).items()} == {
        "model": "acme/concierge",
        "version": "0123456789abcdef",
        "width": "100",
        "height": "100",
        "quality": "70",
        "crop": "10,20,110,120",
    }
    assert urlsplit(avatar["idle_url"]).netloc == ""


def test_a_whole_picture_needs_none(connect: Connect) -> None:
    driver = connect(ANNA)
    for field, value in (("idle_url", "http://evil.example/{frame}"), ("idle_frames", 9)):
        [updated, warning] = driver.update(avatar={field: value})
        assert field not in updated["session"]["avatar"]
        assert warning["warning"]["param"] == f"session.avatar.{field}"


@pytest.mark.parametrize("mode", ["h264", "fmp4"])
def test_encoded_video_has_no_patches(connect: Connect, mode: str) -> None:
    driver, _ = asked(connect)
    for video in ({"mode": mode}, {"mode": mode, "region": "patch"}):
        [refused] = driver.update(avatar={"video": video})
        assert refused["error"] == {
            "type": "invalid_request_error",
            "code": "invalid_value",
            "message": f'session.avatar.video.region is "patch"; must be full in {mode}',
            "param": "session.avatar.video.region",
            "event_id": None,
            "value": "patch",
            "limit": ["full"],
        }
    [updated] = driver.update(avatar={"video": {"mode": mode, "region": "full"}})
    assert updated["session"]["avatar"]["video"]["mode"] == mode
    assert driver.update(avatar={"video": {"region": "patch"}})[0]["type"] == "error"


def test_a_delta_says_where_its_patch_belongs(connect: Connect) -> None:
    driver, _ = asked(connect)
    first, second = map(json.loads, said(driver, PATCH, NOTHING))
    assert (first["rect"], first["source_frame"]) == ([16, 32, 48, 64], 7)
    assert base64.b64decode(first["delta"]) == PATCH.data
    assert (first["codec"], first["mode"], first["keyframe"]) == ("jpeg", "jpeg", True)
    assert (second["rect"], second["source_frame"], second["delta"]) == ([0, 0, 0, 0], 8, "")


def test_a_binary_message_has_the_same_patch(connect: Connect) -> None:
    driver, _ = asked(connect, transport="binary")
    reader = BinaryMediaReader()
    for event in driver.events:
        reader.observe(event)
    messages = said(driver, PATCH, NOTHING)
    for message, image in zip(messages, (PATCH, NOTHING), strict=True):
        assert isinstance(message, bytes)
        header, payload = unpack(message)
        assert Flag.PATCH in header.flags
        assert unpack_patch(payload) == (image.rect, image.source_frame, image.data)
        event = reader.read(message)
        assert event["rect"] == list(image.rect)
        assert (event["source_frame"], event["data"]) == (image.source_frame, image.data)


def test_idle_frames_name_the_picture_to_show(connect: Connect) -> None:
    driver, _ = asked(connect, idle="stream")
    driver.now += 1.0
    [due] = driver.due()
    driver.deliver(due, NOTHING)
    [event] = driver.pull()
    assert (event["idle"], event["source_frame"], event["delta"]) == (True, 8, "")
    assert "seq" not in event


CROP = {"top_left": [0, 0], "bottom_right": [100, 100]}


@pytest.mark.parametrize(
    ("field", "value"),
    [("resolution", {"width": 128, "height": 128}), ("crop", CROP), ("quality", 40)],
    ids=["resolution", "crop", "quality"],
)
def test_patches_on_their_way_keep_their_place(connect: Connect, field: str, value: Any) -> None:
    driver, _ = asked(connect)
    driver.append(FRAME * 20)
    video = {field: value}
    [refused] = driver.update(avatar={"video": video})
    error = refused["error"]
    assert (error["code"], error["param"]) == ("response_active", f"session.avatar.video.{field}")
    assert error["value"] == value
    assert json.dumps(value)[:64] in error["message"]
    # Whole pictures that follow belong to nothing.
    [updated] = driver.update(avatar={"video": {**video, "region": "full"}})
    assert updated["session"]["avatar"]["video"]["region"] == "full"
