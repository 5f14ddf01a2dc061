"""One fuzzed session in mode bridge: a random client, upstream and engine, and a clock."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from avatar_client.traces import Trace
from avatar_runtime.audio.rate_conversion import PcmRateConverter
from avatar_runtime.protocol.audio_formats import PCM_24K
from avatar_runtime.protocol.bridge.link_state import LinkState, UpstreamFault
from avatar_runtime.protocol.bridge.mode import Bridge
from avatar_runtime.protocol.bridge.upstream_side import BridgeOptions
from avatar_runtime.protocol.session import Session, SessionLimits
from avatar_runtime.protocol.session_config import ReadOnlyFields, SessionConfig, VideoMode
from localcluster.fuzz import edge, messages, requests
from localcluster.fuzz.binary import EventTexts
from localcluster.fuzz.bridge_oracle import BridgeOracle
from localcluster.fuzz.fakes import FPS, CountingUtterance, FrameWindow, LevelDetector
from localcluster.fuzz.play import CHARACTERS, Played
from localcluster.fuzz.upstream import Upstream
from localcluster.fuzz.violation import require

if TYPE_CHECKING:
    from avatar_runtime.protocol.frame_flow import FrameDue
    from avatar_runtime.protocol.session_parts import SessionParts

_FAULTS: Final = (
    *(UpstreamFault("upstream_unavailable", "gone"), UpstreamFault("upstream_unavailable", "slow")),
    UpstreamFault("upstream_rate_limited", "429", retry_after_s=5.0),
    UpstreamFault("upstream_refused", "401", is_final=True),
)
_MAX_ROUNDS: Final = 200


class BridgePlay:
    """Drives one session as its shells do."""

    def __init__(self, seed: int, index: int) -> None:
        """The same seed and index are the same session, call by call."""
        self._random = random = Random(f"bridge {seed} {index}")
        self._now = 1000.0
        self.oracle = BridgeOracle()
        self.log: list[str] = []
        self.played = Played()
        self._texts = EventTexts()
        style = random.choice(messages.STYLES)
        # What the upstream sends is relayed, also if it has not the official form.
        self._edge = edge.Edge(random.choice(edge.DIALECTS), is_official=False)
        self._client = messages.Client(random, style, self.oracle.view, self._edge.in_form)
        is_beta = random.random() < 0.3
        wrongness = random.choice((0.0, 0.02, 0.2, 0.6))
        self._upstream = Upstream(random, wrongness, is_beta=is_beta)
        self._trace = Trace(keep_media=False)
        self._pace_s = random.choice((0.001, 0.03, 0.2))
        self._loss = random.choice((0.0, 0.002, 0.02))
        self._frames: list[FrameDue[FrameWindow]] = []
        options = BridgeOptions(PcmRateConverter, is_beta, random.choice((16_000, 24_000)))

        def open_mode(parts: SessionParts[FrameWindow]) -> Bridge[FrameWindow]:
            self._bridge = Bridge(parts, options, self._now)
            return self._bridge

        self.session: Session[FrameWindow] = Session(
            SessionConfig(
                CHARACTERS["anna"],
                video=random.choice((VideoMode.JPEG, VideoMode.JPEG, VideoMode.NONE)),
            ),
            dict(CHARACTERS),
            ReadOnlyFields("sess_0f", "acme/concierge", 1_800_000_000, FPS),
            limits=SessionLimits(7200.0, 300.0),
            open_utterance=CountingUtterance,
            open_detector=LevelDetector,
            now=self._now,
            open_mode=open_mode,
        )
        # Sound and video come, as the trace expects.
        self._is_plain = self.session.mode.speech.config.video is VideoMode.JPEG

    def run(self, count: int) -> Played:
        """Let at most `count` messages come from both sides, then end the session.

        Raises:
            Violation: the session did what it must not.
        """
        while self.played.messages < count and self.session.closing is None:
            self._now += self._random.expovariate(1 / self._pace_s)
            self.session.tick(self._now)
            self._link()
            self._step()
            self._serve()
            self._drain()
        self._lose()
        # What a client does not acknowledge is never over.
        self.session.receive(messages.event("session.update", session=messages.BY_CLOCK), self._now)
        for _ in range(_MAX_ROUNDS):
            if self.session.closing is not None or not self.session.is_speaking:
                break
            self._now += 0.5
            self.session.tick(self._now)
            self._serve()
            self._drain()
        if self.session.closing is None:
            require(self._bridge.upstream.answers.is_empty, "answers of a lost upstream wait")
        self.session.end(1000, "over", self._now)
        self._drain()
        self.oracle.check_end()
        faults = self._trace.violations if self._is_plain else []
        require(not faults, f"the client sees {faults}")
        return self.played

    def _step(self) -> None:
        session, upstream = self.session, self._bridge.upstream
        if self._random.random() < 0.5:
            if session.can_receive:
                content = self._edge.to_session(self._client.draw())
                self._note(f"> {content[:300]!r}")
                self.played.messages += 1
                session.receive(content, self._now)
                config = session.mode.speech.config
                has_media = config.video is VideoMode.JPEG and config.audio_deltas
                self._is_plain &= has_media and config.format == PCM_24K
            return
        if upstream.link.state in (LinkState.GREETING, LinkState.OPEN) and upstream.can_receive:
            is_new = upstream.link.state is LinkState.GREETING and self._random.random() < 0.7
            text = self._upstream.greet() if is_new else self._upstream.draw()
            self._note(f"^ {text[:300]}")
            self.played.messages += 1
            fault = upstream.receive(text, self._now)
            is_event = isinstance(requests.parse(text).get("type"), str)
            require(fault is None or not is_event, f"{fault} after an event")
            if fault is not None:
                upstream.lose(fault, self._now, self._random.random())

    def _lose(self) -> None:
        """Lose the connection for the last time, if there is one."""
        upstream = self._bridge.upstream
        if upstream.link.state in (LinkState.CONNECTING, LinkState.GREETING, LinkState.OPEN):
            upstream.lose(_FAULTS[0], self._now, 0.0)
            self._drain()

    def _link(self) -> None:
        """Connect when it is time, lose the connection at times, and read what is for it."""
        random, upstream = self._random, self._bridge.upstream
        link = upstream.link
        if link.connects_at is not None and link.connects_at <= self._now:
            link.connect()
        elif link.state is LinkState.CONNECTING:
            link.opened()
        if link.state in (LinkState.CONNECTING, LinkState.GREETING, LinkState.OPEN):
            if random.random() < self._loss:
                self._note("^ lost")
                upstream.lose(random.choice(_FAULTS), self._now, random.random())
        while random.random() < 0.9 and (text := upstream.pull()) is not None:
            self._upstream.ask(text)

    def _serve(self) -> None:
        random, session = self._random, self.session
        self._frames.extend(session.due(self._now))
        frames, self._frames = self._frames, []
        for frame in frames:
            ref, epoch, index = frame.response_ref, frame.epoch, frame.frame_index
            is_old = epoch < session.epoch
            if random.random() < 0.01:
                session.fail(ref, epoch, self._now)
            elif random.random() < 0.05:
                taken = session.skip(ref, epoch, index, self._now)
                require(not (is_old and taken), f"{frame} of an old epoch was accepted")
            else:
                taken = session.deliver(ref, epoch, index, b"jpeg", self._now)
                require(not (is_old and taken), f"{frame} of an old epoch was accepted")

    def _drain(self) -> None:
        while (outgoing := self.session.pull(self._now)) is not None:
            text = self._texts.read(outgoing.message)
            self._note(f"< {text[:300]}")
            event = self.oracle.read(text)
            self._trace.receive(event, self._now)
            self.played.count(event)
            if isinstance(outgoing.message, str):
                self._edge.read(text, official_only=self.session.official_only)

    def _note(self, line: str) -> None:
        self.log.append(f"{self._now:.3f} {line}")
        if len(self.log) > 400:
            del self.log[:200]
