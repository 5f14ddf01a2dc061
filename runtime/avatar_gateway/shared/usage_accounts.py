"""What a gateway gives a pod for each connection, so that any gateway knows whom it counts for.

The pod returns the text when the connection has ended. It is encrypted and authenticated with
a key that only gateways have (Fernet, from the library `cryptography`): a pod learns no tenant, and
cannot make a text of its own or use that of another pod.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from avatar_gateway.core.tenants import Credential, CredentialKind
from avatar_gateway.core.usage import Account, PlacedConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PURPOSE: Final = b"usage account"
_RECORD: Final = re.compile(r"conn_[0-9a-f]{24}")


class UsageAccounts:
    """Makes and reads the texts with the keys of the gateways."""

    def __init__(self, read_keys: Callable[[], Sequence[str]]) -> None:
        """`read_keys` returns the gateway keys, the current one first."""
        self._read_keys = read_keys
        self._keys: tuple[str, ...] = ()
        self._ciphers: MultiFernet | None = None

    def seal(self, placed: PlacedConnection) -> str:
        """Return the text for a connection; empty if the gateway has no key now."""
        ciphers = self._current()
        if ciphers is None:
            return ""
        account = placed.account
        fields = [
            placed.record,
            placed.pod_uid,
            account.tenant,
            account.service,
            account.gpu_class,
            int(placed.is_new),
            placed.at_ms,
            placed.capacity,
        ]
        if placed.is_direct:
            source = placed.source
            fields += [1, placed.longest_ms, source.kind.value, source.name, placed.secret_id]
        return ciphers.encrypt(json.dumps(fields, separators=(",", ":")).encode()).decode()

    def open(self, text: str) -> PlacedConnection | None:
        """Return what a text says; `None` if no gateway has made it, or another release."""
        ciphers = self._current()
        if ciphers is None:
            return None
        try:
            return _placed(json.loads(ciphers.decrypt(text.encode())))
        except (InvalidToken, ValueError):
            return None

    def _current(self) -> MultiFernet | None:
        """Return the ciphers of the present keys, of which the first one encrypts."""
        keys = tuple(self._read_keys())
        if keys != self._keys:
            self._keys = keys
            self._ciphers = MultiFernet([_cipher(key) for key in keys]) if keys else None
        return self._ciphers


def _cipher(key: str) -> Fernet:
    """Return the cipher of a gateway key. Its secret is HMAC-SHA256, which pods cannot derive."""
    secret = hmac.new(key.encode(), _PURPOSE, hashlib.sha256).digest()
    return Fernet(base64.urlsafe_b64encode(secret))


def _placed(fields: object) -> PlacedConnection | None:
    """Return what the fields of a text say; `None` for those of another release.

    Raises:
        ValueError: the kind of the credential is unknown.
    """
    match fields:
        case [
            str(record),
            str(pod_uid),
            str(tenant),
            str(service),
            str(gpu_class),
            int(is_new),
            int(at_ms),
            int(capacity),
            *direct,
        ] if _RECORD.fullmatch(record):
            account = Account(tenant, service, gpu_class)
            placed = PlacedConnection(record, pod_uid, account, bool(is_new), at_ms, capacity)
        case _:
            return None
    match direct:
        case []:
            return placed
        case [1, int() | None as longest_ms, str(kind), str(name), str(secret_id)]:
            return replace(
                placed,
                is_direct=True,
                longest_ms=longest_ms,
                source=Credential(CredentialKind(kind), name),
                secret_id=secret_id,
            )
        case _:
            return None
