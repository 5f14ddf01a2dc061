"""Short names of events, by which a client says what it has of a session whose pod is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

UNCOUNTED: Final = frozenset(
    {
        "response.output_audio.delta",
        "response.video.delta",
        "response.video.dropped",
        "warning",
    }
)
"""Messages that depend on the time. All others come again if a session is continued from a snapshot
and gets the same messages of its client."""
MAX_KEYS: Final = 128
"""Keys of the last events that a client names: more than follow the last snapshot."""
_OFFSET: Final = 0x811C9DC5
_PRIME: Final = 0x01000193


def event_key(kind: str, fields: Mapping[str, Any]) -> str:
    """Return the key of an event: 8 hexadecimal digits, the FNV-1a hash of what it is about."""
    response, item, error = (_object(fields.get(name)) for name in ("response", "item", "error"))
    parts = (
        kind,
        fields.get("response_id") or response.get("id"),
        fields.get("item_id") or item.get("id"),
        error.get("code"),
    )
    value = _OFFSET
    for byte in "|".join(str(part or "") for part in parts).encode():
        value = (value ^ byte) * _PRIME & 0xFFFFFFFF
    return f"{value:08x}"


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
