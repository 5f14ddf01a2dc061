"""The bearer tokens of administration ports, derived from the master key of the operator.

The operator and the gateway share the master key and derive the same tokens from it. A runtime
pod gets only the token of its service, from a Secret.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

_GATEWAY: Final = "gateway"


def control_token(master: str, service: str) -> str:
    """Return the token of the runtime pods of a service (`NAMESPACE/NAME`).

    It is the HMAC-SHA256 of the name under the master key, as 64 hexadecimal digits.
    """
    return hmac.new(master.encode(), service.encode(), hashlib.sha256).hexdigest()


def gateway_token(master: str) -> str:
    """Return the token of the gateways; the name of a service has a `/`, so none has this token."""
    return control_token(master, _GATEWAY)
