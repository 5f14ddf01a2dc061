"""Keeps the status of every GPUProfile: what pods measured, and what is odd about its nodes.

It wakes when something was measured or nodes and profiles changed, and writes a
status only if it says something else than before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from avatar_operator.core.cache.store import Kind, Observations
from avatar_operator.core.gpus import calibration, node_classes
from avatar_operator.core.status import profile_status
from avatar_operator.errors import AvatarOperatorError, Conflict, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.gpu_profile import Curve
    from avatar_operator.core.resources.state import PodState
    from avatar_operator.kube import client

GATHER_S: Final = 0.25  # pods of a rollout start together
RETRY_S: Final = 2.0

_log = logging.getLogger(__name__)


class Calibrator:
    """The writer of the status of GPUProfiles."""

    def __init__(
        self,
        api: client.Cluster,
        seen: Observations,
        states: Callable[[Iterable[str]], Mapping[str, PodState]],
        leads: Callable[[], bool],
        observe: Callable[[Kind, Body], None],
    ) -> None:
        self._api = api
        self._seen = seen
        self._states = states
        self._leads = leads
        self._observe = observe  # so that plans follow what was written at once
        self._known: dict[str, Curve] = {}  # by UID of the pod
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Look again: profiles, nodes or who leads changed."""
        self._news.set()

    def hear(self, uid: str) -> None:
        """Take in that a pod sent another state; most have measured nothing new."""
        state = self._states([uid]).get(uid)
        if state is not None and state.calibration != self._known.get(uid):
            if state.calibration is not None:
                self._known[uid] = state.calibration
            self.wake()

    def forget(self, uid: str) -> None:
        """Take in that a pod is gone; what it measured stays."""
        self._known.pop(uid, None)

    async def run(self) -> None:
        """Write what changed, until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER_S)
            self._news.clear()
            if not self._leads():
                continue  # who leads next is woken
            try:
                await self._write_all()
            except AvatarOperatorError as error:
                _log.warning("cannot write the status of a profile fault=%s", error)
                await asyncio.sleep(RETRY_S)
                self.wake()

    async def _write_all(self) -> None:
        given = self._seen.profiles()
        nodes = [part for node in self._seen.nodes() for part in node_classes.classify(node, given)]
        reports = list(self._reports())
        for profile in given:
            body = self._seen.profile_body(profile.name)
            if body is None:
                continue
            now = time.time()
            wanted = profile_status.build(
                profile, reports, nodes, body.generation, body.status, now
            )
            if wanted is None:
                continue
            try:
                written = await self._api.apply_profile_status(profile.name, body.uid, wanted)
            except (Conflict, NotFound) as error:
                _log.info("profile went profile=%s fault=%s", profile.name, error)
                continue
            _log.info("profile status written profile=%s", profile.name)
            self._observe(Kind.PROFILES, written)

    def _reports(self) -> Iterable[calibration.Report]:
        states = self._states(self._known)
        for uid, curve in self._known.items():
            pod = self._seen.pods.get(uid)
            if pod is not None and pod.running and uid in states:
                yield calibration.Report(pod, states[uid].device, curve)
