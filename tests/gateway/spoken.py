"""What the sessions say that outlive a pod or a gateway, and how it must arrive."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from avatar_client.sound import Sound

if TYPE_CHECKING:
    from avatar_client import session
    from avatar_client.traces import Response

KEY: Final = "a-key-of-some-length"
SOUND: Final = Sound(Random(1).randbytes(24_000 * 2 * 4), 24_000)  # four seconds
FRAMES: Final = 100


def check(live: session.Session, response: Response) -> None:
    """Check that nothing is lost or repeated; the trace checks each number and frame."""
    assert response.status == "completed"
    assert bytes(response.pcm) == SOUND.pcm
    assert len(response.frames) + len(response.dropped) == FRAMES
    assert live.trace.violations == []
