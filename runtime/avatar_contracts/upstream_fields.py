"""Parses the source of the speech of a service; see `upstream`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from avatar_contracts.upstream import (
    AUTHORIZATIONS,
    BEARER,
    BRIDGE,
    BRIDGE_RATES,
    DRIVE,
    MAX_HEADER_VALUE,
    MAX_HEADERS,
    MAX_HISTORY,
    MAX_INSTRUCTIONS,
    MAX_NAME,
    MAX_RATE,
    MAX_TIMEOUT_S,
    MAX_URL,
    MIN_RATE,
    MODES,
    PCM,
    SPEECH,
    SPEECH_FORMATS,
    Bridge,
    ChatEndpoint,
    Endpoint,
    KeySource,
    Pipeline,
    SecretKey,
    SpeechEndpoint,
    TranscriptionEndpoint,
)

if TYPE_CHECKING:
    from avatar_contracts.fields import Fields
    from avatar_contracts.upstream import Upstream

CREDENTIAL_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "api-key", "x-api-key", "cookie"}
)
"""Headers that carry a key: it belongs into a Secret."""
CONNECTION_HEADERS: Final = frozenset(
    {"host", "connection", "upgrade", "content-length", "content-type", "transfer-encoding", "te"}
)
"""Headers that the client of the endpoint sets itself; so are those of WebSocket."""

_PORT: Final = (
    "0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
)
"""A port from 1 to 65535."""
_AUTHORITY: Final = rf"([^\s/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(:{_PORT})?"
"""A host and a port; the schema of the resource has the same expression."""
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE: Final = re.compile(rf"[\x20-\x7e]{{1,{MAX_HEADER_VALUE}}}")

_KEY_FIELDS: Final = frozenset({"apiKeySecretRef", "apiKeyEnv", "apiKeyFile"})
_ENDPOINT_FIELDS: Final = _KEY_FIELDS | {
    "url",
    "model",
    "authorization",
    "headers",
    "connectTimeoutSeconds",
    "timeoutSeconds",
}
_BRIDGE_FIELDS: Final = _ENDPOINT_FIELDS | {"beta", "inputSampleRate", "outputSampleRate"}
_FIELDS: Final = _BRIDGE_FIELDS | {"mode", "speech", "chat", "transcription"}
_LEG_FIELDS: Final = {
    "speech": _ENDPOINT_FIELDS | {"voice", "format", "sampleRate"},
    "chat": _ENDPOINT_FIELDS | {"instructions", "maxHistory"},
    "transcription": _ENDPOINT_FIELDS | {"language"},
}


def parse(fields: Fields, *, in_pod: bool) -> Upstream | None:
    """Return the upstream that a document describes; faults are recorded in `fields`.

    `in_pod` is whether the keys are `apiKeyEnv` and `apiKeyFile` (the document that the runtime
    reads), and not `apiKeySecretRef` (the field of the resource).
    """
    mode = fields.one_of("mode", DRIVE, MODES)
    known = {
        DRIVE: {"mode"},
        BRIDGE: {"mode", *_BRIDGE_FIELDS},
        SPEECH: {"mode", "speech", "chat", "transcription"},
    }[mode]
    for name, _ in fields.entries():
        if name in _FIELDS and name not in known:
            fields.add_rule(name, f"must not be set in mode {mode}")
        elif name not in _FIELDS:
            fields.add_rule(name, "must be left out: there is no such field")
    if mode == BRIDGE:
        endpoint = _endpoint(fields, "ws", 10, 60, in_pod=in_pod)
        return Bridge(
            endpoint,
            fields.flag("beta", False),
            _bridge_rate(fields, "inputSampleRate"),
            _bridge_rate(fields, "outputSampleRate"),
        )
    if mode == SPEECH:
        return _pipeline(fields, in_pod=in_pod)
    return None


def _bridge_rate(fields: Fields, name: str) -> int:
    rate = fields.integer(name, 24000, min(BRIDGE_RATES), max(BRIDGE_RATES))
    if rate not in BRIDGE_RATES:
        fields.add_fault(name, rate, "one of " + ", ".join(map(str, BRIDGE_RATES)))
        return 24000
    return rate


def _pipeline(fields: Fields, *, in_pod: bool) -> Pipeline | None:
    """Return the endpoints; without an object in `speech`, `None` and a fault."""
    legs = {name: fields.child(name) for name in _LEG_FIELDS if fields.has(name)}
    for leg, known in _LEG_FIELDS.items():
        for name, _ in legs[leg].entries() if leg in legs else ():
            if name not in known:
                legs[leg].add_rule(name, "must be left out: there is no such field")
    chat = _chat(legs["chat"], in_pod=in_pod) if "chat" in legs else None
    heard = (
        _transcription(legs["transcription"], in_pod=in_pod) if "transcription" in legs else None
    )
    is_object = isinstance(fields.raw("speech"), Mapping)
    if not (fields.required("speech", "an object with url and voice") and is_object):
        return None
    speech = legs["speech"]
    speech.required("voice", f"a name of at most {MAX_NAME} characters")
    endpoint = SpeechEndpoint(
        _http_endpoint(speech, in_pod=in_pod),
        _name(speech, "voice"),
        speech.one_of("format", PCM, SPEECH_FORMATS),
        speech.integer("sampleRate", 24000, MIN_RATE, MAX_RATE),
    )
    return Pipeline(endpoint, chat, heard)


def _chat(fields: Fields, *, in_pod: bool) -> ChatEndpoint:
    return ChatEndpoint(
        _http_endpoint(fields, in_pod=in_pod),
        _limited(fields, "instructions", MAX_INSTRUCTIONS),
        fields.integer("maxHistory", 20, 1, MAX_HISTORY),
    )


def _transcription(fields: Fields, *, in_pod: bool) -> TranscriptionEndpoint:
    limit = "an ISO 639-1 code, for example en"
    language = fields.text("language", pattern=r"\A[a-z]{2}\Z", limit=limit)
    return TranscriptionEndpoint(_http_endpoint(fields, in_pod=in_pod), language)


def _http_endpoint(fields: Fields, *, in_pod: bool) -> Endpoint:
    return _endpoint(fields, "http", 5, 30, in_pod=in_pod)


def _endpoint(
    fields: Fields,
    scheme: str,
    connect_timeout_s: int,
    timeout_s: int,
    *,
    in_pod: bool,
) -> Endpoint:
    return Endpoint(
        url=_url(fields, scheme),
        model=_name(fields, "model"),
        key=_key_source(fields) if in_pod else _secret_key(fields),
        authorization=fields.one_of("authorization", BEARER, AUTHORIZATIONS),
        headers=_headers(fields),
        connect_timeout_s=fields.integer(
            "connectTimeoutSeconds", connect_timeout_s, 1, MAX_TIMEOUT_S
        ),
        timeout_s=fields.integer("timeoutSeconds", timeout_s, 1, MAX_TIMEOUT_S),
    )


def _url(fields: Fields, scheme: str) -> str:
    limit = (
        f"a {scheme}:// or {scheme}s:// URL of at most {MAX_URL} characters, without a user, and "
        "with a port from 1 to 65535 if it has one"
    )
    pattern = rf"\A(?=.{{1,{MAX_URL}}}\Z){scheme}s?://{_AUTHORITY}([/?][^\s#]*)?\Z"
    fields.required("url", limit)
    url = fields.text("url", pattern=pattern, limit=limit)
    try:
        urlsplit(url)
    except ValueError:  # brackets without an IPv6 address
        fields.add_fault("url", url, limit)
        return ""
    return url


def _name(fields: Fields, name: str) -> str:
    limit = f"printable and of at most {MAX_NAME} characters"
    return fields.text(name, pattern=rf"\A[^\x00-\x1f\x7f]{{0,{MAX_NAME}}}\Z", limit=limit)


def _limited(fields: Fields, name: str, characters: int) -> str:
    limit = f"at most {characters} characters"
    return fields.text(name, pattern=rf"(?s)\A.{{0,{characters}}}\Z", limit=limit)


def _secret_key(fields: Fields) -> SecretKey | None:
    for name in ("apiKeyEnv", "apiKeyFile"):
        if fields.has(name):
            fields.add_rule(name, "must be left out: use apiKeySecretRef")
    if not fields.has("apiKeySecretRef"):
        return None
    child = fields.child("apiKeySecretRef")
    child.required("name", "the name of a Secret")
    child.required("key", "a key of the Secret")
    key = child.text("key", pattern=r"\A[-._a-zA-Z0-9]{1,253}\Z", limit="a key of the Secret")
    return SecretKey(child.object_name("name"), key)


def _key_source(fields: Fields) -> KeySource | None:
    if fields.has("apiKeySecretRef"):
        fields.add_rule("apiKeySecretRef", "must be left out outside a cluster: use apiKeyEnv")
    pattern, limit = r"\A[A-Za-z_][A-Za-z0-9_]{0,127}\Z", "the name of an environment variable"
    variable = fields.text("apiKeyEnv", pattern=pattern, limit=limit)
    file = fields.text("apiKeyFile")
    return KeySource(variable, file) if variable or file else None


def _headers(fields: Fields) -> tuple[tuple[str, str], ...]:
    found = fields.strings("headers")
    child = fields.child("headers")
    if len(found) > MAX_HEADERS:
        fields.add_rule("headers", f"must have at most {MAX_HEADERS} entries")
    for name, value in found.items():
        lower = name.lower()
        if lower in CREDENTIAL_HEADERS:
            child.add_rule(name, "must be left out: put the key into a Secret")
        elif lower in CONNECTION_HEADERS or lower.startswith("sec-websocket-"):
            child.add_rule(name, "must be left out: the runtime sets it")
        elif not _HEADER_NAME.fullmatch(name):
            child.add_rule(name, "must be the name of an HTTP header")
        elif not _HEADER_VALUE.fullmatch(value):
            limit = f"printable ASCII of 1 to {MAX_HEADER_VALUE} characters"
            child.add_fault(name, value, limit)
    return tuple(sorted(found.items()))
