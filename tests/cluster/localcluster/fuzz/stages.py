"""The modes that a random client meets: what is behind the session, and what the oracle expects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from avatar_runtime.protocol.drive import Drive
from avatar_runtime.protocol.pipeline.dialogue import PipelineOptions
from avatar_runtime.protocol.pipeline.mode import Pipeline
from localcluster.fuzz import requests
from localcluster.fuzz.endpoints import Endpoints
from localcluster.fuzz.oracle import Oracle

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from avatar_runtime.protocol.modes import Mode
    from avatar_runtime.protocol.session_parts import SessionParts
    from localcluster.fuzz.fakes import FrameWindow


class Stage(Protocol):
    """One mode, and what its sessions need besides a client and an engine."""

    @property
    def weights(self) -> Mapping[str, float]:
        """How often the client sends each kind of message, if not as usual."""
        ...

    @property
    def has_waiting(self) -> bool:
        """Whether one message can end several responses, so that it is sent by itself."""
        ...

    def oracle(self, *, is_client_right: bool) -> Oracle:
        """Return the oracle of the session."""
        ...

    def open_mode(self, parts: SessionParts[FrameWindow]) -> Mode[FrameWindow]:
        """Return the mode of the session."""
        ...

    def work(self, now: float, *, is_prompt: bool) -> None:
        """Do what happens outside, a part of it or all that is to be done now."""
        ...

    def check_end(self) -> None:
        """Check what holds when the session is at rest.

        Raises:
            Violation: it does not.
        """
        ...


class DriveStage:
    """Mode drive: the client speaks, and nothing is behind the session."""

    weights: Final[Mapping[str, float]] = {}
    has_waiting: Final = False

    def __init__(self, random: Random) -> None:
        pass

    def oracle(self, *, is_client_right: bool) -> Oracle:
        """Return an oracle that expects the audio of the client."""
        return Oracle(is_client_right=is_client_right)

    def open_mode(self, parts: SessionParts[FrameWindow]) -> Drive[FrameWindow]:
        """Return the mode of the session."""
        return Drive(parts)

    def work(self, now: float, *, is_prompt: bool) -> None:
        """Do nothing."""

    def check_end(self) -> None:
        """Check nothing."""


class SpeechStage:
    """Mode speech: endpoints write and speak the answers."""

    weights: Final[Mapping[str, float]] = {"create_item": 25, "create": 20}
    has_waiting: Final = True

    def __init__(self, random: Random) -> None:
        self._options = PipelineOptions(
            has_chat=random.random() < 0.6,
            has_transcription=random.random() < 0.7,
            instructions=random.choice(("", "Be brief.")),
            max_history=random.choice((1, 20)),
        )
        self._endpoints = Endpoints(random, lambda: self._mode.dialogue, self._options)

    def oracle(self, *, is_client_right: bool) -> Oracle:
        """Return an oracle that expects the sound of the endpoints."""
        said = self._endpoints.said
        return Oracle(is_client_right=is_client_right, rules=requests.SPEECH, said=said)

    def open_mode(self, parts: SessionParts[FrameWindow]) -> Pipeline[Any]:
        """Return the mode of the session."""
        self._mode: Pipeline[Any] = Pipeline(parts, self._options)
        return self._mode

    def work(self, now: float, *, is_prompt: bool) -> None:
        """Let the endpoints work."""
        self._endpoints.work(now, is_prompt=is_prompt)

    def check_end(self) -> None:
        """Check that no request waits."""
        self._endpoints.check_end()
