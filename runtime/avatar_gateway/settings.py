"""The settings of the gateway, read once from the environment and the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_gateway import errors
from avatar_gateway.core import credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX: Final = "AVATAR_GATEWAY_"
_KNOWN: Final = frozenset({"LISTEN", "ADMIN", "DRAIN_TIMEOUT_S"})
_SERVICE_LINK: Final = re.compile(r"SERVICE_HOST|(SERVICE_)?PORT(_.*)?")
"""Variables that Kubernetes sets for a Service with the name avatar-gateway."""
_MIN_KEY: Final = 16


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a listener."""

    host: str
    port: int
    """0 selects a free port."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets. `repr` hides them."""

    api_key: str = field(repr=False)
    """The key that callers present; at least 16 characters."""
    control_master: str = field(repr=False)
    """The master key from which the token of each service's pods is derived."""
    admin_token: str = field(repr=False)
    """The token of the gateway's administration port; derived from the master key by default."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one gateway."""

    sessions: Address
    """The listener of `/v1/realtime`, the demo page and the probes."""
    admin: Address
    """The listener of the metrics and the state document."""
    keys: Keys
    namespaces: tuple[str, ...]
    """The namespaces whose services are served; empty for all namespaces."""
    kubeconfig: str | None
    """The kubeconfig file outside a cluster; None uses the pod's ServiceAccount."""
    pod: str
    """The name of this replica."""
    drain_timeout_s: float
    """How long a shutdown waits for live sessions before it ends them, in seconds.

    The chart sets the pod's termination grace period to 30 s more.
    """
    metrics_open: bool
    """Whether `/metrics` is public."""


def from_env(env: Mapping[str, str], *, listen: str | None, admin: str | None) -> Settings:
    """Return the settings; command line arguments take precedence over variables.

    Raises:
        SettingsError: a variable is missing, unknown or wrong.
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
            admin_token=env.get("AVATAR_ADMIN_TOKEN")
            or credentials.control_token(master, "gateway"),
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


def _flag(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "false").lower()
    if text not in ("true", "false"):
        raise errors.SettingsError(name, text, "true or false")
    return text == "true"
