"""Joins a session to the endpoints that give it its speech: its mode, and what runs beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from avatar_contracts import upstream as contract
from avatar_runtime.audio.rate_conversion import PcmRateConverter
from avatar_runtime.protocol.bridge.mode import Bridge
from avatar_runtime.protocol.bridge.upstream_side import BridgeOptions
from avatar_runtime.protocol.drive import Drive
from avatar_runtime.upstream.realtime_link import LinkOptions, RealtimeLink, address

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_runtime.metrics import Metrics
    from avatar_runtime.protocol.modes import Mode
    from avatar_runtime.protocol.session import Session
    from avatar_runtime.protocol.session_parts import SessionParts
    from avatar_runtime.upstream.settings import UpstreamSettings


class Shell(Protocol):
    """What moves data between a session and its endpoints. It ends with the session."""

    def notify(self) -> None:
        """Look at the session, which has changed."""
        ...

    async def run(self) -> None:
        """Run until there is nothing more to do, or until cancelled."""
        ...


def open_mode(settings: UpstreamSettings, parts: SessionParts[Any], now: float) -> Mode[Any]:
    """Return the mode of a new session."""
    match settings.upstream:
        case contract.Bridge() as bridge:
            rates = bridge.input_rate, bridge.output_rate
            options = BridgeOptions(PcmRateConverter, bridge.beta, *rates)
            return Bridge(parts, options, now)
        case _:
            return Drive(parts)


def open_shell(
    settings: UpstreamSettings,
    session: Session[Any],
    metrics: Metrics,
    clock: Callable[[], float],
    changed: Callable[[], None],
) -> Shell | None:
    """Return what runs beside a session; `None` in mode drive.

    It calls `changed` after each change of the session.
    """
    upstream, mode = settings.upstream, session.mode
    if not (isinstance(mode, Bridge) and isinstance(upstream, contract.Bridge)):
        return None
    endpoint = upstream.endpoint
    beta = {"OpenAI-Beta": "realtime=v1"} if upstream.beta else {}
    options = LinkOptions(
        address(endpoint.url, endpoint.model),
        headers=lambda: {**beta, **settings.headers(endpoint)},
        secrets=lambda: (settings.key(endpoint),),
        connect_timeout_s=endpoint.connect_timeout_s,
        silence_timeout_s=endpoint.timeout_s,
    )
    return RealtimeLink(
        mode.upstream, options, clock, session_id=session.id, changed=changed, metrics=metrics
    )
