"""Keeps the latest state of every runtime pod, from the stream that each one sends.

A state is never made up: what was not heard is missing, and what is old says so.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import aiohttp

from avatar_contracts import labels
from avatar_operator.core.autoscaling import capacity
from avatar_operator.core.resources.state import PodState, parse_state
from avatar_operator.errors import RuntimeUnreachable
from avatar_operator.streams import client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from avatar_operator.fence import Fence
    from avatar_operator.streams.client import Endpoint

DRAIN_TIMEOUT_S: Final = 2.0
LATENCY_STEP_MS: Final = 100.0  # the tightest objective


@dataclass(slots=True)
class _Heard:
    state: PodState
    at: float  # of the loop's clock
    empty_since: float | None  # None while it has sessions

    @property
    def empty_s(self) -> float:
        """Return for how long it has said nothing but that it has no session."""
        return 0.0 if self.empty_since is None else self.at - self.empty_since


class Runtimes:
    """The streams of all runtime pods, by UID."""

    def __init__(self, changed: Callable[[str], None], fence: Fence) -> None:
        self._changed = changed
        self._fence = fence
        self._heard: dict[str, _Heard] = {}
        self._streams = client.Streams(self._hear, self._hear_again)

    def follow(self, uid: str, endpoint: Endpoint) -> None:
        """Read the stream of a pod from now on; a new address starts over."""
        if self._streams.follow(uid, endpoint):
            self._heard.pop(uid, None)

    def unfollow(self, uid: str) -> None:
        """Forget a pod."""
        self._streams.unfollow(uid)
        self._heard.pop(uid, None)

    def states(self, uids: Iterable[str]) -> Mapping[str, PodState]:
        """Return the last state of each of these pods that was heard of, with its age now."""
        now = asyncio.get_running_loop().time()
        return {
            uid: replace(heard.state, age_s=now - heard.at, empty_s=heard.empty_s)
            for uid in uids
            if (heard := self._heard.get(uid)) is not None
        }

    def oldest_s(self) -> float:
        """Return the age of the oldest state, 0 if there is none."""
        now = asyncio.get_running_loop().time()
        return max((now - heard.at for heard in self._heard.values()), default=0.0)

    async def drain(self, uid: str, draining: bool) -> None:
        """Tell a pod to accept no more sessions, or to accept them again.

        Raises:
            NotLeading: it was not told, since another one may decide now.
            RuntimeUnreachable: it did not answer as it should.
        """
        endpoint = self._streams.endpoint(uid)
        if endpoint is None:
            raise RuntimeUnreachable(uid, "it has no address")
        with self._fence.passage() as left_s:
            await self._post_drain(endpoint, draining, min(DRAIN_TIMEOUT_S, left_s))
        heard = self._heard.get(uid)
        if heard is not None and not draining:
            # Sessions may come from now on: what it said before proves no emptiness.
            heard.state = replace(heard.state, draining=False)
            self._streams.read_anew(uid)  # it may say that it drains on, as it said before

    async def _post_drain(self, endpoint: Endpoint, draining: bool, within_s: float) -> None:
        request = self._streams.client().post(
            f"http://{endpoint.address}{labels.DRAIN_PATH}",
            json={"draining": draining},
            headers=client.headers(endpoint),
            timeout=aiohttp.ClientTimeout(total=within_s),
        )
        try:
            async with request as answer:
                if answer.status >= 300:
                    raise RuntimeUnreachable(endpoint.pod, f"it answered {answer.status}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise RuntimeUnreachable(endpoint.pod, client.sentence(error)) from error

    def silent(self) -> frozenset[str]:
        """Return the pods that were heard of, but not for longer than is believed."""
        now = asyncio.get_running_loop().time()
        return frozenset(
            uid for uid, heard in self._heard.items() if now - heard.at > capacity.STALE_S
        )

    async def close(self) -> None:
        """End all streams."""
        await self._streams.close()

    def _hear(self, uid: str, document: Mapping[str, object]) -> None:
        state = parse_state(document, 0.0)
        before = self._heard.get(uid)
        now = asyncio.get_running_loop().time()
        since: float | None = None
        if not state.sessions:
            since = now if before is None or before.empty_since is None else before.empty_since
        self._heard[uid] = _Heard(state, now, since)
        if before is None or _silent(before.state) != _silent(state):
            self._changed(uid)

    def _hear_again(self, uid: str) -> None:
        """Take in that a pod says what it said before: it is as it was, and fresh."""
        heard = self._heard.get(uid)
        if heard is not None:
            heard.at = asyncio.get_running_loop().time()


def _silent(state: PodState) -> PodState:
    """Return a state without what changes often and is worth no plan of its own.

    Figures that only say how far a pod is within its objectives are dropped, the
    others rounded.
    """
    latency_ms = state.frame_p95_ms or 0.0
    return replace(
        state,
        first_frame_p95_ms=None,
        vram_ratio=max(capacity.MAX_VRAM_RATIO, round(state.vram_ratio, 1)),
        deadline_miss_ratio=max(
            capacity.MAX_DEADLINE_MISS_RATIO, round(state.deadline_miss_ratio, 1)
        ),
        frame_p95_ms=LATENCY_STEP_MS * (latency_ms // LATENCY_STEP_MS),
    )
