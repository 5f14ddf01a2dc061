"""Joins a session to the endpoints that give it its speech: its mode, and what runs beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

from avatar_contracts import upstream as contract
from avatar_runtime.audio.rate_conversion import PcmRateConverter
from avatar_runtime.protocol.bridge.mode import Bridge
from avatar_runtime.protocol.bridge.upstream_side import BridgeOptions
from avatar_runtime.protocol.drive import Drive
from avatar_runtime.protocol.pipeline.dialogue import PipelineOptions
from avatar_runtime.protocol.pipeline.mode import Pipeline
from avatar_runtime.upstream.pipeline_shell import Legs, PipelineShell
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


class Endpoints:
    """The endpoints of a runtime. All sessions share the connections of mode speech."""

    def __init__(
        self, settings: UpstreamSettings, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._client: aiohttp.ClientSession | None = None

    def open_mode(self, parts: SessionParts[Any]) -> Mode[Any]:
        """Return the mode of a new session."""
        match self._settings.upstream:
            case contract.Bridge() as bridge:
                rates = bridge.input_rate, bridge.output_rate
                options = BridgeOptions(PcmRateConverter, bridge.beta, *rates)
                return Bridge(parts, options, self._clock())
            case contract.Pipeline(chat=chat, transcription=transcription):
                return Pipeline(
                    parts,
                    PipelineOptions(
                        has_chat=chat is not None,
                        has_transcription=transcription is not None,
                        instructions=chat.instructions if chat else "",
                        max_history=chat.max_history if chat else 1,
                    ),
                )
            case _:
                return Drive(parts)

    def open_shell(
        self, session: Session[Any], changed: Callable[[], None], clock: Callable[[], float]
    ) -> Shell | None:
        """Return what runs beside a session; `None` in mode drive.

        It calls `changed` after each change of the session; `clock` is the time of the session.
        """
        upstream, mode = self._settings.upstream, session.mode
        if isinstance(mode, Bridge) and isinstance(upstream, contract.Bridge):
            return RealtimeLink(
                mode.upstream,
                self._link_options(upstream),
                clock,
                session_id=session.id,
                changed=changed,
                metrics=self._metrics,
            )
        if isinstance(mode, Pipeline) and isinstance(upstream, contract.Pipeline):
            legs = Legs(upstream, self._settings, self._http(), self._metrics.upstream)
            return PipelineShell(mode.dialogue, legs, clock, changed, self._metrics.observe_turn)
        return None

    async def close(self) -> None:
        """Close the connections that sessions share."""
        if self._client is not None:
            await self._client.close()

    def _http(self) -> aiohttp.ClientSession:
        """Return the client of all sessions; the first call makes it."""
        if self._client is None:
            # With a limit of connections, the sessions of a pod would wait for each other.
            connector = aiohttp.TCPConnector(limit=0)
            jar = aiohttp.DummyCookieJar()
            self._client = aiohttp.ClientSession(connector=connector, cookie_jar=jar)
        return self._client

    def _link_options(self, bridge: contract.Bridge) -> LinkOptions:
        settings, endpoint = self._settings, bridge.endpoint
        beta = {"OpenAI-Beta": "realtime=v1"} if bridge.beta else {}
        return LinkOptions(
            address(endpoint.url, endpoint.model),
            headers=lambda: {**beta, **settings.headers(endpoint)},
            secrets=lambda: (settings.key(endpoint),),
            connect_timeout_s=endpoint.connect_timeout_s,
            silence_timeout_s=endpoint.timeout_s,
        )
