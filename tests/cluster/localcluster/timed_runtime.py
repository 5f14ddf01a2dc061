"""`avatar-runtime` that writes down when it reads what ends an epoch, and what delays its loop.

python -m localcluster.timed_runtime TIMES.jsonl serve ...

The process is the product's. At its end it writes one JSON object on each line: a change of epoch
with the time at which its message was read, media of an older epoch that was written afterwards,
and callbacks of the event loop that took long. Times are those of the monotonic clock, which all
processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime.__main__ import main as run
from avatar_runtime.protocol.bridge.upstream_side import UpstreamSide
from avatar_runtime.protocol.session import Session
from avatar_runtime.serving.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SLOW_S: Final = 0.008
MAX_ROWS: Final = 200_000
_MEDIA: Final = ('{"type":"response.video.delta"', '{"type":"response.output_audio.delta"')


class Times:
    """What the process has seen."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._pulled: dict[str, int] = {}  # epoch of the last message, by session
        self._read_at: dict[str, float] = {}

    def add(self, **row: Any) -> None:
        """Add a row, unless there are too many."""
        if len(self.rows) < MAX_ROWS:
            self.rows.append(row)

    def watch_epoch(
        self, original: Callable[..., Any], id_of: Callable[[Any], str], speech_of: Any
    ) -> Callable[..., Any]:
        """Return a method that also notes when it began, if it changes the epoch."""

        def call(this: Any, *given: Any) -> Any:
            began_at, before = time.monotonic(), speech_of(this).epoch
            result = original(this, *given)
            epoch = speech_of(this).epoch
            if epoch != before:
                self._read_at[id_of(this)] = began_at
                self.add(kind="epoch", session=id_of(this), epoch=epoch, read_at=began_at)
            return result

        return call

    def watch_pull(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return `Session.pull` that also notes the epoch of its message."""

        def pull(session: Any, now: float) -> Any:
            outgoing = original(session, now)
            self._pulled[session.id] = session.epoch
            return outgoing

        return pull

    def watch_sent(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return `Connection._observe`, which follows a message that was written."""

        def observe(connection: Any, outgoing: Any) -> None:
            session = connection._session
            is_old = self._pulled[session.id] < session.epoch
            if is_old and outgoing.text.startswith(_MEDIA):
                after_s = time.monotonic() - self._read_at[session.id]
                self.add(kind="stale", session=session.id, after_read_s=after_s)
            original(connection, outgoing)

        return observe

    def watch_loop(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return `Handle._run` that also notes a callback that took long."""

        def run_handle(handle: Any) -> None:
            what = _name(handle._callback)  # which the handle forgets if it is cancelled meanwhile
            began_at, cpu = time.monotonic(), time.thread_time()
            original(handle)
            took_s = time.monotonic() - began_at
            if took_s > SLOW_S:
                cpu_s = time.thread_time() - cpu
                self.add(kind="slow", at=began_at, took_s=took_s, cpu_s=cpu_s, what=what)

        return run_handle


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the product and write what was seen."""
    path, *rest = sys.argv[1:] if arguments is None else arguments
    times = Times()
    for name in ("receive", "listen"):
        method = times.watch_epoch(getattr(Session, name), lambda session: session.id, _itself)
        setattr(Session, name, method)
    upstream: Any = UpstreamSide
    upstream.receive = times.watch_epoch(
        upstream.receive,
        lambda side: f"sess_{side._parts.suffix}",
        lambda side: side.answers.speech,
    )
    product: Any = (Session, Connection, asyncio.Handle)
    product[0].pull = times.watch_pull(product[0].pull)
    product[1]._observe = times.watch_sent(product[1]._observe)
    product[2]._run = times.watch_loop(product[2]._run)
    try:
        return run(rest)
    finally:
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in times.rows))


def _name(callback: Any) -> str:
    """Return the name of a task without what differs by session, or of a callback."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"task {owner.get_name().partition(' sess_')[0]}"
    return str(getattr(callback, "__qualname__", type(callback).__name__))


def _itself(session: Any) -> Any:
    return session


if __name__ == "__main__":
    sys.exit(main())
