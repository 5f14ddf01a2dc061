"""JSON Web Key Sets (RFC 7517): the public keys of an issuer, and which one verifies a token."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import jwt

from avatar_contracts import documents

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_KEYS: Final = 100
"""Keys of a set that are read; more are ignored."""
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_EC: Final[Mapping[object, frozenset[str]]] = {
    "P-256": frozenset({"ES256"}),
    "P-384": frozenset({"ES384"}),
    "P-521": frozenset({"ES512"}),
}
_CACHED_SETS: Final = 256


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key of a set."""

    kid: str | None
    algorithms: frozenset[str]
    """The algorithms that fit the key: its type and its curve decide, never the token."""
    jwk: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of an issuer that can verify signatures."""

    keys: Sequence[PublicKey] = ()
    _loaded: dict[tuple[int, str], jwt.PyJWK | None] = field(
        default_factory=dict, compare=False, repr=False
    )

    def has(self, kid: str | None) -> bool:
        """Return whether a key with this id exists; without an id, whether there is any key."""
        return any(kid is None or key.kid == kid for key in self.keys)

    def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return the key that a token names. A token without an id needs a set in which only one
        key fits its algorithm."""
        found = [
            index
            for index, key in enumerate(self.keys)
            if algorithm in key.algorithms and (kid is None or key.kid == kid)
        ]
        if not found or (kid is None and len(found) > 1):
            return None
        return self._load(found[0], algorithm)

    def _load(self, index: int, algorithm: str) -> jwt.PyJWK | None:
        place = index, algorithm
        if place not in self._loaded:
            try:
                self._loaded[place] = jwt.PyJWK(dict(self.keys[index].jwk), algorithm)
            except (jwt.PyJWTError, ValueError, TypeError, KeyError):
                self._loaded[place] = None
        return self._loaded[place]


def parse_key_set(text: str | bytes) -> KeySet:
    """Return the usable keys of a set; keys of other kinds and for other uses are ignored.

    Raises:
        ValueError: the text is not a key set; the message is a clause.
    """
    try:
        keys = documents.parse_object(text).get("keys")
    except ValueError:
        raise ValueError("is not a JSON object") from None
    if not isinstance(keys, list):
        raise ValueError("has no list of keys")
    found = [
        PublicKey(kid if isinstance(kid := key.get("kid"), str) else None, algorithms, key)
        for key in keys[:MAX_KEYS]
        if isinstance(key, dict) and (algorithms := _algorithms(key))
    ]
    return KeySet(found)


inline_key_set: Final = lru_cache(_CACHED_SETS)(parse_key_set)
"""The same for sets in AvatarTenants, which are parsed once and not for each token."""


def _algorithms(key: Mapping[str, Any]) -> frozenset[str]:
    """Return the algorithms that a key can verify; none for a shared secret."""
    if key.get("use") not in (None, "sig"):
        return frozenset()
    kind, curve = key.get("kty"), key.get("crv")
    if kind == "RSA":
        fitting = _RSA
    elif kind == "EC" and isinstance(curve, str):
        fitting = _EC.get(curve, frozenset())
    elif kind == "OKP" and curve in ("Ed25519", "Ed448"):
        fitting = frozenset({"EdDSA"})
    else:
        fitting = frozenset()
    own = key.get("alg")
    if own is None:
        return fitting
    return fitting & {own} if isinstance(own, str) else frozenset()
