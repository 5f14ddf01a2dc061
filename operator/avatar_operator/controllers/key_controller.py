"""Keeps the master keys: reads their Secret, creates it if it is missing, and derives others.

The Secret is read again at intervals, so that a rotation needs no restart. If it was deleted,
the leader creates it again with the keys that it knows; only a leader that knows none creates a
new key.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Final

from avatar_operator.core.keys import KeyRing, opaque_secret, parse_master_keys
from avatar_operator.errors import AvatarOperatorError, ClusterError, Conflict, NotLeading

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_operator.kube.client import KubernetesClient

WAIT_S: Final = 0.25  # between two reads until the leader has created the Secret
RETRY_S: Final = 2.0
LOG_EVERY_S: Final = 30.0  # between two log lines about the same wait
_MASTER_BYTES: Final = 48

_log = logging.getLogger(__name__)


class KeyController:
    """Owns the master keys of this process."""

    def __init__(
        self,
        api: KubernetesClient,
        namespace: str,
        master_secret: str,
        gateway_secret: str,
        on_change: Callable[[KeyRing], None],
        refresh_s: float = 30.0,
    ) -> None:
        """`on_change` gets the keys when they are read first, and after each change."""
        self._api = api
        self._namespace = namespace
        self._master_secret = master_secret
        self._gateway_secret = gateway_secret
        self._on_change = on_change
        self._refresh_s = refresh_s
        self._ring: KeyRing | None = None
        self._written: KeyRing | None = None  # what the Secret of the gateways has
        self._begun = asyncio.Event()  # a term has begun
        self._fault = "the Secret was not read yet"
        self._logged_at = float("-inf")

    @property
    def ring(self) -> KeyRing | None:
        """The keys, None until they were read."""
        return self._ring

    @property
    def waits_for(self) -> str:
        """What the start waits for, as a sentence; empty if the keys are known."""
        if self._ring is not None:
            return ""
        name = f"{self._namespace}/{self._master_secret}"
        return f"waiting for the master key in Secret {name}: {self._fault}"

    def begin_term(self) -> None:
        """Write the Secret of the gateways soon: another replica may have led."""
        self._written = None
        self._begun.set()

    async def read_first(self) -> None:
        """Return when the keys are known."""
        while self._ring is None:
            try:
                await self.refresh()
            except NotLeading:
                self._note("it does not exist, and the leader creates it")
                await asyncio.sleep(WAIT_S)
            except (ClusterError, ValueError) as error:
                self._note(str(error))
                await asyncio.sleep(RETRY_S)

    async def run(self) -> None:
        """Read the Secret again and again until cancelled."""
        while True:
            try:
                await self.refresh()
                await self._write_gateway_keys()
                delay_s = self._refresh_s
            except NotLeading:
                delay_s = self._refresh_s  # the leader writes
            except (AvatarOperatorError, ValueError) as error:
                _log.warning("cannot keep the master key fault=%s", error)
                delay_s = RETRY_S
            await self._wait(delay_s)

    async def refresh(self) -> None:
        """Read the keys once; a leader creates the Secret if it is missing.

        Raises:
            NotLeading: the Secret does not exist, and this process may not create it.
            ClusterError: the Secret cannot be read or created.
            ValueError: the Secret has no usable key.
        """
        found = await self._api.read_secret(self._namespace, self._master_secret)
        if found is None:
            found = await self._create()
        ring = parse_master_keys(found)
        if ring == self._ring:
            return
        if self._ring is not None:
            _log.warning("the master key changed generation=%s", ring.generation)
        self._ring = ring
        self._on_change(ring)

    async def _create(self) -> dict[str, object]:
        known = self._ring or KeyRing(secrets.token_urlsafe(_MASTER_BYTES))
        body = opaque_secret(self._namespace, self._master_secret, known.master_keys())
        try:
            created = await self._api.create_secret(body)
        except Conflict:  # another replica created it first
            again = await self._api.read_secret(self._namespace, self._master_secret)
            if again is None:
                raise
            return again
        what = "again, because it was deleted" if self._ring else "with a new key"
        _log.warning("created the Secret of the master key %s secret=%s", what, self._master_secret)
        return created

    async def _write_gateway_keys(self) -> None:
        """Write the Secret that the gateways mount, if this process leads."""
        ring = self._ring
        if ring is None or ring == self._written:
            return
        body = opaque_secret(self._namespace, self._gateway_secret, ring.gateway_keys())
        await self._api.write_own_secret(body)
        self._written = ring

    async def _wait(self, seconds: float) -> None:
        """Wait, but not longer than until a term begins."""
        try:
            async with asyncio.timeout(seconds):
                await self._begun.wait()
        except TimeoutError:
            return
        self._begun.clear()

    def _note(self, fault: str) -> None:
        """Log a reason to wait when it is new, and again every `LOG_EVERY_S`."""
        now = asyncio.get_running_loop().time()
        if fault != self._fault or now - self._logged_at >= LOG_EVERY_S:
            self._fault, self._logged_at = fault, now
            _log.warning("%s", self.waits_for)
