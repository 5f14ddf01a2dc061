"""Settings of the gateway, read once from the environment and the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_contracts import tokens
from avatar_contracts.labels import ENV_LOG_FORMAT, LogFormat
from avatar_gateway import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX: Final = "AVATAR_GATEWAY_"
_KNOWN: Final = frozenset({"LISTEN", "ADMIN", "DRAIN_TIMEOUT_S"})
_SERVICE_LINK: Final = re.compile(r"SERVICE_HOST|(SERVICE_)?PORT(_.*)?")
"""Variables that Kubernetes makes for a Service which happens to be called avatar-gateway."""
_MIN_KEY: Final = 16


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener binds."""

    host: str
    port: int
    """0 lets the system choose."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Secrets; none of them is shown."""

    api_key: str = field(repr=False)
    """What callers present; at least 16 characters."""
    control_master: str = field(repr=False)
    """From it the token of each service's pods is derived."""
    admin_token: str = field(repr=False)
    """What the gateway's own administration port wants; derived from the master unless given."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a gateway needs to know at its start."""

    sessions: Address
    """`/v1/realtime`, the page and the probes."""
    admin: Address
    """Metrics and the control state."""
    keys: Keys
    namespaces: tuple[str, ...]
    """Namespaces whose services are offered; empty for the whole cluster."""
    kubeconfig: str | None
    """File for use outside a cluster; None takes the pod's ServiceAccount."""
    pod: str
    """Name of this replica."""
    drain_timeout_s: float
    """How long a gateway that is to go waits for its sessions, in seconds."""
    metrics_open: bool
    """Whether `/metrics` wants no token."""
    log_format: LogFormat


def from_env(env: Mapping[str, str], *, listen: str | None, admin: str | None) -> Settings:
    """Return the settings; arguments of the command line win over variables.

    Raises:
        SettingsError: a variable is missing, unknown or bad.
    """
    for name in env:
        rest = name.removeprefix(_PREFIX)
        if rest != name and rest not in _KNOWN and not _SERVICE_LINK.fullmatch(rest):
            raise errors.SettingsError(name, "set", "one of " + ", ".join(sorted(_KNOWN)))
    master = _required(env, "AVATAR_CONTROL_MASTER")
    in_cluster = "KUBERNETES_SERVICE_HOST" in env
    return Settings(
        sessions=_address("LISTEN", listen or env.get(f"{_PREFIX}LISTEN", "0.0.0.0:8080")),
        admin=_address("ADMIN", admin or env.get(f"{_PREFIX}ADMIN", "0.0.0.0:9090")),
        keys=Keys(
            api_key=_required(env, "AVATAR_API_KEY"),
            control_master=master,
            admin_token=env.get("AVATAR_ADMIN_TOKEN") or tokens.gateway_token(master),
        ),
        namespaces=tuple(
            name.strip()
            for name in env.get("AVATAR_WATCH_NAMESPACES", "").split(",")
            if name.strip()
        ),
        kubeconfig=None if in_cluster else env.get("KUBECONFIG", "~/.kube/config"),
        pod=env.get("AVATAR_POD") or env.get("HOSTNAME") or "gateway",
        drain_timeout_s=_seconds(env, f"{_PREFIX}DRAIN_TIMEOUT_S", 3600.0),
        metrics_open=_flag(env, "AVATAR_METRICS_OPEN"),
        log_format=_log_format(env),
    )


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if len(value) < _MIN_KEY:
        raise errors.SettingsError(name, "***" if value else "", f"{_MIN_KEY} characters or more")
    return value


def _address(name: str, text: str) -> Address:
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise errors.SettingsError(f"{_PREFIX}{name}", text, "HOST:PORT")
    return Address(host.strip("[]"), int(port))


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise errors.SettingsError(name, text, "a number of seconds, 0 or more")
    return value


def _log_format(env: Mapping[str, str]) -> LogFormat:
    text = env.get(ENV_LOG_FORMAT) or LogFormat.TEXT.value
    try:
        return LogFormat(text.lower())
    except ValueError:
        raise errors.SettingsError(ENV_LOG_FORMAT, text, "one of json, text") from None


def _flag(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "false").lower()
    if text not in ("true", "false"):
        raise errors.SettingsError(name, text, "true or false")
    return text == "true"
