"""Runs kopf, whose watches of services and profiles report events to the operator.

Only `on.event` is used. It writes nothing to the objects, neither annotations nor
finalizers, so that a second operator, or a stopped one, does no harm.

kopf stops at the first watch that fails, for which one error event of the API server is
enough, and it cancels every task of its event loop. Therefore it runs in an event loop and
a thread of its own, and is restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, Any, Final, Protocol

import kopf

from avatar_contracts.backoff import Backoff
from avatar_operator import names
from avatar_operator.errors import ClusterError
from avatar_operator.kube.informers import KOPF_KINDS, SILENCE_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping

    from avatar_operator.core.cache.entries import Kind
    from avatar_operator.kube.connection import Credentials

RESTART_S: Final = (0.1, 10.0)  # first and longest delay before kopf is restarted
STOP_S: Final = 5.0  # for cancelled tasks of kopf
# Without it, kopf asks for the name of its user, which the user of a container does not have. It is
# for peering only, which is not used; kopf does not export the type.
_IDENTITY: Final[Any] = "avatar-operator"
_WATCHER: Final = "watcher for "  # kopf's prefix for the name of the task that watches a kind

_log = logging.getLogger(__name__)


class EventSink(Protocol):
    """The receiver of kopf's events, on the event loop of the operator."""

    def on_event(self, kind: Kind) -> None:
        """Record that the watch of a kind delivered an event."""
        ...

    def relist(self, kind: Kind) -> None:
        """List a kind again, because its watch was restarted."""
        ...

    def observe(self, kind: Kind, body: Mapping[str, Any]) -> object:
        """Handle an object that was added or changed."""
        ...

    def observe_deletion(self, kind: Kind, uid: str) -> None:
        """Handle the deletion of an object."""
        ...


class KopfInformer:
    """Runs kopf as long as the operator runs, and restarts it whenever it stops."""

    def __init__(
        self,
        sink: EventSink,
        credentials: Callable[[], Coroutine[Any, Any, Credentials]],
        namespaces: Collection[str],
    ) -> None:
        """`namespaces` are those to watch; empty means all."""
        self._sink = sink
        self._credentials = credentials
        self._namespaces = namespaces

    async def run(self) -> None:
        """Run kopf until cancelled."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(*RESTART_S, random.random)
        while True:
            started = loop.time()
            try:
                await self._run_once()
            except Exception as fault:
                _log.warning("kopf stopped, restarting fault=%r", fault)
            else:
                _log.warning("kopf stopped, restarting")
            if loop.time() - started > RESTART_S[1]:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())
            for kind in KOPF_KINDS:
                self._sink.relist(kind)  # kopf's own list reports no deletions

    async def _run_once(self) -> None:
        """Run kopf once, until it stops or this task is cancelled."""
        main_loop = asyncio.get_running_loop()
        kopf_loop = asyncio.new_event_loop()  # used once: kopf leaves tasks behind in it
        stop = asyncio.Event()
        handlers = registry(self._sink, self._login(main_loop), main_loop)

        def work() -> None:
            try:
                kopf_loop.run_until_complete(_watch(handlers, self._namespaces, stop))
            finally:
                kopf_loop.run_until_complete(kopf_loop.shutdown_asyncgens())
                kopf_loop.close()

        finished = main_loop.run_in_executor(None, work)
        try:
            await asyncio.shield(finished)
        except asyncio.CancelledError:
            with contextlib.suppress(RuntimeError):  # the loop is closed: kopf has just stopped
                kopf_loop.call_soon_threadsafe(stop.set)
            await asyncio.wait({finished})
            raise

    def _login(self, main_loop: asyncio.AbstractEventLoop) -> Callable[[], Awaitable[Credentials]]:
        """Return the function by which kopf's loop gets credentials from the operator's loop."""

        async def login() -> Credentials:
            future = asyncio.run_coroutine_threadsafe(self._credentials(), main_loop)
            return await asyncio.wrap_future(future)

        return login


async def _watch(
    handlers: kopf.OperatorRegistry, namespaces: Collection[str], stop: asyncio.Event
) -> None:
    """Run kopf until one of its tasks ends, or until `stop` is set."""
    parts = await kopf.spawn_tasks(
        registry=handlers,
        settings=kopf_settings(),
        identity=_IDENTITY,
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
    )
    stopped = asyncio.create_task(stop.wait(), name="stop")
    ended, _ = await asyncio.wait({stopped, *parts}, return_when=asyncio.FIRST_COMPLETED)
    # `kopf.run_tasks` would wait 5 s for tasks that nobody has cancelled. The order matters: a
    # watcher can only end while its helper tasks run.
    await _end(parts)
    await _end(task for task in asyncio.all_tasks() if task.get_name().startswith(_WATCHER))
    await _end(asyncio.all_tasks() - {asyncio.current_task()})
    for part in ended:
        if not part.cancelled():
            part.result()


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end; a task that does not end is left with the loop."""
    found = set(tasks)
    for task in found:
        task.cancel()
    if found:
        await asyncio.wait(found, timeout=STOP_S)


def kopf_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: kopf writes nothing, and a silent watch is opened again."""
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
    """Stores no diffs: kopf would copy each object three times for a diff that is not used."""

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        pass


def registry(
    sink: EventSink,
    credentials: Callable[[], Awaitable[Credentials]],
    main_loop: asyncio.AbstractEventLoop,
) -> kopf.OperatorRegistry:
    """Return kopf's handlers: the login, and one for the events of each kind.

    They run on kopf's loop; `sink` is called on `main_loop`.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def on_login(**_: Any) -> kopf.ConnectionInfo:
        try:
            login = await credentials()
        except ClusterError as error:
            raise kopf.TemporaryError(str(error), delay=1) from error
        scheme, _space, token = (login.authorization or "").rpartition(" ")
        return kopf.ConnectionInfo(
            server=login.server,
            ca_path=login.ca_path,
            insecure=not login.verifies,
            scheme=scheme.title() or None,
            token=token or None,
            certificate_path=login.certificate_path,
            private_key_path=login.key_path,
        )

    def handle(kind: Kind, event: kopf.RawEvent) -> None:
        sink.on_event(kind)
        body = event["object"]
        if event["type"] is None:  # from a list, not from a watch
            sink.relist(kind)
        if event["type"] == "DELETED":
            sink.observe_deletion(kind, body["metadata"]["uid"])
        else:
            sink.observe(kind, body)

    def handler(kind: Kind) -> Callable[..., Coroutine[Any, Any, None]]:
        async def on_event(event: kopf.RawEvent, **_: Any) -> None:
            main_loop.call_soon_threadsafe(handle, kind, event)

        on_event.__name__ = f"on_{kind.name.lower()}"
        return on_event

    for kind in KOPF_KINDS:
        kopf.on.event(names.GROUP, names.VERSION, kind.value, registry=handlers)(handler(kind))
    return handlers
