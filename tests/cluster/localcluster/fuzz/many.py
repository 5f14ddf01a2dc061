"""Many fuzzed sessions one after another, and what they were in total."""

from __future__ import annotations

import signal
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from localcluster.fuzz.bridge_play import BridgePlay
from localcluster.fuzz.play import Play
from localcluster.fuzz.stages import DriveStage, SpeechStage
from localcluster.fuzz.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random
    from types import FrameType

    from localcluster.fuzz.stages import Stage

MESSAGES_OF_A_SESSION: Final = 200
_HANG_S: Final = 120.0
"""CPU time that one session may take; they take 0.1 s to 1 s. Nothing in a session waits."""
_SHOWN: Final = 40
BRIDGE: Final = "bridge"
_STAGES: Final[dict[str, Callable[[Random], Stage]]] = {"drive": DriveStage, "speech": SpeechStage}
MODES: Final = (*_STAGES, BRIDGE)


@dataclass(slots=True)
class Total:
    """What happened in all sessions."""

    sessions: int = 0
    messages: int = 0
    events: int = 0
    frames: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)
    slowest_call_s: float = 0.0
    most_backlog_characters: int = 0
    cpu_s: float = 0.0

    def add(self, other: Total) -> None:
        """Add the sessions of another total."""
        self.sessions += other.sessions
        self.messages += other.messages
        self.events += other.events
        self.frames += other.frames
        self.kinds += other.kinds
        self.errors += other.errors
        self.closes += other.closes
        self.slowest_call_s = max(self.slowest_call_s, other.slowest_call_s)
        self.most_backlog_characters = max(
            self.most_backlog_characters, other.most_backlog_characters
        )
        self.cpu_s += other.cpu_s

    def describe(self) -> dict[str, Any]:
        """Return the figures for a record."""
        return {
            "sessions": self.sessions,
            "messages": self.messages,
            "events": self.events,
            "frames": self.frames,
            "slowest_call_ms": round(self.slowest_call_s * 1000, 1),
            "most_backlog_characters": self.most_backlog_characters,
            "cpu_s": round(self.cpu_s, 1),
            "events_by_type": dict(sorted(self.kinds.items())),
            "errors_by_code": dict(sorted(self.errors.items())),
            "closes_by_code": dict(sorted(self.closes.items())),
        }


def play_many(mode: str, seed: int, messages: int, first: int = 0, step: int = 1) -> Total:
    """Play sessions `first`, `first + step`, ... of a seed until they have had enough messages.

    `mode` is one of `MODES`.

    Raises:
        Violation: of the first session that did something wrong; its notes say how to repeat it.
    """
    total, index = Total(), first
    while total.messages < messages:
        total.add(play_one(mode, seed, index))
        index += step
    return total


def play_one(mode: str, seed: int, index: int) -> Total:
    """Play one session.

    Raises:
        Violation: with notes: how to repeat the session, and its last messages and events.
    """
    started = time.process_time()
    play = open_play(mode, seed, index)
    with _repeatable(f"--mode {mode} --seed {seed} --session {index}", play.log):
        played = play.run(MESSAGES_OF_A_SESSION)
    return Total(
        sessions=1,
        messages=played.messages,
        events=played.events,
        frames=played.frames,
        kinds=Counter(played.kinds),
        errors=Counter(played.errors),
        closes=Counter(played.closes),
        slowest_call_s=played.slowest_s,
        most_backlog_characters=played.backlog,
        cpu_s=time.process_time() - started,
    )


def open_play(mode: str, seed: int, index: int) -> Play | BridgePlay:
    """Return a session that can be played."""
    if mode == BRIDGE:
        return BridgePlay(seed, index)
    return Play(seed, index, _STAGES[mode])


@contextmanager
def _repeatable(arguments: str, log: list[str]) -> Iterator[None]:
    """End a session that hangs, and note at an error how to repeat it, and its last messages."""
    before = signal.signal(signal.SIGVTALRM, _on_alarm)
    signal.setitimer(signal.ITIMER_VIRTUAL, _HANG_S)
    try:
        yield
    except Exception as error:
        error.add_note(f"localcluster.bench.protocol_fuzz {arguments}")
        error.add_note("\n".join(line[:300] for line in log[-_SHOWN:]))
        raise
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


def _on_alarm(_: int, __: FrameType | None) -> None:
    raise Violation(f"the session hangs: it takes over {_HANG_S:.0f} s of CPU time")
