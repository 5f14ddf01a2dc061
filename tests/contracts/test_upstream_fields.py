from __future__ import annotations

from typing import Any

import pytest

from avatar_contracts.fields import Fault, Fields
from avatar_contracts.upstream import (
    Bridge,
    ChatEndpoint,
    Endpoint,
    KeySource,
    Pipeline,
    SecretKey,
    SpeechEndpoint,
    TranscriptionEndpoint,
    Upstream,
    endpoints,
    render,
)
from avatar_contracts.upstream_fields import parse

URL = "https://speech.example/v1/audio/speech"
REF = {"name": "keys", "key": "api.key"}


def read(document: Any, *, in_pod: bool = False) -> tuple[Upstream | None, list[str]]:
    faults: list[Fault] = []
    upstream = parse(Fields(document, "spec.upstream", faults), in_pod=in_pod)
    return upstream, [str(fault) for fault in faults]


def speaking(**changes: object) -> dict[str, object]:
    return {"mode": "speech", "speech": {"url": URL, "voice": "alloy", **changes}}


def test_without_a_field_the_client_sends_the_speech() -> None:
    assert read(None) == (None, [])
    assert read({"mode": "drive"}) == (None, [])


def test_the_defaults_of_a_bridge() -> None:
    upstream, faults = read({"mode": "bridge", "url": "wss://rt.example/v1/realtime"})
    assert faults == []
    endpoint = Endpoint("wss://rt.example/v1/realtime", "", None, "bearer", (), 10, 60)
    assert upstream == Bridge(endpoint, False)


def test_every_field_of_a_pipeline() -> None:
    common = {
        "model": "m",
        "apiKeySecretRef": REF,
        "authorization": "api-key",
        "headers": {"b": "2", "a": "1"},
        "connectTimeoutSeconds": 1,
        "timeoutSeconds": 300,
    }
    upstream, faults = read(
        {
            **speaking(**common, format="wav", sampleRate=96000),
            "chat": {"url": URL, **common, "instructions": "Be\nbrief.", "maxHistory": 100},
            "transcription": {"url": URL, **common, "language": "de"},
        }
    )
    assert faults == []
    headers = (("a", "1"), ("b", "2"))
    endpoint = Endpoint(URL, "m", SecretKey("keys", "api.key"), "api-key", headers, 1, 300)
    assert upstream == Pipeline(
        SpeechEndpoint(endpoint, "alloy", "wav", 96000),
        ChatEndpoint(endpoint, "Be\nbrief.", 100),
        TranscriptionEndpoint(endpoint, "de"),
    )


def test_optional_endpoints_are_left_out() -> None:
    upstream, faults = read(speaking())
    assert faults == []
    assert list(endpoints(upstream)) == ["speech"]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("drive", "spec.upstream is"),
        ({"mode": "echo"}, "spec.upstream.mode is"),
        ({"url": "wss://a"}, "spec.upstream.url must not be set in mode drive"),
        ({"sound": 1}, "spec.upstream.sound must be left out"),
        ({"mode": "bridge"}, "spec.upstream.url is missing"),
        ({"mode": "bridge", "url": "https://a"}, "must be a ws:// or wss:// URL"),
        ({"mode": "bridge", "url": "wss://u:p@a"}, "without a user"),
        ({"mode": "bridge", "url": "wss://a/ b"}, "must be a ws:// or wss:// URL"),
        ({"mode": "bridge", "url": "wss://a:0/b"}, "with a port from 1 to 65535"),
        ({"mode": "bridge", "url": "wss://a:65536"}, "with a port from 1 to 65535"),
        ({"mode": "bridge", "url": "wss://a:b/c"}, "with a port from 1 to 65535"),
        ({"mode": "bridge", "url": "wss://a:/c"}, "with a port from 1 to 65535"),
        ({"mode": "bridge", "url": "wss://[zz]/c"}, "must be a ws:// or wss:// URL"),
        ({"mode": "bridge", "url": "wss://[:::::]/c"}, "must be a ws:// or wss:// URL"),
        ({"mode": "bridge", "url": "wss://a/#b"}, "must be a ws:// or wss:// URL"),
        ({"mode": "bridge", "url": "wss://a/" + "b" * 505}, "at most 512 characters"),
        ({"mode": "bridge", "url": "wss://a", "chat": {}}, "chat must not be set in mode bridge"),
        ({"mode": "speech"}, "spec.upstream.speech is missing"),
        ({"mode": "speech", "speech": "x"}, "spec.upstream.speech is"),
        ({"mode": "speech", "speech": {"url": URL}}, "spec.upstream.speech.voice is missing"),
        (speaking(url="wss://a"), "must be a http:// or https:// URL"),
        (speaking(speed=2), "spec.upstream.speech.speed must be left out"),
        ({"mode": "bridge", "url": "wss://a", "inputSampleRate": 11025}, "one of 8000, 16000"),
        ({"mode": "bridge", "url": "wss://a", "outputSampleRate": 48000}, "from 8000 to 24000"),
        (speaking(voice="a\nb"), "spec.upstream.speech.voice is"),
        (speaking(model="m" * 129), "at most 128 characters"),
        (speaking(format="mp3"), "must be one of pcm, wav"),
        (speaking(sampleRate=7999), "from 8000 to 96000"),
        (speaking(timeoutSeconds=0), "from 1 to 300"),
        (speaking(connectTimeoutSeconds=301), "from 1 to 300"),
        (speaking(authorization="basic"), "must be one of bearer, api-key"),
        (speaking(headers={"Authorization": "x"}), "put the key into a Secret"),
        (speaking(headers={"Api-Key": "x"}), "put the key into a Secret"),
        (speaking(headers={"Host": "x"}), "the runtime sets it"),
        (speaking(headers={"Sec-WebSocket-Key": "x"}), "the runtime sets it"),
        (speaking(headers={"a b": "x"}), "must be the name of an HTTP header"),
        (speaking(headers={"a": "x\r\nHost: b"}), "must be printable ASCII"),
        (speaking(headers={f"h{i}": "x" for i in range(17)}), "at most 16 entries"),
        (speaking(apiKeySecretRef={"name": "a"}), "apiKeySecretRef.key is missing"),
        (speaking(apiKeySecretRef={"name": "a", "key": "../b"}), "must be a key of the Secret"),
        (
            speaking(apiKeySecretRef={"name": "acme/openai", "key": "key"}),
            'apiKeySecretRef.name is "acme/openai", must be a name of at most 253 characters',
        ),
        (speaking(apiKeyEnv="KEY"), "must be left out: use apiKeySecretRef"),
        ({**speaking(), "chat": {}}, "spec.upstream.chat.url is missing"),
        (
            {**speaking(), "chat": {"url": URL, "instructions": "a" * 8193}},
            "at most 8192 characters",
        ),
        ({**speaking(), "chat": {"url": URL, "maxHistory": 101}}, "from 1 to 100"),
        (
            {**speaking(), "transcription": {"url": URL, "language": "english"}},
            "must be an ISO 639-1 code",
        ),
    ],
)
def test_a_fault_names_field_and_limit(document: object, said: str) -> None:
    _, faults = read(document)
    assert len(faults) == 1
    assert said in faults[0]


def test_a_fault_shows_no_credentials() -> None:
    document = {"mode": "bridge", "url": "wss://a", "headers": {"authorization": "Bearer hidden"}}
    _, faults = read(document)
    assert "hidden" not in " ".join(faults)


@pytest.mark.parametrize(
    "document",
    [
        {"mode": "bridge", "url": "wss://a", "beta": True, "apiKeySecretRef": REF},
        {"mode": "bridge", "url": "wss://a", "inputSampleRate": 16000, "outputSampleRate": 8000},
        {
            **speaking(apiKeySecretRef=REF),
            "chat": {"url": URL},
            "transcription": {"url": URL, "language": "en", "apiKeySecretRef": REF},
        },
    ],
)
def test_what_is_rendered_is_read_back_with_the_sources_of_its_keys(document: Any) -> None:
    upstream, _ = read(document)
    assert upstream is not None
    keys = {
        leg: KeySource("KEY", f"/keys/{leg}")
        for leg, endpoint in endpoints(upstream).items()
        if endpoint.key
    }
    again, faults = read(render(upstream, keys), in_pod=True)
    assert faults == []
    assert render(again, keys) == render(upstream, keys) if again else False
    found = {leg: endpoint.key for leg, endpoint in endpoints(again).items() if endpoint.key}
    assert found == keys


def test_outside_a_cluster_there_are_no_secrets() -> None:
    _, faults = read(speaking(apiKeySecretRef=REF), in_pod=True)
    said = "must be left out outside a cluster: use apiKeyEnv"
    assert faults == [f"spec.upstream.speech.apiKeySecretRef {said}"]
