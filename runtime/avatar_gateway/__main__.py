"""Command line of the gateway: `avatar-gateway serve`, `keys` and `usage`."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import logging
import os
import random
import secrets
import signal
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from avatar_contracts import descriptors, logs, tls
from avatar_contracts.backoff import Backoff
from avatar_gateway import errors, event_loop, settings
from avatar_gateway import keys as keys_of
from avatar_gateway.cli import keys, usage
from avatar_gateway.core.connections import limits_for
from avatar_gateway.core.memory_budget import MemoryBudget
from avatar_gateway.kube import informers, tenant_sinks
from avatar_gateway.metrics import Metrics
from avatar_gateway.pod_registry import PodRegistry
from avatar_gateway.serving import audit
from avatar_gateway.serving.admin import Admin
from avatar_gateway.serving.app import Gateway
from avatar_gateway.serving.auth import Authenticator
from avatar_gateway.serving.direct_sessions import DirectSessions
from avatar_gateway.serving.placement import Placer
from avatar_gateway.serving.pod_answers import PodRequests
from avatar_gateway.serving.revocation import RevocationWatch
from avatar_gateway.serving.server import ADMIN_LIMITS, Listener
from avatar_gateway.serving.sessions import Sessions
from avatar_gateway.serving.token_verifier import TokenVerifier
from avatar_gateway.shared.connection import Address, Connection
from avatar_gateway.shared.leases import Leases
from avatar_gateway.shared.memory import MemoryState
from avatar_gateway.shared.metering import Meter
from avatar_gateway.shared.redis import RedisState
from avatar_gateway.shared.usage_accounts import UsageAccounts
from avatar_gateway.shared.usage_log import UsageLog
from avatar_gateway.shared.use_counts import SharedUseCounts
from avatar_gateway.shared.waiting import shared_queue
from avatar_gateway.streams.key_sets import KeySets
from avatar_gateway.streams.runtimes import (
    STATES,
    USAGE,
    PodStreams,
    new_http_session,
    update_states,
)
from avatar_gateway.tenant_registry import TenantRegistry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubernetes.aio import client

    from avatar_contracts.list_watch import Reflector
    from avatar_gateway.shared.state import SharedState

LOG_LEVELS: Final = {
    # At WARNING, aiohttp logs the subprotocols of a caller, which may contain a client secret.
    "aiohttp.websocket": logging.ERROR,
}
LIMITED_LOGGERS: Final = (
    *logs.LIMITED_LIBRARIES,
    "avatar_gateway.serving.answers",
    "avatar_gateway.serving.connection",
    "avatar_gateway.serving.placement",
    "avatar_gateway.serving.server",
    "avatar_gateway.streams.key_sets",
)
"""Loggers of records that a caller can cause without a session."""

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 2 for wrong settings or arguments."""
    parser = argparse.ArgumentParser(prog="avatar-gateway", description=__doc__)
    version = importlib.metadata.version("avatar-service")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve_parser = commands.add_parser("serve", help="run one gateway")
    serve_parser.add_argument("--listen", help="HOST:PORT of the sessions port")
    serve_parser.add_argument("--admin", help="HOST:PORT of the administration port")
    serve_parser.add_argument(
        "--tls-certificate", metavar="FILE", help="PEM file to serve TLS with"
    )
    serve_parser.add_argument("--tls-key", metavar="FILE", help="private key of the certificate")
    keys.add_parser(commands)
    usage.add_parser(commands)
    options = parser.parse_args(arguments)
    if options.command == "keys":
        return keys.run(options)
    if options.command == "usage":
        return usage.run(options, os.environ, time.time())
    try:
        given = {
            "AVATAR_GATEWAY_TLS_CERTIFICATE": options.tls_certificate,
            "AVATAR_GATEWAY_TLS_KEY": options.tls_key,
        }
        environment = os.environ | {name: value for name, value in given.items() if value}
        chosen = settings.from_env(environment, listen=options.listen, admin=options.admin)
    except errors.SettingsError as error:
        print(f"avatar-gateway: {error}", file=sys.stderr)
        return 2
    if not chosen.keys.api.read():
        file = f"{chosen.keys.api.folder}/{keys_of.API_KEY_FILE}"
        print(f"avatar-gateway: {file} has no key of {keys_of.MIN_KEY} characters", file=sys.stderr)
        return 2
    try:
        files = chosen.certificate
        certificate = None if files is None else tls.ServerCertificate(files)
    except tls.CertificateError as error:
        print(f"avatar-gateway: {error}", file=sys.stderr)
        return 2
    logs.configure(chosen.log_format, LOG_LEVELS, LIMITED_LOGGERS)
    audit.configure(sys.stderr)
    event_loop.collect_less_often()
    event_loop.run(serve(chosen, certificate))
    return 0


async def serve(chosen: settings.Settings, certificate: tls.ServerCertificate | None) -> None:
    """Run both ports, the watches and the state streams until a signal, then drain."""
    sessions, registry = Sessions(), PodRegistry()
    state = _shared_state(chosen.shared_state)
    tenants = TenantRegistry(chosen.tenants.keys_namespace)
    metrics = Metrics(
        lambda: sessions.live,
        lambda: sessions.waiting,
        lambda: listener.connections,
        lambda: leases.state_name != "unavailable",
    )
    listener = _listener(chosen.limits, metrics, certificate)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(informers.connected(chosen.kubeconfig))
        http = await stack.enter_async_context(new_http_session())
        budget = MemoryBudget(chosen.limits.buffer_bytes)
        api_keys = keys_of.KeyCache(chosen.keys.api.folder, chosen.keys.api.read, time.monotonic)
        gateway_keys = keys_of.KeyCache(
            chosen.keys.gateway.folder, chosen.keys.gateway.read, time.monotonic
        )
        watches = _watches(api, chosen, registry, tenants)
        key_sets = KeySets(tenants)
        stack.push_async_callback(key_sets.close)
        audit_log = audit.AuditLog()
        stack.push_async_callback(state.close)
        loop = asyncio.get_running_loop()
        name = f"{chosen.pod}/{secrets.token_hex(4)}"  # no other process has it
        leases = Leases(state, name, loop.time)
        direct = DirectSessions(leases, PodRequests(http, gateway_keys), loop.time, time.time)
        stack.push_async_callback(direct.close)
        meter = Meter(
            state,
            UsageLog(chosen.usage_log),
            chosen.pod,
            registry.capacity,
            loop.time,
            time.time,
            metrics.usage,
            UsageAccounts(gateway_keys),
            direct,
        )
        placer = Placer(registry, gateway_keys, budget, meter)
        stack.push_async_callback(placer.close)
        sessions.shared_state = lambda: leases.state_name
        streams = PodStreams(
            STATES,
            update_states(registry),
            registry,
            http,
            gateway_keys,
            _backoff,
            metrics.count_state_fault,
            registry.refresh_state,
        )
        uses = PodStreams(
            USAGE,
            meter.on_line,
            registry,
            http,
            gateway_keys,
            _backoff,
            metrics.count_state_fault,
        )
        gateway = Gateway(
            Authenticator(
                api_keys,
                tenants,
                TokenVerifier(tenants, key_sets),
                gateway_keys,
                SharedUseCounts(state, time.time),
            ),
            tenants,
            placer,
            sessions,
            metrics,
            lambda: all(watch.synced.is_set() for watch in watches),
            chosen.limits,
            budget,
            audit_log,
            leases,
            meter,
            lambda service: shared_queue(state, service, name),
            chosen.direct_url,
        )
        admin = Admin(
            chosen,
            registry,
            tenants,
            sessions,
            metrics,
            lambda: gateway.is_ready,
            leases,
            gateway.tenant_waiting,
        )
        revocations = RevocationWatch(sessions, tenants, audit_log, direct)
        await stack.enter_async_context(listener.listening(gateway.application(), chosen.sessions))
        await stack.enter_async_context(
            Listener(ADMIN_LIMITS).listening(admin.application(), chosen.admin)
        )
        async with asyncio.TaskGroup() as group:
            background = [
                *(group.create_task(watch.run(), name="watch") for watch in watches),
                group.create_task(streams.run(), name="states"),
                group.create_task(key_sets.run(), name="key-sets"),
                group.create_task(revocations.run(), name="revocations"),
                group.create_task(leases.run(), name="leases"),
                group.create_task(meter.run(), name="usage"),
                group.create_task(uses.run(), name="usage-of-pods"),
                group.create_task(placer.silent_pods.run(), name="silent-pods"),
            ]
            if certificate is not None:
                background.append(group.create_task(certificate.follow(), name="certificate"))
            await _drain_on_signal(sessions, chosen.drain_delay_s, chosen.drain_timeout_s)
            await meter.close()
            await leases.report()  # what the last sessions held is free at once
            for task in background:
                task.cancel()


def _watches(
    api: client.ApiClient,
    chosen: settings.Settings,
    registry: PodRegistry,
    tenants: TenantRegistry,
) -> list[Reflector]:
    """Return the watches of all kinds that the gateway follows."""
    watches = [
        informers.reflector(api, kind, namespace, sink, _backoff())
        for namespace in chosen.namespaces or (None,)
        for kind, sink in (
            (informers.PODS, informers.PodSink(registry)),
            (informers.SERVICES, informers.ServiceSink(registry, tenants)),
        )
    ]
    if not chosen.tenants.enabled:
        return watches
    optional: list[tuple[str, str | None, informers.EventSink]] = [
        (informers.TENANTS, None, tenant_sinks.TenantSink(tenants)),
        (informers.NAMESPACES, None, tenant_sinks.NamespaceSink(tenants)),
    ]
    if chosen.tenants.keys_namespace:
        keys = tenant_sinks.KeySink(tenants)
        optional.append((informers.SECRETS, chosen.tenants.keys_namespace, keys))
    return watches + [
        informers.reflector(api, kind, namespace, sink, _backoff(), optional=True)
        for kind, namespace, sink in optional
    ]


def _shared_state(chosen: settings.SharedStateAddress) -> SharedState:
    """Return the state that this gateway shares with others, or one of its own."""
    if not chosen.url:
        _log.info("shared state none, limits of tenants count for each gateway alone")
        return MemoryState(time.time)
    address = Address(chosen.url, chosen.read_password, chosen.ca)
    _log.info("shared state address=%s", address)
    return RedisState(Connection(address, _backoff()))


def _listener(
    limits: settings.Limits, metrics: Metrics, certificate: tls.ServerCertificate | None
) -> Listener:
    """Return the listener of the sessions port, with limits that the process can keep."""
    available = descriptors.raise_limit()
    kept = limits_for(limits.connections, limits.connections_per_address, available)
    _log.info(
        "connection limits total=%d per_address=%d descriptors=%d",
        kept.total,
        kept.per_address,
        available,
    )
    context = None if certificate is None else certificate.context
    return Listener(kept, limits.trusted_proxies, metrics.count_ended_connection, context)


async def _drain_on_signal(sessions: Sessions, delay_s: float, timeout_s: float) -> None:
    """Wait for a signal, then until the sessions end; a second signal ends them immediately.

    For `delay_s` after the signal the gateway is not ready and still accepts sessions: load
    balancers send callers until they have noticed that.
    """
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await first.wait()
    sessions.leaving = True
    _log.info("draining sessions=%d delay_s=%g timeout_s=%g", sessions.live, delay_s, timeout_s)
    second_signal = asyncio.create_task(second.wait(), name="second-signal")
    await asyncio.wait([second_signal], timeout=delay_s)
    drain = asyncio.create_task(sessions.drain(timeout_s), name="drain")
    await asyncio.wait([drain, second_signal], return_when=asyncio.FIRST_COMPLETED)
    second_signal.cancel()
    if not drain.done():
        drain.cancel()
        drain = asyncio.create_task(sessions.drain(0), name="drain-now")
    _log.info("drained cut=%d", await drain)


def _backoff() -> Backoff:
    return Backoff(0.1, 5.0, random.random)


if __name__ == "__main__":
    sys.exit(main())
