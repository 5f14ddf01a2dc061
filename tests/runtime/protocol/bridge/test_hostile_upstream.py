"""An upstream that sends anything: the session goes on, and each response ends once."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.runtime.protocol.bridge.conftest import BridgeDriver

if TYPE_CHECKING:
    from collections.abc import Callable

    Event = dict[str, Any]

RUNS: Final = 40
EVENTS: Final = 60


class Recorder(BridgeDriver):
    """Records what a well-behaved upstream says."""

    said: list[Event]

    def upstream(self, kind: str, **fields: Any) -> list[Event]:
        if not hasattr(self, "said"):
            self.said = []
        self.said.append({"type": kind, **fields})
        return super().upstream(kind, **fields)


def samples() -> list[Event]:
    """Return an example of many events."""
    recorder = Recorder()
    recorder.greet()
    recorder.respond()
    recorder.say("Hello")
    recorder.speak(5)
    recorder.complete()
    user = {"item_id": "item_user"}
    recorder.upstream("input_audio_buffer.speech_started", **user, audio_start_ms=1)
    recorder.upstream("input_audio_buffer.speech_stopped", **user, audio_end_ms=2)
    recorder.upstream("conversation.item.truncated", **user, content_index=0, audio_end_ms=3)
    recorder.upstream("error", error={"type": "t", "message": "m", "event_id": "evt_0a_1"})
    recorder.upstream("rate_limits.updated", rate_limits=[])
    recorder.upstream("response.mcp_call.failed", **user, output_index=0)
    return recorder.said


JUNK: Final[list[Callable[[random.Random], Any]]] = [
    lambda _: None,
    lambda _: True,
    lambda rng: rng.randint(-5, 5),
    lambda rng: 10 ** rng.randint(0, 90),
    lambda rng: rng.random() * 1e9,
    lambda rng: rng.choice(["", "x", "resp_u1", "item_u1", "audio", "response.done", "\u2028"]),
    lambda rng: "y" * rng.randint(0, 2000),
    lambda _: [],
    lambda _: {},
    lambda _: [{"id": 1}, "a", None],
    lambda _: {"id": "resp_u2", "type": "message", "content": [1, None, {"type": []}]},
]


def mutated(rng: random.Random, value: Any) -> Any:
    """Change a JSON value at random places."""
    if rng.random() < 0.15:
        return rng.choice(JUNK)(rng)
    if isinstance(value, dict):
        kept = {name: mutated(rng, part) for name, part in value.items() if rng.random() > 0.05}
        if rng.random() < 0.1:
            kept[rng.choice(["item", "response", "seq", "epoch", "output_index"])] = rng.choice(
                JUNK
            )(rng)
        return kept
    if isinstance(value, list):
        return [mutated(rng, part) for part in value]
    return value


@pytest.mark.parametrize("is_beta", [False, True], ids=["ga", "beta"])
def test_nothing_that_an_upstream_sends_breaks_a_session(is_beta: bool) -> None:
    examples = samples()
    for seed in range(RUNS):
        rng = random.Random(seed)
        driver = BridgeDriver(is_beta=is_beta)
        driver.connect()
        driver.upstream("session.created", session={"type": "realtime"})
        for _ in range(EVENTS):
            event = rng.choice(examples)
            if rng.random() < 0.6:
                event = mutated(rng, event)
            fault = driver.bridge.upstream.receive(json.dumps(event), driver.now)
            assert fault is None
            if rng.random() < 0.1:
                driver.send(rng.choice(["response.cancel", "output_audio_buffer.clear"]))
            driver.run(rng.choice([0.0, 0.02, 0.3]))
            driver.requests()
        driver.lose()
        driver.run(8.0)
        assert driver.trace.violations == [], f"seed {seed}"
        created = [event["response"]["id"] for event in driver.of("response.created")]
        done = [event["response"]["id"] for event in driver.of("response.done")]
        assert created == done, f"seed {seed}"
        assert driver.session.closing is None
        assert driver.bridge.upstream.answers.is_empty
