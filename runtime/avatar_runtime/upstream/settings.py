"""The settings of modes bridge and speech: the endpoints, and where their keys are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from avatar_contracts import documents, fields, labels, secret_files
from avatar_contracts.upstream import BEARER, KeySource, Upstream, endpoints
from avatar_contracts.upstream_fields import parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_contracts.environment import Environment
    from avatar_contracts.upstream import Endpoint

MAX_DOCUMENT_BYTES: Final = 1 << 18
_KEY: Final = "a key of printable ASCII characters; its leg has it as apiKeyEnv"


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """The source of the speech, with its keys."""

    upstream: Upstream | None = None
    """`None` is mode drive."""
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """API keys by the name of their variable, as of the start."""

    def headers(self, endpoint: Endpoint) -> dict[str, str]:
        """Return the headers of a request: those of the settings, and the key as of now.

        A mounted key is read at each call, because the kubelet updates the file.
        """
        headers = dict(endpoint.headers)
        key = self.key(endpoint)
        if key:
            name = "Authorization" if endpoint.authorization == BEARER else "api-key"
            headers[name] = f"Bearer {key}" if endpoint.authorization == BEARER else key
        return headers

    def key(self, endpoint: Endpoint) -> str:
        """Return the key of an endpoint as of now; empty if it has none."""
        source = endpoint.key
        if not isinstance(source, KeySource):
            return ""
        mounted = secret_files.read(Path(source.file)) if source.file else ""
        return mounted if _is_key(mounted) else self.keys.get(source.variable, "")


def read_upstream(read: Environment) -> UpstreamSettings:
    """Return the settings in `AVATAR_UPSTREAM` and the variables of its keys.

    Faults are noted in `read`; none of them shows a key.
    """
    text = read.raw(labels.ENV_UPSTREAM).strip()
    if not text:
        return UpstreamSettings()
    try:
        if len(text.encode()) > MAX_DOCUMENT_BYTES:
            raise ValueError(f"longer than {MAX_DOCUMENT_BYTES} bytes")
        document = documents.parse_object(text)
    except ValueError:
        read.note(labels.ENV_UPSTREAM, text, f"a JSON object of at most {MAX_DOCUMENT_BYTES} bytes")
        return UpstreamSettings()
    faults: list[fields.Fault] = []
    upstream = parse(fields.Fields(document, "upstream", faults), in_pod=True)
    read.note_fields(faults)
    return UpstreamSettings(upstream, _keys(read, upstream))


def _keys(read: Environment, upstream: Upstream | None) -> dict[str, str]:
    found = {}
    for endpoint in endpoints(upstream).values():
        source = endpoint.key
        if isinstance(source, KeySource) and source.variable:
            key = read.raw(source.variable).strip()
            if key and not _is_key(key):
                read.note(source.variable, "***", _KEY)
            elif not key and not source.file:
                read.note(source.variable, None, _KEY)
            found[source.variable] = key
    return found


def _is_key(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable()
