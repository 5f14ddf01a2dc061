"""Settings of the gateway, read once from the environment and the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_contracts import tokens
from avatar_contracts.environment import Address as Address
from avatar_contracts.environment import Environment
from avatar_contracts.labels import (
    ADMIN_PORT,
    ENV_ADMIN_TOKEN,
    ENV_LOG_FORMAT,
    ENV_METRICS_OPEN,
    ENV_POD,
    SESSIONS_PORT,
    LogFormat,
)
from avatar_gateway import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX: Final = "AVATAR_GATEWAY_"
_KNOWN: Final = frozenset({"LISTEN", "ADMIN", "DRAIN_TIMEOUT_S"})
_SERVICE_LINK: Final = re.compile(r"SERVICE_HOST|(SERVICE_)?PORT(_.*)?")
"""Variables that Kubernetes makes for a Service which happens to be called avatar-gateway."""
_MIN_KEY: Final = 16


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
        SettingsError: variables are missing, unknown or wrong; with all of them.
    """
    read = Environment(env, {f"{_PREFIX}LISTEN": listen, f"{_PREFIX}ADMIN": admin})
    for name in env:
        rest = name.removeprefix(_PREFIX)
        if rest != name and rest not in _KNOWN and not _SERVICE_LINK.fullmatch(rest):
            read.note(name, "set", "one of " + ", ".join(sorted(_KNOWN)))
    master = read.secret("AVATAR_CONTROL_MASTER", _MIN_KEY)
    settings = Settings(
        sessions=read.address(f"{_PREFIX}LISTEN", Address("0.0.0.0", SESSIONS_PORT)),
        admin=read.address(f"{_PREFIX}ADMIN", Address("0.0.0.0", ADMIN_PORT)),
        keys=Keys(
            api_key=read.secret("AVATAR_API_KEY", _MIN_KEY),
            control_master=master,
            admin_token=read.secret(ENV_ADMIN_TOKEN) or tokens.gateway_token(master),
        ),
        namespaces=read.names("AVATAR_WATCH_NAMESPACES"),
        kubeconfig=(
            None if "KUBERNETES_SERVICE_HOST" in env else read.text("KUBECONFIG", "~/.kube/config")
        ),
        pod=read.text(ENV_POD, read.text("HOSTNAME", "gateway")),
        drain_timeout_s=read.number(f"{_PREFIX}DRAIN_TIMEOUT_S", 3600.0, 0),
        metrics_open=read.boolean(ENV_METRICS_OPEN),
        log_format=LogFormat(read.choice(ENV_LOG_FORMAT, "text", ("json", "text"))),
    )
    read.check(errors.SettingsError)
    return settings
