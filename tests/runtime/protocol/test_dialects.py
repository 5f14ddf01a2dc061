"""The beta form and the form of Azure Voice Live, in both directions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.protocol.dialects import translation
from avatar_runtime.protocol.dialects.beta import Beta
from avatar_runtime.protocol.dialects.voice_live import VoiceLive

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect, Event, SessionDriver

    from avatar_runtime.protocol.dialects.translation import Dialect

BETA, AZURE = Beta(), VoiceLive()
PCM = {"type": "audio/pcm", "rate": 24000}


class Client:
    """A client that speaks one form to a session."""

    def __init__(self, driver: SessionDriver, dialect: Dialect) -> None:
        self._driver = driver
        self._dialect = dialect

    def send(self, kind: str, **fields: Any) -> list[Event]:
        text = translation.to_ga(self._dialect, json.dumps({"type": kind, **fields}))
        return self.translated(self._driver.send_raw(text))

    def translated(self, events: list[Event]) -> list[Event]:
        texts = (translation.from_ga(self._dialect, json.dumps(event)) for event in events)
        return [json.loads(text) for text in texts if text is not None]


@pytest.fixture
def beta(connect: Connect) -> Client:
    return Client(connect(), BETA)


@pytest.fixture
def azure(connect: Connect) -> Client:
    return Client(connect(), AZURE)


def one(events: list[Event], kind: str) -> Event:
    (found,) = [event for event in events if event["type"] == kind]
    return found


def test_flat_fields_of_a_session_are_those_of_ga() -> None:
    assert BETA.session_to_ga(
        {
            "modalities": ["text", "audio"],
            "instructions": "Be brief.",
            "voice": "alloy",
            "speed": 1.2,
            "input_audio_format": "g711_ulaw",
            "output_audio_format": "pcm16",
            "input_audio_transcription": {"model": "whisper-1"},
            "input_audio_noise_reduction": None,
            "turn_detection": {"type": "server_vad"},
            "max_response_output_tokens": "inf",
            "avatar": {"character": "anna"},
        }
    ) == {
        "type": "realtime",
        "output_modalities": ["audio"],
        "instructions": "Be brief.",
        "audio": {
            "input": {
                "format": {"type": "audio/pcmu"},
                "transcription": {"model": "whisper-1"},
                "noise_reduction": None,
                "turn_detection": {"type": "server_vad"},
            },
            "output": {"format": PCM, "voice": "alloy", "speed": 1.2},
        },
        "max_output_tokens": "inf",
        "avatar": {"character": "anna"},
    }


def test_a_session_object_comes_back_in_the_form_in_which_it_was_sent(beta: Client) -> None:
    sent = {
        "modalities": ["text", "audio"],
        "voice": "alloy",
        "input_audio_format": "g711_alaw",
        "output_audio_format": "g711_alaw",
        "input_audio_transcription": {"model": "whisper-1"},
        "max_response_output_tokens": 100,
    }
    session = one(beta.send("session.update", session=sent), "session.updated")["session"]
    assert {name: session[name] for name in sent} == sent
    assert session["object"] == "realtime.session"
    assert not {"type", "audio", "output_modalities", "max_output_tokens"} & session.keys()


def test_a_message_in_the_ga_form_passes_unchanged(beta: Client) -> None:
    update = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
    session = one(beta.send("session.update", session=update), "session.updated")["session"]
    assert session["turn_detection"]["type"] == "server_vad"
    for kind in ("input_audio_buffer.append", "input_audio_buffer.commit", "response.cancel"):
        text = json.dumps({"type": kind, "audio": "AAAA"})
        assert translation.to_ga(BETA, text) is text


@pytest.mark.parametrize("dialect", [BETA, AZURE])
def test_events_of_a_response_have_the_names_of_the_beta_form(
    connect: Connect, dialect: Dialect
) -> None:
    driver = connect()
    client = Client(driver, dialect)
    events = client.send("input_audio_buffer.append", audio="AAAA" * 1280)
    events += client.send("input_audio_buffer.commit")
    events += client.translated(driver.run(1.0))
    kinds = [event["type"] for event in events]
    assert kinds.count("conversation.item.created") == 2
    assert kinds.count("response.audio.done") == kinds.count("response.done") == 1
    assert "response.audio.delta" in kinds
    assert "response.video.delta" in kinds
    assert not {"conversation.item.added", "conversation.item.done"} & set(kinds)
    assert not [kind for kind in kinds if kind.startswith("response.output_audio")]
    done = one(events, "response.done")["response"]
    assert done["modalities"] == ["text", "audio"]
    assert done["output_audio_format"] == "pcm16"
    assert done["output"][0]["content"][0]["type"] == "audio"
    assert one(events, "response.output_item.done")["item"]["content"][0]["type"] == "audio"
    assert not {"audio", "output_modalities"} & done.keys()


def test_the_body_of_a_response_create_is_translated() -> None:
    body = {
        "modalities": ["audio", "text"],
        "voice": "alloy",
        "output_audio_format": "pcm16",
        "max_response_output_tokens": 5,
        "metadata": {"a": "b"},
    }
    event = BETA.to_ga({"type": "response.create", "event_id": "e", "response": body})
    assert event == {
        "type": "response.create",
        "event_id": "e",
        "response": {
            "output_modalities": ["audio"],
            "audio": {"output": {"voice": "alloy", "format": PCM}},
            "max_output_tokens": 5,
            "metadata": {"a": "b"},
        },
    }


def test_parts_of_an_answer_that_the_client_adds_get_their_ga_names() -> None:
    def item(role: str, kind: str) -> dict[str, object]:
        return {"type": "message", "role": role, "content": [{"type": kind, "text": "x"}]}

    def translated(role: str, kind: str) -> object:
        return BETA.to_ga({"type": "conversation.item.create", "item": item(role, kind)})["item"]

    assert translated("assistant", "text") == item("assistant", "output_text")
    assert translated("assistant", "audio") == item("assistant", "output_audio")
    assert translated("user", "input_text") == item("user", "input_text")


@pytest.mark.parametrize(
    ("session", "param", "code"),
    [
        ({"input_audio_format": "mp3"}, "session.input_audio_format", "unsupported_audio_format"),
        ({"modalities": "audio"}, "session.modalities", "invalid_type"),
        (
            {"turn_detection": {"type": "server_vad", "threshold": 2}},
            "session.turn_detection.threshold",
            "invalid_value",
        ),
    ],
)
def test_errors_name_the_fields_of_the_client(
    beta: Client, session: dict[str, Any], param: str, code: str
) -> None:
    error = one(beta.send("session.update", session=session), "error")["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert param in error["message"]


def test_a_warning_names_the_field_of_the_client(beta: Client) -> None:
    warning = one(beta.send("session.update", session={"voice": "alloy"}), "warning")["warning"]
    assert warning["param"] == "session.voice"
    assert warning["message"].startswith("session.voice ")


def test_azure_gets_the_rate_that_it_asked_for(azure: Client) -> None:
    events = azure.send(
        "session.update",
        session={"input_audio_format": "pcm16", "input_audio_sampling_rate": 16000},
    )
    session = one(events, "session.updated")["session"]
    assert session["input_audio_format"] == "pcm16"
    assert session["input_audio_sampling_rate"] == 16000
    assert session["output_audio_format"] == "pcm16_16000hz"
    events = azure.send("session.update", session={"input_audio_sampling_rate": 44100})
    error = one(events, "error")["error"]
    assert (error["code"], error["limit"]) == ("unsupported_sample_rate", [24000, 16000])


def test_azure_asks_for_video_with_a_modality(azure: Client) -> None:
    def modalities(names: list[str]) -> list[str]:
        events = azure.send("session.update", session={"modalities": names})
        shown = one(events, "session.updated")["session"]["modalities"]
        assert isinstance(shown, list)
        return shown

    assert modalities(["text", "audio"]) == ["text", "audio"]
    assert modalities(["text", "audio", "avatar"]) == ["text", "audio", "avatar"]


def test_the_form_is_chosen_by_the_connection() -> None:
    choose = translation.choose
    assert choose("/v1/realtime", "", ["realtime"]) is None
    assert choose("/v1/realtime", "other=v1", []) is None
    assert type(choose("/v1/realtime", "other=v1, realtime=v1", [])) is Beta
    assert type(choose("/v1/realtime", "", ["openai-beta.realtime-v1"])) is Beta
    assert type(choose("/voice-live/realtime", "", [])) is VoiceLive
    assert type(choose("/voice-live/realtime", "realtime=v1", [])) is VoiceLive


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", '"x"', "[" * 100, '{"a": NaN}'])
def test_what_is_no_object_is_left_to_the_session(text: str) -> None:
    assert translation.to_ga(BETA, text) is text


def test_the_events_of_openai_are_known_by_their_names(connect: Connect) -> None:
    driver = connect()
    driver.update(instructions="x")
    driver.append(bytes(9600))
    driver.send("input_audio_buffer.commit")
    driver.run(1.0)
    own = {
        event["type"]
        for event in driver.events
        if not translation.is_official(None, json.dumps(event, separators=(",", ":")))
    }
    texts = [json.dumps(event, separators=(",", ":")) for event in driver.events]
    assert all(translation.is_official(AZURE, text) for text in texts)
    assert own == {
        "warning",
        "response.video.delta",
        "response.video.done",
        "session.avatar.switch_to_speaking",
        "session.avatar.switch_to_idle",
    }


NAMES = (
    "session response item audio input output format modalities voice input_audio_format role "
    "output_audio_format input_audio_sampling_rate turn_detection content type avatar video"
).split()
WORDS = [
    *("session.update", "response.create", "conversation.item.create", "assistant", "audio"),
    *("pcm16", "text"),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("dialect", [BETA, AZURE])
@given(event=st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_no_value_is_too_strange_to_translate(dialect: Dialect, event: dict[str, Any]) -> None:
    json.loads(translation.to_ga(dialect, json.dumps(event)))
    for kind in WORDS[:3]:
        json.loads(translation.to_ga(dialect, json.dumps({**event, "type": kind})))
    dialect.from_ga({**event, "type": "response.done"})


def test_a_translated_message_is_not_larger_than_the_limit_for_its_other_letters(
    connect: Connect,
) -> None:
    driver = connect()
    events = Client(driver, BETA).send(
        "session.update", session={"instructions": "\u00e9" * 3_000_000}
    )
    assert one(events, "error")["error"]["code"] == "invalid_value"
    assert driver.session.closing is None
