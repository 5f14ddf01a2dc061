"""Writes the status of every GPUProfile: the calibrations of pods, and the state of its nodes.

It runs when a pod has sent a new calibration, or when nodes or profiles changed, and writes
a status only if it differs from the last one.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from avatar_operator.controllers.status_loop import StatusLoop
from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.gpus import calibration, node_classes
from avatar_operator.core.status import profile_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from avatar_operator.controllers.claims import Claims
    from avatar_operator.core.cache.entries import ProfileBody
    from avatar_operator.core.cache.store import Store
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.gpu_profile import Curve
    from avatar_operator.core.resources.state import PodState
    from avatar_operator.kube import client

_log = logging.getLogger(__name__)


class ProfileController:
    """Writes the status of GPUProfiles."""

    def __init__(
        self,
        api: client.KubernetesClient,
        store: Store,
        states: Callable[[Iterable[str]], Mapping[str, PodState]],
        leads: Callable[[], bool],
        claims: Claims,
        observe: Callable[[Kind, Body], object],
    ) -> None:
        """Responses of the API server go to `observe`, so that plans follow them immediately."""
        self._api = api
        self._store = store
        self._states = states
        self._observe = observe
        self._curves: dict[str, Curve] = {}  # by UID of the pod that measured it
        self._loop = StatusLoop("profile", self._check_all, leads, claims)

    def wake(self) -> None:
        """Check all profiles: profiles, nodes or the leadership changed."""
        self._loop.wake()

    def on_state(self, uid: str) -> None:
        """Check all profiles if the new state of a pod has a new calibration."""
        state = self._states([uid]).get(uid)
        if state is not None and state.calibration != self._curves.get(uid):
            if state.calibration is not None:
                self._curves[uid] = state.calibration
            self.wake()

    def forget(self, uid: str) -> None:
        """Forget a pod; its calibration stays in the status."""
        self._curves.pop(uid, None)

    async def run(self) -> None:
        """Write each status that changed, until cancelled."""
        await self._loop.run()

    async def _check_all(self) -> None:
        profiles = self._store.profiles()
        nodes = [
            part for node in self._store.nodes() for part in node_classes.classify(node, profiles)
        ]
        reports = list(self._reports())
        bodies = [(each, self._store.profile_body(each.name)) for each in profiles]
        self._loop.keep({body.uid for _, body in bodies if body is not None})
        for profile, body in bodies:
            if body is None or not self._loop.may_start(body.uid):
                continue
            now = time.time()
            status = profile_status.build(
                profile, reports, nodes, body.generation, body.status, now
            )
            if status is not None:
                self._loop.start(body.uid, self._write(profile.name, body, status))

    async def _write(self, name: str, body: ProfileBody, status: Body) -> None:
        send = partial(self._api.apply_profile_status, name, body.uid, body.version)
        response = await self._loop.apply(name, body.status, status, send)
        if response is not None:
            _log.info("profile status written profile=%s", name)
            self._observe(Kind.PROFILES, response)

    def _reports(self) -> Iterable[calibration.Report]:
        states = self._states(self._curves)
        for uid, curve in self._curves.items():
            pod = self._store.pods.get(uid)
            if pod is not None and pod.running and uid in states:
                yield calibration.Report(pod, states[uid].device, curve)
