"""API keys of tenants: their text, and what a Secret stores of them.

A key is `avk_ID_RANDOM`: a public name and 256 random bits. The Secret stores a salted SHA-256 of
it. A slow hash, as for passwords, protects secrets that can be guessed; these cannot be.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import hmac
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts import documents

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "avk_"
_KEY: Final = re.compile(r"avk_(?P<id>[a-z0-9]{8,32})_[A-Za-z0-9_-]{43}")
_ID: Final = re.compile(r"[a-z0-9]{8,32}")
_HEX_SALT: Final = re.compile(r"[0-9a-f]{32}")
_HEX_HASH: Final = re.compile(r"[0-9a-f]{64}")
_ALGORITHM: Final = "sha256"
_MAX_ENTRY: Final = 4096
MAX_COMMENT: Final = 200
KEY_BYTES: Final = 32
ID_BYTES: Final = 16
"""Each gives five bits of the id."""
_ID_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What a Secret says of one key."""

    key_id: str
    salt: bytes
    hash: bytes
    not_before: float | None = None
    """From when it is accepted: Unix time in seconds; None for always."""
    not_after: float | None = None
    """Until when it is accepted; None for always."""
    comment: str = ""

    def is_current(self, now: float) -> bool:
        """Return whether the key is accepted at a time."""
        return (self.not_before is None or now >= self.not_before) and (
            self.not_after is None or now < self.not_after
        )

    def matches(self, text: str) -> bool:
        """Return whether a text is the key, without a hint in the time taken."""
        return hmac.compare_digest(_hash(self.salt, text), self.hash)


@dataclass(frozen=True, slots=True)
class RevokedSecret:
    """An entry that revokes one client secret."""

    secret_id: str


def is_id(text: str) -> bool:
    """Return whether a text is an id of a key or of a client secret."""
    return _ID.fullmatch(text) is not None


def key_id_of(text: str) -> str | None:
    """Return the id of an API key of a tenant, None if a text cannot be one."""
    found = _KEY.fullmatch(text)
    return found["id"] if found else None


def contains_key(text: str) -> bool:
    """Return whether a text contains an API key of a tenant."""
    return _KEY.search(text) is not None


def new_id(random: bytes) -> str:
    """Return an id of a key or of a client secret, from `ID_BYTES` random bytes."""
    return "".join(_ID_ALPHABET[byte & 31] for byte in random)


def new_key(random: bytes, id_random: bytes) -> tuple[str, str]:
    """Return the id and the text of a new key, from `KEY_BYTES` and `ID_BYTES` random bytes."""
    if len(random) != KEY_BYTES or len(id_random) != ID_BYTES:
        raise ValueError(f"a key needs {KEY_BYTES} random bytes, and its id needs {ID_BYTES}")
    key_id = new_id(id_random)
    body = base64.urlsafe_b64encode(random).decode().rstrip("=")
    return key_id, f"{PREFIX}{key_id}_{body}"


def entry_of(
    text: str,
    salt: bytes,
    comment: str = "",
    not_before: float | None = None,
    not_after: float | None = None,
) -> str:
    """Return the entry of a Secret for a key; `salt` has 16 random bytes."""
    return _entry(StoredKey("", salt, _hash(salt, text), not_before, not_after, comment))


def with_end(key: StoredKey, not_after: float) -> str:
    """Return the entry of a Secret for a key that ends at a time."""
    return _entry(replace(key, not_after=not_after))


def _entry(key: StoredKey) -> str:
    entry = {
        "algorithm": _ALGORITHM,
        "salt": key.salt.hex(),
        "hash": key.hash.hex(),
        "notBefore": format_time(key.not_before),
        "notAfter": format_time(key.not_after),
        "comment": key.comment,
    }
    return json.dumps(entry)


def revocation_entry(now: float) -> str:
    """Return the entry of a Secret that revokes a client secret, whose id names the entry."""
    return json.dumps({"algorithm": "revoked", "at": format_time(now)})


def parse_secret(
    body: Mapping[str, Any],
) -> tuple[dict[str, StoredKey], frozenset[str], tuple[str, ...]]:
    """Return the keys of a Secret by their ids, the client secrets that it revokes, and problems.

    A problem names the entry, and never repeats a part of its content.
    """
    keys: dict[str, StoredKey] = {}
    revoked, problems = set(), []
    data = body.get("data")
    for name, value in sorted(data.items()) if isinstance(data, dict) else ():
        try:
            entry = parse_entry(str(name), base64.b64decode(str(value), validate=True))
        except binascii.Error:
            problems.append(f"entry {str(name)[:32]!r} is not base64")
        except ValueError as error:
            problems.append(f"entry {str(name)[:32]!r} {error}")
        else:
            if isinstance(entry, RevokedSecret):
                revoked.add(entry.secret_id)
            else:
                keys[entry.key_id] = entry
    return keys, frozenset(revoked), tuple(problems)


def parse_entry(name: str, value: bytes) -> StoredKey | RevokedSecret:
    """Return what one entry of a Secret says.

    Raises:
        ValueError: the entry is wrong; the message is a clause without its content.
    """
    if not _ID.fullmatch(name):
        raise ValueError("is not named by a key id: 8 to 32 lowercase letters and digits")
    if len(value) > _MAX_ENTRY:
        raise ValueError(f"has {len(value)} bytes, must have at most {_MAX_ENTRY}")
    try:
        entry = documents.parse_object(value)
    except ValueError:
        raise ValueError("is not a JSON object") from None
    algorithm = entry.get("algorithm")
    if algorithm == "revoked":
        return RevokedSecret(name)
    salt, digest, comment = entry.get("salt"), entry.get("hash"), entry.get("comment")
    if algorithm != _ALGORITHM:
        raise ValueError(f"has no algorithm that is known, must have {_ALGORITHM}")
    if not isinstance(salt, str) or not _HEX_SALT.fullmatch(salt):
        raise ValueError("has no salt of 32 hexadecimal digits")
    if not isinstance(digest, str) or not _HEX_HASH.fullmatch(digest):
        raise ValueError("has no hash of 64 hexadecimal digits")
    return StoredKey(
        name,
        bytes.fromhex(salt),
        bytes.fromhex(digest),
        _time(entry, "notBefore"),
        _time(entry, "notAfter"),
        comment[:MAX_COMMENT] if isinstance(comment, str) else "",
    )


def format_time(seconds: float | None) -> str | None:
    """Return a Unix time in RFC 3339, in UTC with whole seconds."""
    if seconds is None:
        return None
    moment = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
    return moment.isoformat().replace("+00:00", "Z")


def parse_time(text: str) -> float:
    """Return the Unix time of a text in RFC 3339.

    Raises:
        ValueError: the text is not such a time, or has no offset from UTC.
    """
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text[:32]} has no offset from UTC, for example Z")
    return moment.timestamp()


def _time(entry: Mapping[str, Any], name: str) -> float | None:
    value = entry.get(name)
    if value is None:
        return None
    try:
        return parse_time(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"has a wrong {name}, must be null or a time in RFC 3339") from None


def _hash(salt: bytes, text: str) -> bytes:
    return hashlib.sha256(salt + text.encode(errors="surrogatepass")).digest()
