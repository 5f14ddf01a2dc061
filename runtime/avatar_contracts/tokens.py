"""The bearer tokens of pods, derived from the master key of the operator.

Only the operator holds the master key. The gateways hold the gateway key, which is derived from
it: they can read states and open sessions, but they cannot drain a pod. A runtime pod gets only the
three tokens of its service, from a Secret.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

URL_KEYS: Final = frozenset(
    {"access_token", "api-key", "api_key", "apikey", "authorization", "client_secret", "key"}
    | {"resume_token", "secret", "token"}
)
"""Query parameters that always hold a credential, in lower case. Gateways and pods refuse them,
because URLs are logged."""
_GATEWAY: Final = "gateway"
_GATEWAY_KEY: Final = "gateway-key"
_GENERATION: Final = "generation"
_GENERATION_DIGITS: Final = 10
_CALLER_DIGITS: Final = 16


def control_token(master: str, service: str) -> str:
    """Return the token with which the operator controls the pods of a service (`NAMESPACE/NAME`).

    It is the HMAC-SHA256 of the name under the master key, as 64 hexadecimal digits.
    """
    return _derive(master, service)


def gateway_token(key: str) -> str:
    """Return the token with which the operator reads the gateways' state; `key` is the gateway key.

    The name of a service has a `/`, so no service has this token.
    """
    return _derive(key, _GATEWAY)


def gateway_key(master: str) -> str:
    """Return the key of the gateways; the master key cannot be computed from it."""
    return _derive(master, _GATEWAY_KEY)


def state_token(key: str, service: str) -> str:
    """Return the token that reads the state of a service's pods; `key` is the gateway key."""
    return _derive(key, f"state:{service}")


@lru_cache(maxsize=1024)
def session_token(key: str, service: str) -> str:
    """Return the token that opens sessions on a service's pods; `key` is the gateway key."""
    return _derive(key, f"session:{service}")


def caller_code(key: str, address: str) -> str:
    """Return what stands for the address of a caller; `key` is the gateway key.

    It is the same at all gateways. Nobody can compute the address from it without the key, not even
    by trying all addresses. 16 hexadecimal digits.
    """
    return _derive(key, f"caller:{address}")[:_CALLER_DIGITS]


def generation(master: str) -> str:
    """Return a short public name of a master key: 10 hexadecimal digits, safe in a label."""
    return _derive(master, _GENERATION)[:_GENERATION_DIGITS]


def matches(presented: str, accepted: Iterable[str]) -> bool:
    """Return whether a token is one of the accepted ones, without a hint in the time taken.

    An empty token is never accepted. A header may contain bytes that are not UTF-8; they arrive as
    lone surrogates.
    """
    actual = presented.encode(errors="surrogatepass")
    equal = [hmac.compare_digest(actual, each.encode()) for each in accepted if each]
    return any(equal)


def _derive(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()
