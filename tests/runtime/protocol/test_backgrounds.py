"""The background of an avatar that was cut out: docs/wire-protocol.md, "Background"."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import config_document
from avatar_runtime.protocol.media import RawImage
from avatar_runtime.protocol.session_config import Character, Region, SessionConfig
from avatar_runtime.protocol.strict_fields import StrictFields

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect

FRAME = bytes(2 * 960)
CUT = Character("anna", 64, 96, has_alpha=True)


def test_a_frame_has_the_colour_of_the_session(connect: Connect) -> None:
    driver = connect(CUT)
    [updated] = driver.update(avatar={"background": "#0080FF"})
    assert updated["session"]["avatar"]["background"] == "#0080ff"
    driver.append(FRAME * 5)
    due = driver.due()[0]
    assert (due.background, due.has_alpha, due.height) == ((255, 128, 0), False, 96)
    [updated] = driver.update(avatar={"background": None})
    assert updated["session"]["avatar"]["background"] is None


def test_with_alpha_the_resolution_is_that_of_the_picture(connect: Connect) -> None:
    driver = connect(CUT)
    [updated] = driver.update(avatar={"background": "alpha", "video": {"mode": "h264"}})
    avatar = updated["session"]["avatar"]
    assert avatar["background"] == "alpha"
    assert avatar["video"]["resolution"] == {"width": 64, "height": 96}
    driver.append(FRAME * 5)
    due = driver.due()[0]
    assert (due.background, due.has_alpha, due.height) == ((0, 0, 0), True, 96)


@pytest.mark.parametrize("value", ["green", "#00ff0", "#00ff000", "", "#00ff0g", "#00ff00\n"])
def test_a_wrong_colour_is_refused(connect: Connect, value: str) -> None:
    [refused] = connect(CUT).update(avatar={"background": value})
    assert refused["error"]["code"] == "invalid_value"
    assert refused["error"]["param"] == "session.avatar.background"
    assert refused["error"]["value"] == value
    assert refused["error"]["limit"] == ["alpha", "#rrggbb"]


def test_another_type_is_refused(connect: Connect) -> None:
    [refused] = connect(CUT).update(avatar={"background": {"color": "#00ff00"}})
    assert refused["error"]["code"] == "invalid_type"


@pytest.mark.parametrize("value", ["alpha", "#00ff00"])
def test_an_avatar_that_was_not_cut_out_has_no_other_background(
    connect: Connect, value: str
) -> None:
    driver = connect()
    [refused] = driver.update(avatar={"background": value})
    message = f'session.avatar.background is "{value}"; must be null, since anna has no alpha'
    assert refused["error"]["message"] == message
    assert driver.update(avatar={"background": None})[0]["type"] == "session.updated"
    # The next avatar does not have it, unless the client gives it up.
    driver = connect(CUT)
    driver.update(avatar={"background": value})
    [refused] = driver.update(avatar={"character": "ben"})
    assert refused["error"]["param"] == "session.avatar.background"
    [updated] = driver.update(avatar={"character": "ben", "background": None})
    assert updated["session"]["avatar"]["character"] == "ben"


def test_patches_have_the_background_of_the_avatar(connect: Connect) -> None:
    driver = connect(CUT)
    asked: dict[str, Any] = {"background": "#00ff00", "video": {"region": "patch"}}
    [refused] = driver.update(avatar=asked)
    assert refused["error"]["param"] == "session.avatar.background"
    assert "video.region patch" in refused["error"]["message"]


def test_the_height_of_images_changes_in_silence(connect: Connect) -> None:
    driver = connect(CUT)
    driver.append(FRAME * 20)
    assert driver.update(avatar={"background": "#00ff00"})[-1]["type"] == "session.updated"
    refused = driver.update(avatar={"background": "alpha"})[-1]
    assert refused["error"]["code"] == "response_active"
    assert refused["error"]["param"] == "session.avatar.background"
    assert refused["error"]["value"] == "alpha"


def test_a_file_keeps_its_height(connect: Connect) -> None:
    driver = connect(CUT)
    driver.update(avatar={"background": "alpha", "video": {"mode": "fmp4"}})
    for value in (None, "#00ff00"):
        [refused] = driver.update(avatar={"background": value})
        assert refused["error"]["param"] == "session.avatar.background"
        assert "file" in refused["error"]["message"]
    driver.now += 1.0
    [due] = driver.due()
    assert not driver.deliver(due, RawImage(b"", 64, 96)) or driver.pull() == []
    driver.now += 1.0
    [due] = driver.due()
    driver.deliver(due, RawImage(b"planes", 64, 192))
    outgoing = driver.session.pull(driver.now)
    assert outgoing is not None
    assert outgoing.frame is not None
    assert outgoing.frame.mode == "fmp4"


CHARACTERS = {"anna": CUT, "ben": Character("ben", 64, 96)}


def moved(config: SessionConfig, **changes: Any) -> SessionConfig:
    """Return a configuration as another pod reads it, with changes of its document."""
    document = json.loads(json.dumps(config_document.export(config) | changes))
    return config_document.read(StrictFields(document), CHARACTERS)


@pytest.mark.parametrize(
    "fields",
    [{"background": "alpha"}, {"background": "#0080ff"}, {"region": Region.PATCH}, {}],
    ids=["alpha", "colour", "patch", "plain"],
)
def test_a_session_that_moves_keeps_its_pictures(fields: dict[str, Any]) -> None:
    config = SessionConfig(CUT, **fields)
    assert moved(config) == config


@pytest.mark.parametrize(
    ("fields", "changes", "param"),
    [
        ({"region": Region.PATCH}, {"video": "h264"}, "region"),
        ({"background": "alpha"}, {"region": "patch"}, "background"),
        ({"background": "alpha"}, {"character": {"name": "ben", "version": ""}}, "background"),
        ({}, {"background": "green"}, "background"),
        ({}, {"region": "mouth"}, "region"),
    ],
    ids=["patches of h264", "patches of alpha", "no alpha", "no colour", "no region"],
)
def test_a_document_with_other_rules_is_refused(
    fields: dict[str, Any], changes: dict[str, Any], param: str
) -> None:
    with pytest.raises(ProtocolError) as refused:
        moved(SessionConfig(CUT, **fields), **changes)
    assert refused.value.param is not None
    assert refused.value.param.endswith(param)
