"""The master keys of the operator, and which token each pod accepts.

Two keys are valid at the same time: new pods get the tokens of the current key, and pods of the
previous key are still read and drained until the rollout has replaced them.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_contracts import labels, tokens
from avatar_operator import names

if TYPE_CHECKING:
    from avatar_operator.core.resources.fields import Body

LEAST_CHARACTERS: Final = 16
"""Length of a master key; the operator creates longer ones."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The master keys; `repr` hides them."""

    current: str = field(repr=False)
    previous: str = field(default="", repr=False)
    """Empty if there is no previous key."""

    @property
    def generation(self) -> str:
        """The public name of the current key, which new pods have as a label."""
        return tokens.generation(self.current)

    def control_tokens(self, service: str, generation: str) -> tuple[str, ...]:
        """Return the tokens that the pods of a service may accept, the most likely one first.

        `generation` is that of the pod. A pod of the previous key accepts the new token only after
        its node has updated the mounted Secret. A pod of an unknown key gets the current one then.
        """
        ordered = sorted(self._keys, key=lambda key: tokens.generation(key) != generation)
        return tuple(tokens.control_token(key, service) for key in ordered)

    def gateway_tokens(self) -> tuple[str, ...]:
        """Return the tokens that the gateways may accept, the most likely one first.

        Gateways of releases before the gateway key derive their token from the master key.
        """
        derived = [tokens.gateway_token(tokens.gateway_key(key)) for key in self._keys]
        return (*derived, *(tokens.gateway_token(key) for key in self._keys))

    def service_tokens(self, service: str) -> dict[str, str]:
        """Return the content of a service's control Secret; `service` is `NAMESPACE/NAME`."""
        found: dict[str, str] = {}
        for key, prefix in zip(self._keys, ("", labels.PREVIOUS_PREFIX), strict=False):
            shared = tokens.gateway_key(key)
            found[prefix + labels.TOKEN_FILE] = tokens.control_token(key, service)
            found[prefix + labels.STATE_TOKEN_FILE] = tokens.state_token(shared, service)
            found[prefix + labels.SESSION_TOKEN_FILE] = tokens.session_token(shared, service)
        return found

    def gateway_keys(self) -> dict[str, str]:
        """Return the content of the Secret of the gateways."""
        found = {labels.GATEWAY_KEY_FILE: tokens.gateway_key(self.current)}
        if self.previous:
            name = labels.PREVIOUS_PREFIX + labels.GATEWAY_KEY_FILE
            found[name] = tokens.gateway_key(self.previous)
        return found

    def master_keys(self) -> dict[str, str]:
        """Return the content of the Secret with the master keys."""
        previous = {names.PREVIOUS_MASTER_KEY: self.previous} if self.previous else {}
        return {names.MASTER_KEY: self.current, **previous}

    @property
    def _keys(self) -> tuple[str, ...]:
        return (self.current, self.previous) if self.previous else (self.current,)


def parse_master_keys(secret: Body) -> KeyRing:
    """Return the master keys in a stored Secret.

    Raises:
        ValueError: a key is missing, too short or not text; the message has no part of it.
    """
    current = _text(secret, names.MASTER_KEY)
    if not current:
        raise ValueError(f"has no key {names.MASTER_KEY}")
    if len(current) < LEAST_CHARACTERS:
        limit = f"must have {LEAST_CHARACTERS} characters or more"
        raise ValueError(f"key {names.MASTER_KEY} has {len(current)} characters, {limit}")
    previous = _text(secret, names.PREVIOUS_MASTER_KEY)
    return KeyRing(current, "" if previous == current else previous)


def opaque_secret(namespace: str, name: str, data: dict[str, str]) -> Body:
    """Render a Secret of the operator itself."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {names.LABEL_MANAGED_BY: names.FIELD_MANAGER},
        },
        "type": "Opaque",
        "data": encode(data),
    }


def encode(data: dict[str, str]) -> dict[str, str]:
    """Return the values as the API server stores them."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}


def _text(secret: Body, key: str) -> str:
    data = secret.get("data")
    found = data.get(key) if isinstance(data, dict) else None
    if not found:
        return ""
    try:
        return base64.b64decode(found, validate=True).decode().strip()
    except ValueError:
        raise ValueError(f"key {key} is not UTF-8 text in base64") from None
