"""Keeps the latest state of every runtime pod, from the state stream that each one sends.

A state is never invented: a pod that has sent nothing has no state, and each state has its age.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import aiohttp

from avatar_contracts import labels
from avatar_operator.core.autoscaling import capacity
from avatar_operator.core.resources.state import PodState, parse_state
from avatar_operator.errors import RuntimeUnreachable
from avatar_operator.streams import client
from avatar_operator.streams import endpoint as endpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from avatar_operator.fence import Fence
    from avatar_operator.streams.endpoint import Endpoint

DRAIN_TIMEOUT_S: Final = 2.0
LATENCY_STEP_MS: Final = 100.0  # the strictest objective


@dataclass(slots=True)
class _Report:
    """The last state that a pod sent."""

    state: PodState
    at: float  # of the loop's clock
    empty_since: float | None  # None while the pod has sessions

    @property
    def empty_s(self) -> float:
        """Return for how long all states have had no session."""
        return 0.0 if self.empty_since is None else self.at - self.empty_since


class RuntimeStates:
    """The states of all runtime pods, by UID."""

    def __init__(
        self,
        on_change: Callable[[str], None],
        fence: Fence,
        on_refused: Callable[[str], None] = lambda uid: None,
    ) -> None:
        """`on_change` gets the UID of each pod whose state may change a plan.

        `on_refused` gets the UID of each pod that has refused all tokens.
        """
        self._on_change = on_change
        self._fence = fence
        self._reports: dict[str, _Report] = {}
        self._followed_at: dict[str, float] = {}  # of the loop's clock
        self._streams = client.StateStreams(self._on_state, self._on_repeat, on_refused)

    def follow(self, uid: str, endpoint: Endpoint) -> None:
        """Read the stream of a pod from now on; a new address discards the last state."""
        if self._streams.follow(uid, endpoint):
            self._reports.pop(uid, None)
            self._followed_at[uid] = asyncio.get_running_loop().time()

    def unfollow(self, uid: str) -> None:
        """Stop reading the stream of a pod and discard its state."""
        self._streams.unfollow(uid)
        self._reports.pop(uid, None)
        self._followed_at.pop(uid, None)

    def silent(self, uids: Iterable[str]) -> Mapping[str, str]:
        """Return why the state of a pod is unknown, for each of these pods that should send one.

        A pod has as much time for its first state as between two of them.
        """
        now = asyncio.get_running_loop().time()
        return {
            uid: self._streams.fault(uid) or f"no state for {capacity.STALE_S:g} s"
            for uid in uids
            if self._is_stale(uid, now)
        }

    def states(self, uids: Iterable[str]) -> Mapping[str, PodState]:
        """Return the last state of each of these pods that has one, with its current age."""
        now = asyncio.get_running_loop().time()
        return {
            uid: replace(report.state, age_s=now - report.at, empty_s=report.empty_s)
            for uid in uids
            if (report := self._reports.get(uid)) is not None
        }

    def oldest_s(self) -> float:
        """Return the age of the oldest state, 0 if there is no state."""
        now = asyncio.get_running_loop().time()
        return max((now - report.at for report in self._reports.values()), default=0.0)

    def stale(self) -> frozenset[str]:
        """Return the UIDs of the pods whose last state is too old to be used, or never came."""
        now = asyncio.get_running_loop().time()
        return frozenset(uid for uid in self._followed_at if self._is_stale(uid, now))

    def _is_stale(self, uid: str, now: float) -> bool:
        """Return whether a pod should have sent a state since this long."""
        followed_at = self._followed_at.get(uid)
        if followed_at is None:
            return False
        report = self._reports.get(uid)
        return now - (followed_at if report is None else report.at) > capacity.STALE_S

    async def drain(self, uid: str, draining: bool) -> None:
        """Make a pod reject new sessions, or accept them again.

        Raises:
            NotLeading: this process does not lead; nothing was sent.
            RuntimeUnreachable: the pod did not respond, or responded with an error.
        """
        endpoint = self._streams.endpoint(uid)
        if endpoint is None:
            raise RuntimeUnreachable(uid, "its address is unknown")
        with self._fence.guard() as left_s:
            await self._post_drain(endpoint, draining, min(DRAIN_TIMEOUT_S, left_s))
        report = self._reports.get(uid)
        if report is not None and not draining:
            # Sessions may arrive from now on: the last state does not prove that the pod is empty.
            report.state = replace(report.state, draining=False)
            # If the pod continues to drain, its next line repeats the last one.
            self._streams.forget_last_line(uid)

    async def _post_drain(self, endpoint: Endpoint, draining: bool, within_s: float) -> None:
        """Send the request with each token in turn, until the pod accepts one."""
        until = asyncio.get_running_loop().time() + within_s
        for token in endpoint.tokens:
            left_s = max(0.0, until - asyncio.get_running_loop().time())
            status = await self._post_drain_with(endpoint, token, draining, left_s)
            if status != HTTPStatus.UNAUTHORIZED:
                break
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            raise RuntimeUnreachable(endpoint.pod, f"HTTP status {status}")

    async def _post_drain_with(
        self, endpoint: Endpoint, token: str, draining: bool, within_s: float
    ) -> int:
        request = self._streams.session().post(
            f"http://{endpoint.address}{labels.DRAIN_PATH}",
            json={"draining": draining},
            headers=endpoints.headers(token),
            timeout=aiohttp.ClientTimeout(total=within_s),
            allow_redirects=False,
        )
        try:
            async with request as response:
                return response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise RuntimeUnreachable(endpoint.pod, client.describe(error)) from error

    async def close(self) -> None:
        """Close all streams."""
        await self._streams.close()

    def _on_state(self, uid: str, document: Mapping[str, object]) -> None:
        state = parse_state(document, 0.0)
        before = self._reports.get(uid)
        now = asyncio.get_running_loop().time()
        since: float | None = None
        if not state.sessions:
            since = now if before is None or before.empty_since is None else before.empty_since
        self._reports[uid] = _Report(state, now, since)
        if before is None or _significant(before.state) != _significant(state):
            self._on_change(uid)

    def _on_repeat(self, uid: str) -> None:
        """Refresh the age of a state that the pod has repeated."""
        report = self._reports.get(uid)
        if report is not None:
            report.at = asyncio.get_running_loop().time()


def _significant(state: PodState) -> PodState:
    """Return a state without the changes that need no plan of their own.

    Figures within the objectives of the pod are removed, the other figures are rounded.
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
