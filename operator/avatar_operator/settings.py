"""Reads the environment, once, at startup; no other module reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_contracts.environment import Address as Address
from avatar_contracts.environment import Environment
from avatar_contracts.labels import LogFormat
from avatar_operator.core import leader_election
from avatar_operator.core.gpus import batch_size
from avatar_operator.core.manifests import model_cache
from avatar_operator.core.manifests.network_policy import parse_egress, parse_rules
from avatar_operator.core.manifests.pod import PodSettings
from avatar_operator.core.manifests.preparation import PreparationSettings
from avatar_operator.core.planning import rollout
from avatar_operator.core.resources.pod_defaults import PodDefaults, parse_pod_defaults
from avatar_operator.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the operator."""

    namespace: str
    """AVATAR_NAMESPACE: the operator's own namespace, which has the Secret with the master key."""

    control_secret: str
    """AVATAR_CONTROL_SECRET: name of the Secret with the master key; created if missing."""

    gateway_secret: str
    """AVATAR_GATEWAY_SECRET: name of the Secret with the key of the gateways; written."""

    key_refresh_s: float
    """AVATAR_KEY_REFRESH_S: time between two reads of the master key, from 1 s."""

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
    """AVATAR_RUNTIME_IMAGE, AVATAR_RUNTIME_IMAGE_PULL_POLICY, AVATAR_IMAGE_PULL_SECRETS, and
    AVATAR_RUNTIME_DEFAULTS: a JSON object, the value runtime.defaults of the chart.
    AVATAR_NETWORK_POLICY: the spec of a NetworkPolicy as JSON, without its pod selector, which the
    operator applies to the pods of each service; empty if it creates none.
    AVATAR_MODEL_CACHE_VOLUME: the volume source of the cache as JSON. AVATAR_MODEL_CACHE_MAX_MIB:
    what it may hold. AVATAR_MODEL_HOSTS: hosts that downloads may name, as AVATAR_URL_HOSTS."""

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
    """AVATAR_LOG_FORMAT: json for programs, text for people, here and in new runtime pods."""

    preparation: PreparationSettings = field(default_factory=PreparationSettings)
    """AVATAR_PREPARATIONS_PER_CLASS: Jobs that prepare avatars at once on each GPU class, and on
    CPUs. AVATAR_URL_HOSTS: hosts that the URLs of sources may name, *.example.com for all below it;
    empty means none. AVATAR_URL_MAX_MIB: largest file that is downloaded.
    AVATAR_PREPARATION_EGRESS: egress rules of the pods that download, as a JSON list; empty if the
    operator creates no NetworkPolicy for preparations."""

    decision_log: str = ""
    """AVATAR_DECISION_LOG: a file that each scaling decision is appended to, as one JSON object per
    line, for `avatar-operator replay`; - is stdout. Empty by default, because a busy service with
    many pods writes several MB per minute."""

    @property
    def installation(self) -> str:
        """The identity of this installation of the operator in the cluster: its Lease."""
        return f"{self.namespace}/{self.lease}"


_HOST: Final = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?|[0-9a-f:]{2,39}")


def from_env(environment: Mapping[str, str]) -> Settings:
    """Build the settings from environment variables.

    Raises:
        SettingsError: variables are missing or cannot be used; with all of them.
    """
    read = Environment(environment)
    metrics_open = read.boolean("AVATAR_METRICS_OPEN")
    preparation = _preparation(read)
    log_format = LogFormat(read.choice("AVATAR_LOG_FORMAT", "json", ("json", "text")))
    settings = Settings(
        namespace=read.required("AVATAR_NAMESPACE"),
        control_secret=read.text("AVATAR_CONTROL_SECRET", "avatar-operator-control"),
        key_refresh_s=read.number("AVATAR_KEY_REFRESH_S", 30.0, 1.0, 3600.0),
        gateway_secret=read.text("AVATAR_GATEWAY_SECRET", "avatar-operator-gateway-key"),
        identity=read.text("AVATAR_POD", "avatar-operator"),
        lease=read.text("AVATAR_LEASE", "avatar-operator"),
        timing=_timing(read),
        watch_namespaces=read.names("AVATAR_WATCH_NAMESPACES"),
        pods=PodSettings(
            image=read.required("AVATAR_RUNTIME_IMAGE"),
            image_pull_policy=read.choice(
                "AVATAR_RUNTIME_IMAGE_PULL_POLICY",
                "IfNotPresent",
                ("IfNotPresent", "Always", "Never"),
            ),
            image_pull_secrets=read.names("AVATAR_IMAGE_PULL_SECRETS"),
            metrics_open=metrics_open,
            log_format=log_format,
            defaults=_pod_defaults(read),
            network_rules=read.parsed(
                "AVATAR_NETWORK_POLICY",
                None,
                parse_rules,
                "a JSON object with the lists egress, ingress and policyTypes",
            ),
            cache=_model_cache(read, preparation),
        ),
        memory_share=read.number("AVATAR_MEMORY_SHARE", batch_size.MEMORY_SHARE, 0.1, 1.0),
        rollout=rollout.Limits(
            ready_s=read.number("AVATAR_ROLLOUT_READY_S", 600.0, 10.0, 86400.0),
            factor=read.number("AVATAR_ROLLOUT_LATENCY_FACTOR", 2.0, 1.0, 100.0),
        ),
        resync_s=read.number("AVATAR_RESYNC_S", 300.0, 1.0, 86400.0),
        health=read.address("AVATAR_HEALTH_LISTEN", Address("0.0.0.0", 8080)),
        metrics=read.address("AVATAR_METRICS_LISTEN", Address("0.0.0.0", 9090)),
        metrics_open=metrics_open,
        log_format=log_format,
        preparation=preparation,
        decision_log=read.text("AVATAR_DECISION_LOG", ""),
    )
    read.check(SettingsError)
    return settings


def installation_from_env(environment: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Return the identity of this installation and the namespaces of its services.

    Raises:
        SettingsError: variables are missing or cannot be used; with all of them.
    """
    read = Environment(environment)
    namespace, lease = read.required("AVATAR_NAMESPACE"), read.required("AVATAR_LEASE")
    namespaces = read.names("AVATAR_WATCH_NAMESPACES")
    read.check(SettingsError)
    return f"{namespace}/{lease}", namespaces


def _hosts(read: Environment, name: str) -> tuple[str, ...]:
    hosts = read.names(name)
    for host in hosts:
        if not _HOST.fullmatch(host):
            limit = "lowercase host names without a port, or *. and a host name"
            read.note(name, host, limit)
    return hosts


def _model_cache(read: Environment, preparation: PreparationSettings) -> model_cache.ModelCache:
    usual = model_cache.ModelCache()
    kinds = ", ".join(model_cache.VOLUME_KINDS)
    return model_cache.ModelCache(
        volume=read.parsed(
            "AVATAR_MODEL_CACHE_VOLUME",
            usual.volume,
            model_cache.parse_volume,
            f"a JSON object with one of {kinds}",
        ),
        max_mib=int(
            read.number("AVATAR_MODEL_CACHE_MAX_MIB", usual.max_mib, 1, model_cache.HIGHEST_MIB)
        ),
        hosts=_hosts(read, "AVATAR_MODEL_HOSTS"),
        egress=tuple(preparation.egress or ()),
    )


def _preparation(read: Environment) -> PreparationSettings:
    hosts = _hosts(read, "AVATAR_URL_HOSTS")
    return PreparationSettings(
        per_class=int(read.number("AVATAR_PREPARATIONS_PER_CLASS", 1, 1, 100)),
        hosts=hosts,
        max_mib=int(read.number("AVATAR_URL_MAX_MIB", 1024, 1, 102_400)),
        egress=read.parsed(
            "AVATAR_PREPARATION_EGRESS", None, parse_egress, "a JSON list of egress rules"
        ),
    )


def _pod_defaults(read: Environment) -> PodDefaults:
    variable = "AVATAR_RUNTIME_DEFAULTS"
    parsed = read.parsed(variable, None, parse_pod_defaults, "a JSON object")
    if parsed is None:
        return PodDefaults()
    defaults, faults = parsed
    read.note_fields(faults)
    return defaults


def _timing(read: Environment) -> leader_election.Timing:
    usual = leader_election.Timing()
    known = len(read.faults)
    duration = read.number("AVATAR_LEASE_DURATION_S", usual.duration_s, 1, 600)
    deadline = read.number("AVATAR_LEASE_RENEW_DEADLINE_S", usual.renew_deadline_s, 0.1, 600)
    retry = read.number("AVATAR_LEASE_RETRY_S", usual.retry_s, 0.05, 600)
    timing = leader_election.Timing(int(duration), deadline, retry)
    if len(read.faults) > known:
        return timing  # a default in the place of a wrong value says nothing about the others
    if duration != timing.duration_s:
        read.note("AVATAR_LEASE_DURATION_S", f"{duration:g}", "a whole number")
    elif not deadline < timing.latest_deadline_s:
        limit = f"less than {timing.latest_deadline_s:g}, 0.75 of the duration"
        read.note("AVATAR_LEASE_RENEW_DEADLINE_S", f"{deadline:g}", limit)
    elif not retry < deadline:
        limit = f"less than the renew deadline, {deadline:g}"
        read.note("AVATAR_LEASE_RETRY_S", f"{retry:g}", limit)
    return timing
