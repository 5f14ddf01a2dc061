"""The last messages of a session, which a client gets again after it has lost its connection."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.document_fields import Count, List, Table
from avatar_runtime.protocol.exported_messages import Messages

if TYPE_CHECKING:
    from avatar_runtime.protocol.strict_fields import StrictFields

REPLAY_S: Final = 10
"""Video that is kept, seconds."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""Size of all messages that are kept."""

_STATE: Final[Table] = {"_last": Count(), "_forgotten": Count()}
_MAX_FRAMES: Final = REPLAY_S * 60


class _Message(NamedTuple):
    seq: int
    data: str | bytes
    is_frame: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages that the client lacks and that are no longer kept."""

    first_kept: int
    """Number of the oldest message that is kept, or of the next one to come."""


class ReplayMemory:
    """Numbered messages in the order in which they were sent.

    The oldest ones are forgotten when there are more than `REPLAY_S` seconds of frames or more
    than `MAX_BYTES` of messages.
    """

    def __init__(self, fps: int) -> None:
        self._max_frames = REPLAY_S * fps
        self._messages: deque[_Message] = deque()
        self._frames = 0
        self._bytes = 0
        self._last = 0  # number of the newest message
        self._forgotten = 0  # number of the newest message that is not kept

    @property
    def last_seq(self) -> int:
        """Number of the newest message; 0 before the first one."""
        return self._last

    @property
    def nbytes(self) -> int:
        """Size of the messages that are kept; texts of the protocol are ASCII."""
        return self._bytes

    def add(self, seq: int, data: str | bytes, *, is_frame: bool) -> None:
        """Keep a message that is sent now; `seq` is higher than all before."""
        self._messages.append(_Message(seq, data, is_frame))
        self._last = seq
        self._frames += is_frame
        self._bytes += len(data)
        while self._frames > self._max_frames or self._bytes > MAX_BYTES:
            self._forget_oldest()

    def forget(self, seq: int) -> None:
        """Forget the messages up to a number: the client has them."""
        while self._messages and self._messages[0].seq <= seq:
            self._forget_oldest()

    def after(self, seq: int) -> list[str | bytes] | Gap:
        """Return the messages after a number, the oldest first."""
        if seq < self._forgotten:
            first = self._messages[0].seq if self._messages else self._last + 1
            return Gap(first)
        return [message.data for message in self._messages if message.seq > seq]

    def skip_to(self, seq: int) -> None:
        """Forget all messages: the client has those up to `seq`, which were sent elsewhere."""
        self._messages.clear()
        self._frames = self._bytes = 0
        self._last = self._forgotten = seq

    def export(self, most: int = MAX_BYTES) -> dict[str, object]:
        """Return the state as plain values, with the newest messages of at most `most` bytes."""
        kept: deque[_Message] = deque()
        size, forgotten = 0, self._forgotten
        for message in reversed(self._messages):
            size += len(message.data)
            if size > most:
                forgotten = message.seq
                break
            kept.appendleft(message)
        return {
            **document_fields.export(self, _STATE),
            "forgotten": forgotten,
            "messages": Messages(MAX_BYTES).export((each.seq, each.data) for each in kept),
            "frames": [message.seq for message in kept if message.is_frame],
        }

    def restore(self, fields: StrictFields) -> None:
        """Continue from what another session has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        state = document_fields.read(fields, _STATE)
        frames = List(Count(), _MAX_FRAMES, frozenset).read(fields, "frames", 0.0)
        for seq, data in Messages(MAX_BYTES).read(fields, "messages", state["_last"]):
            self.add(seq, data, is_frame=seq in frames)
        self._last, self._forgotten = state["_last"], max(state["_forgotten"], self._forgotten)

    def _forget_oldest(self) -> None:
        message = self._messages.popleft()
        self._forgotten = message.seq
        self._frames -= message.is_frame
        self._bytes -= len(message.data)
