"""Reads the environment, once, at startup; no other module reads it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

from avatar_operator.core import leader_election
from avatar_operator.core.gpus import batch_size
from avatar_operator.core.manifests.pod import PodSettings
from avatar_operator.core.planning import rollout
from avatar_operator.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Value = TypeVar("_Value")


class LogFormat(Enum):
    """The format of log lines."""

    JSON = "json"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Address:
    """The address that a server listens on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the operator."""

    namespace: str
    """AVATAR_NAMESPACE: the operator's own namespace, which has the Secret with the master key."""

    control_secret: str
    """AVATAR_CONTROL_SECRET: name of the Secret with the master key; created if missing."""

    identity: str
    """AVATAR_POD: name of this replica in the Lease, in logs and in the user agent."""

    lease: str
    """AVATAR_LEASE: name of the Lease that the replicas share; created if missing."""

    timing: leader_election.Timing
    """AVATAR_LEASE_DURATION_S, AVATAR_LEASE_RENEW_DEADLINE_S and AVATAR_LEASE_RETRY_S: seconds
    after which others may take the Lease, after which its holder stops, and between attempts. The
    defaults 4, 2.5 and 0.5 give a new leader within 5 s; 15, 10 and 2 suit a slow API server."""

    watch_namespaces: tuple[str, ...]
    """AVATAR_WATCH_NAMESPACES: namespaces whose services are reconciled; empty means all."""

    pods: PodSettings
    """AVATAR_RUNTIME_IMAGE, AVATAR_RUNTIME_IMAGE_PULL_POLICY and AVATAR_IMAGE_PULL_SECRETS."""

    memory_share: float
    """AVATAR_MEMORY_SHARE: share of a GPU's memory that a batch may use, 0.1 to 1."""

    rollout: rollout.Limits
    """AVATAR_ROLLOUT_READY_S: seconds that a new pod may take to become ready before a rollout
    halts. AVATAR_ROLLOUT_LATENCY_FACTOR: how many times the old pods' first-frame p95 the new
    pods' may be."""

    resync_s: float
    """AVATAR_RESYNC_S: seconds between full lists, which find changes that a watch missed.
    Defaults to 300."""

    health: Address
    """AVATAR_HEALTH_LISTEN: HOST:PORT of /healthz and /readyz."""

    metrics: Address
    """AVATAR_METRICS_LISTEN: HOST:PORT of /metrics."""

    metrics_open: bool
    """AVATAR_METRICS_OPEN: whether /metrics needs no token, here and in the runtime pods."""

    log_format: LogFormat
    """AVATAR_LOG_FORMAT: json or text."""

    decision_log: str = ""
    """AVATAR_DECISION_LOG: a file that each scaling decision is appended to, as one JSON object per
    line, for `avatar-operator replay`; - is stdout. Empty by default, because a busy service with
    many pods writes several MB per minute."""


def from_env(environment: Mapping[str, str]) -> Settings:
    """Build the settings from environment variables.

    Raises:
        SettingsError: a variable is missing or invalid; only the first one is reported.
    """
    reader = _Reader(environment)
    metrics_open = reader.one_of("AVATAR_METRICS_OPEN", ("false", "true")) == "true"
    return Settings(
        namespace=reader.text("AVATAR_NAMESPACE", None),
        control_secret=reader.text("AVATAR_CONTROL_SECRET", "avatar-operator-control"),
        identity=reader.text("AVATAR_POD", "avatar-operator"),
        lease=reader.text("AVATAR_LEASE", "avatar-operator"),
        timing=_timing(reader),
        watch_namespaces=reader.names("AVATAR_WATCH_NAMESPACES"),
        pods=PodSettings(
            image=reader.text("AVATAR_RUNTIME_IMAGE", None),
            image_pull_policy=reader.one_of(
                "AVATAR_RUNTIME_IMAGE_PULL_POLICY", ("IfNotPresent", "Always", "Never")
            ),
            image_pull_secrets=reader.names("AVATAR_IMAGE_PULL_SECRETS"),
            metrics_open=metrics_open,
        ),
        memory_share=reader.number("AVATAR_MEMORY_SHARE", batch_size.MEMORY_SHARE, 0.1, 1.0),
        rollout=rollout.Limits(
            ready_s=reader.number("AVATAR_ROLLOUT_READY_S", 600.0, 10.0, 86400.0),
            factor=reader.number("AVATAR_ROLLOUT_LATENCY_FACTOR", 2.0, 1.0, 100.0),
        ),
        resync_s=reader.number("AVATAR_RESYNC_S", 300.0, 1.0, 86400.0),
        health=reader.address("AVATAR_HEALTH_LISTEN", Address("0.0.0.0", 8080)),
        metrics=reader.address("AVATAR_METRICS_LISTEN", Address("0.0.0.0", 9090)),
        metrics_open=metrics_open,
        log_format=LogFormat(reader.one_of("AVATAR_LOG_FORMAT", ("json", "text"))),
        decision_log=reader.text("AVATAR_DECISION_LOG", ""),
    )


def _timing(reader: _Reader) -> leader_election.Timing:
    usual = leader_election.Timing()
    duration = reader.number("AVATAR_LEASE_DURATION_S", usual.duration_s, 1, 600)
    deadline = reader.number("AVATAR_LEASE_RENEW_DEADLINE_S", usual.renew_deadline_s, 0.1, 600)
    retry = reader.number("AVATAR_LEASE_RETRY_S", usual.retry_s, 0.05, 600)
    timing = leader_election.Timing(int(duration), deadline, retry)
    if duration != timing.duration_s:
        raise SettingsError("AVATAR_LEASE_DURATION_S", f"{duration:g}", "a whole number")
    if not deadline < timing.latest_deadline_s:
        limit = f"less than {timing.latest_deadline_s:g}, 0.75 of the duration"
        raise SettingsError("AVATAR_LEASE_RENEW_DEADLINE_S", f"{deadline:g}", limit)
    if not retry < deadline:
        limit = f"less than the renew deadline, {deadline:g}"
        raise SettingsError("AVATAR_LEASE_RETRY_S", f"{retry:g}", limit)
    return timing


class _Reader:
    """Reads variables; an empty one counts as not set, because charts render them empty."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def _read(
        self, variable: str, default: _Value | None, parse: Callable[[str], _Value], limit: str
    ) -> _Value:
        text = self._environment.get(variable, "").strip()
        if not text:
            if default is None:
                raise SettingsError(variable, None, limit)
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise SettingsError(variable, text, limit) from error

    def text(self, variable: str, default: str | None) -> str:
        return self._read(variable, default, str, "set")

    def names(self, variable: str) -> tuple[str, ...]:
        parts = self._environment.get(variable, "").split(",")
        return tuple(part.strip() for part in parts if part.strip())

    def one_of(self, variable: str, choices: tuple[str, ...]) -> str:
        def parse(text: str) -> str:
            return choices[choices.index(text.lower() if text.lower() in choices else text)]

        return self._read(variable, choices[0], parse, "one of " + ", ".join(choices))

    def number(self, variable: str, default: float, low: float, high: float) -> float:
        def parse(text: str) -> float:
            value = float(text)
            if not low <= value <= high:
                raise ValueError(text)
            return value

        return self._read(variable, default, parse, f"a number from {low:g} to {high:g}")

    def address(self, variable: str, default: Address) -> Address:
        def parse(text: str) -> Address:
            host, colon, port = text.rpartition(":")
            if not (host and colon and port.isdecimal() and int(port) <= _HIGHEST_PORT):
                raise ValueError(text)
            return Address(host.strip("[]"), int(port))

        return self._read(variable, default, parse, "HOST:PORT, for example 0.0.0.0:8080")


_HIGHEST_PORT: Final = 65535
