"""kopf's entry points: watches wake the reconciler, and nothing else happens here.

Only `on.event` is used. It writes nothing to the objects, neither annotations
nor finalizers, so that a second operator or none at all does no harm.

kopf ends with the first watch that it cannot follow, of which one error event of
the API server is enough, and it ends every task of its event loop with it. So it
has a loop and a thread of its own, where nothing else is, and begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, Any, Final, Protocol

import kopf

from avatar_operator import names
from avatar_operator.errors import ClusterError
from avatar_operator.kube.informers import SILENCE_S, TOLD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping

    from avatar_operator.core.cache.store import Kind
    from avatar_operator.kube.connection import Credentials

AGAIN_S: Final = (0.1, 10.0)  # first and longest delay before kopf begins anew
END_S: Final = 5.0  # for tasks of kopf that were cancelled
_WATCHER: Final = "watcher for "  # kopf's name of the task that follows a kind

_log = logging.getLogger(__name__)


class Hearer(Protocol):
    """Who is told what kopf sees, on the event loop of the operator."""

    def hear(self, kind: Kind) -> None:
        """Take in that the watch of a kind said something."""
        ...

    def relist(self, kind: Kind) -> None:
        """Take in that the watch of a kind began anew."""
        ...

    def observe(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """Take in an object that was added or changed."""
        ...

    def forget(self, kind: Kind, uid: str) -> None:
        """Take in that an object was deleted."""
        ...


class Listener:
    """Runs kopf for as long as the operator runs, however often it ends."""

    def __init__(
        self,
        hearer: Hearer,
        credentials: Callable[[], Coroutine[Any, Any, Credentials]],
        namespaces: Collection[str],
    ) -> None:
        """`namespaces` are those to listen to, none for all."""
        self._hearer = hearer
        self._credentials = credentials
        self._namespaces = namespaces

    async def run(self) -> None:
        """Listen until cancelled."""
        loop = asyncio.get_running_loop()
        first, longest = AGAIN_S
        delay_s = first
        while True:
            began = loop.time()
            try:
                await self._listen()
            except Exception as fault:
                _log.warning("kopf ended and begins anew fault=%r", fault)
            else:
                _log.warning("kopf ended and begins anew")
            if loop.time() - began > longest:
                delay_s = first
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(longest, delay_s * 2)
            for kind in TOLD:
                self._hearer.relist(kind)  # if nothing is left, kopf's own listing tells nothing

    async def _listen(self) -> None:
        """Run kopf once, until it ends or this is cancelled."""
        home = asyncio.get_running_loop()
        own = asyncio.new_event_loop()  # used once: kopf leaves things behind in it
        stop = asyncio.Event()
        handlers = registry(self._hearer, self._login(home), home)

        def work() -> None:
            try:
                own.run_until_complete(_watch(handlers, self._namespaces, stop))
            finally:
                own.run_until_complete(own.shutdown_asyncgens())
                own.close()

        ended = home.run_in_executor(None, work)
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has just ended
                own.call_soon_threadsafe(stop.set)
            await asyncio.wait({ended})
            raise

    def _login(self, home: asyncio.AbstractEventLoop) -> Callable[[], Awaitable[Credentials]]:
        """Return how kopf's loop gets credentials, which belong to the operator's."""

        async def login() -> Credentials:
            asked = asyncio.run_coroutine_threadsafe(self._credentials(), home)
            return await asyncio.wrap_future(asked)

        return login


async def _watch(
    handlers: kopf.OperatorRegistry, namespaces: Collection[str], stop: asyncio.Event
) -> None:
    """Run kopf until one of its parts breaks, or until it is told to stop."""
    told = asyncio.create_task(stop.wait(), name="stop")
    parts = await kopf.spawn_tasks(
        registry=handlers,
        settings=kopf_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
    )
    ended, _ = await asyncio.wait({told, *parts}, return_when=asyncio.FIRST_COMPLETED)
    # Not by `kopf.run_tasks`, which waits 5 s for what nobody has cancelled. The order matters: a
    # watcher ends only as long as its own helpers run.
    await _end(parts)
    await _end(task for task in asyncio.all_tasks() if task.get_name().startswith(_WATCHER))
    await _end(asyncio.all_tasks() - {asyncio.current_task()})
    for part in ended:
        if not part.cancelled():
            part.result()


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and let them end; one that does not is left behind with the loop."""
    found = set(tasks)
    for task in found:
        task.cancel()
    if found:
        await asyncio.wait(found, timeout=END_S)


def kopf_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: nothing is written, and no watch stays frozen."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.process.ultimate_exiting_timeout = None
    settings.watching.inactivity_timeout = SILENCE_S
    settings.watching.chunk_size = 500
    storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP, v1=False)
    settings.persistence.progress_storage = storage
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.persistence.finalizer = f"{names.GROUP}/finalizer"
    return settings


class _NoDiffs(kopf.DiffBaseStorage):
    """Compares nothing: kopf copies each object three times for a diff that nobody asks for."""

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        pass


def registry(
    hearer: Hearer,
    credentials: Callable[[], Awaitable[Credentials]],
    home: asyncio.AbstractEventLoop,
) -> kopf.OperatorRegistry:
    """Return kopf's handlers: the login, and one for the events of each kind.

    They run on kopf's loop; `hearer` is called on `home`.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        try:
            found = await credentials()
        except ClusterError as error:
            raise kopf.TemporaryError(str(error), delay=1) from error
        scheme, _space, token = (found.authorization or "").rpartition(" ")
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.ca_path,
            insecure=not found.verifies,
            scheme=scheme.title() or None,
            token=token or None,
            certificate_path=found.certificate_path,
            private_key_path=found.key_path,
        )

    def take(kind: Kind, event: kopf.RawEvent) -> None:
        hearer.hear(kind)
        body = event["object"]
        if event["type"] is None:  # of a listing, not of a watch
            hearer.relist(kind)
        if event["type"] == "DELETED":
            hearer.forget(kind, body["metadata"]["uid"])
        else:
            hearer.observe(kind, body)

    def handler(kind: Kind) -> Callable[..., Coroutine[Any, Any, None]]:
        async def see(event: kopf.RawEvent, **_: Any) -> None:
            home.call_soon_threadsafe(take, kind, event)

        see.__name__ = f"see_{kind.name.lower()}"
        return see

    for kind in TOLD:
        kopf.on.event(names.GROUP, names.VERSION, kind.value, registry=handlers)(handler(kind))
    return handlers
