"""The settings of the gateway, read once from the environment and the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from avatar_contracts import secret_files, tls, tokens
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
from avatar_gateway.keys import MIN_KEY, APIKeys, GatewayKeys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_gateway.core.connections import IPNetwork

_PREFIX: Final = "AVATAR_GATEWAY_"
_KNOWN: Final = frozenset(
    {
        "LISTEN",
        "ADMIN",
        "DRAIN_DELAY_S",
        "DRAIN_TIMEOUT_S",
        "BUFFER_BYTES",
        "DIRECT_URL",
        "HELD_BYTES",
        "KEY",
        "KEYS_NAMESPACE",
        "KEY_FOLDER",
        "MAX_BYTES_PER_S",
        "MAX_CONNECTIONS",
        "MAX_CONNECTIONS_PER_ADDRESS",
        "MAX_FRAMES_PER_S",
        "SHARED_STATE_CA",
        "SHARED_STATE_PASSWORD",
        "SHARED_STATE_PASSWORD_FILE",
        "SHARED_STATE_URL",
        "TLS_CERTIFICATE",
        "TLS_KEY",
        "TENANTS",
        "TRUSTED_PROXIES",
        "USAGE_LOG",
    }
)
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SERVICE_LINK: Final = re.compile(r"SERVICE_HOST|(SERVICE_)?PORT(_.*)?")
"""Variables that Kubernetes sets for a Service with the name avatar-gateway."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets. `repr` hides them."""

    api: APIKeys
    """The keys that callers present; at least 16 characters."""
    gateway: GatewayKeys
    """The gateway keys, from which the tokens of each service's pods are derived."""
    admin_token: str = field(repr=False)
    """The token of the gateway's administration port; derived from the gateway key if empty."""

    def admin_tokens(self) -> tuple[str, ...]:
        """Return the tokens that the administration port accepts now."""
        if self.admin_token:
            return (self.admin_token,)
        return tuple(tokens.gateway_token(key) for key in self.gateway.read())


@dataclass(frozen=True, slots=True)
class Tenants:
    """Whether AvatarTenants are followed, and where their keys are."""

    enabled: bool = True
    """Without it, only keys of the platform are accepted."""
    keys_namespace: str = ""
    """The namespace of the Secrets with API keys of tenants; empty for none. The gateway can read
    all Secrets of this namespace, so nothing else should be in it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What connections may use, so that none of them disturbs the others.

    A session needs about 100 frames and 2 MB in a second: 25 video frames, 50 pieces of audio and
    their events. The rates apply to each direction of each session. Faster senders are slowed down.
    """

    frames_per_s: float = 2000
    """Mean WebSocket frames in a second. A pod answers over 1,000 events in a second itself."""
    bytes_per_s: float = 8 * 2**20
    """Mean bytes in a second."""
    held_bytes: int = 64 * 1024
    """What a caller may send while it waits for a slot; more ends its wait with close code 1009."""
    buffer_bytes: int = 128 * 2**20
    """The buffers of all connections together. Above it, a connection with more than an equal share
    is not read; it is less than the memory limit of the pod in the chart."""
    connections: int = 4096
    """Open connections of the sessions port; fewer if the process may open few descriptors."""
    connections_per_address: int = 0
    """Those of one IPv4 address or IPv6 /64 network; 0 stands for half of all."""
    trusted_proxies: tuple[IPNetwork, ...] = ()
    """Proxies without a limit of their own, whose `X-Forwarded-For` names the caller."""


@dataclass(frozen=True, slots=True)
class SharedStateAddress:
    """The Redis or Valkey server of the state that several gateways share. `repr` hides secrets."""

    url: str = field(default="", repr=False)
    """redis://, rediss:// (TLS) or unix://; empty for a state in the memory of this gateway."""
    password: str = field(default="", repr=False)
    password_file: str = ""
    """A file with the password, read for each new connection."""
    ca: str = ""
    """PEM file with the certificate authorities of the server; empty for those of the system."""

    def read_password(self) -> str:
        """Return the password as it is now, empty if the URL has it or there is none."""
        if self.password_file:
            return secret_files.read(Path(self.password_file))
        return self.password


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
    drain_delay_s: float
    """How long a shutdown still accepts sessions, so that load balancers notice that the gateway is
    not ready, in seconds."""
    drain_timeout_s: float
    """How long a shutdown waits for live sessions before it ends them, in seconds.

    The chart sets the pod's termination grace period to the delay and 30 s more.
    """
    metrics_open: bool
    """Whether `/metrics` is public."""
    log_format: LogFormat
    limits: Limits
    tenants: Tenants = Tenants()
    direct_url: str = ""
    """Where clients reach a pod in direct mode, for example
    `wss://{pod}.{namespace}.media.example/v1/realtime`; empty turns direct mode off."""
    certificate: tls.CertificateFiles | None = None
    """The certificate of the sessions port; None serves without encryption."""
    shared_state: SharedStateAddress = SharedStateAddress()
    usage_log: str = ""
    """The file of the usage log, `-` for the standard output; empty for none."""


def from_env(env: Mapping[str, str], *, listen: str | None, admin: str | None) -> Settings:
    """Return the settings; command line arguments take precedence over variables.

    Raises:
        SettingsError: variables are missing, unknown or wrong; it names all of them.
    """
    read = Environment(env, {f"{_PREFIX}LISTEN": listen, f"{_PREFIX}ADMIN": admin})
    for name in env:
        rest = name.removeprefix(_PREFIX)
        if rest != name and rest not in _KNOWN and not _SERVICE_LINK.fullmatch(rest):
            read.note(name, "set", "one of " + ", ".join(sorted(_KNOWN)))
    settings = Settings(
        sessions=read.address(f"{_PREFIX}LISTEN", Address("0.0.0.0", SESSIONS_PORT)),
        admin=read.address(f"{_PREFIX}ADMIN", Address("0.0.0.0", ADMIN_PORT)),
        keys=Keys(
            api=_api_keys(read),
            gateway=_gateway_keys(read),
            admin_token=read.secret(ENV_ADMIN_TOKEN),
        ),
        namespaces=read.names("AVATAR_WATCH_NAMESPACES"),
        kubeconfig=(
            None if "KUBERNETES_SERVICE_HOST" in env else read.text("KUBECONFIG", "~/.kube/config")
        ),
        pod=read.text(ENV_POD, read.text("HOSTNAME", "gateway")),
        drain_delay_s=read.number(f"{_PREFIX}DRAIN_DELAY_S", 0.0, 0, 600),
        drain_timeout_s=read.number(f"{_PREFIX}DRAIN_TIMEOUT_S", 3600.0, 0),
        metrics_open=read.boolean(ENV_METRICS_OPEN),
        log_format=LogFormat(read.choice(ENV_LOG_FORMAT, "text", ("json", "text"))),
        limits=_limits(read),
        direct_url=read.parsed(
            f"{_PREFIX}DIRECT_URL",
            "",
            _direct_url,
            "a ws:// or wss:// address with {pod}, and {namespace} if names of pods repeat",
        ),
        tenants=Tenants(
            enabled=read.boolean(f"{_PREFIX}TENANTS", default=True),
            keys_namespace=read.parsed(
                f"{_PREFIX}KEYS_NAMESPACE", "", _namespace, "the name of a namespace"
            ),
        ),
        certificate=tls.from_env(read, f"{_PREFIX}TLS_CERTIFICATE", f"{_PREFIX}TLS_KEY"),
        shared_state=shared_state(read),
        usage_log=read.text(f"{_PREFIX}USAGE_LOG", ""),
    )
    read.check(errors.SettingsError)
    return settings


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise ValueError(text)
    return text


def _direct_url(text: str) -> str:
    """Return a template that `str.format` fills with `pod` and `namespace`.

    Raises:
        ValueError: it is not one.
    """
    fields = {name for _, name, *_ in Formatter().parse(text) if name is not None}
    if "pod" not in fields or not fields <= {"pod", "namespace"}:
        raise ValueError(text)
    parts = urlsplit(text.format(pod="p", namespace="n"))
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(text)
    return text


def _limits(read: Environment) -> Limits:
    default = Limits()
    return Limits(
        frames_per_s=read.number(f"{_PREFIX}MAX_FRAMES_PER_S", default.frames_per_s, 200),
        bytes_per_s=read.number(f"{_PREFIX}MAX_BYTES_PER_S", default.bytes_per_s, 2**20),
        held_bytes=read.integer(f"{_PREFIX}HELD_BYTES", default.held_bytes, 1024, 2**16),
        buffer_bytes=read.integer(f"{_PREFIX}BUFFER_BYTES", default.buffer_bytes, 2**20, 2**40),
        connections=read.integer(f"{_PREFIX}MAX_CONNECTIONS", default.connections, 1, 10**6),
        connections_per_address=read.integer(
            f"{_PREFIX}MAX_CONNECTIONS_PER_ADDRESS", default.connections_per_address, 0, 10**6
        ),
        trusted_proxies=read.parsed(
            f"{_PREFIX}TRUSTED_PROXIES",
            (),
            lambda text: tuple(ip_network(part.strip()) for part in text.split(",")),
            "addresses or networks with commas, for example 10.0.0.0/8",
        ),
    )


def shared_state(read: Environment) -> SharedStateAddress:
    """Return the server of the shared state; faults are noted."""
    name = f"{_PREFIX}SHARED_STATE_URL"
    url = read.secret(name).strip()
    if url and not _is_shared_state_url(url):
        # The value may contain a password.
        read.note(name, "***", "redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH")
    return SharedStateAddress(
        url=url,
        password=read.secret(f"{_PREFIX}SHARED_STATE_PASSWORD"),
        password_file=read.text(f"{_PREFIX}SHARED_STATE_PASSWORD_FILE", ""),
        ca=read.text(f"{_PREFIX}SHARED_STATE_CA", ""),
    )


def _is_shared_state_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    return parts.scheme in ("redis", "rediss") and bool(parts.hostname) and port != 0


def _api_keys(read: Environment) -> APIKeys:
    folder = read.text("AVATAR_API_KEY_FOLDER", "")
    return APIKeys(folder, "" if folder else read.secret("AVATAR_API_KEY", MIN_KEY))


def _gateway_keys(read: Environment) -> GatewayKeys:
    """Return the gateway keys: a folder, a key, or the master key that it is derived from.

    Only a gateway outside a cluster should be given the master key, which can control pods.
    """
    folder = read.text(f"{_PREFIX}KEY_FOLDER", "")
    if folder or read.raw(f"{_PREFIX}KEY"):
        return GatewayKeys(folder, "" if folder else read.secret(f"{_PREFIX}KEY", MIN_KEY))
    if master := read.raw("AVATAR_CONTROL_MASTER"):
        read.secret("AVATAR_CONTROL_MASTER", MIN_KEY)
        return GatewayKeys("", tokens.gateway_key(master))
    read.note(f"{_PREFIX}KEY_FOLDER", None, f"set, or {_PREFIX}KEY")
    return GatewayKeys("", "")
