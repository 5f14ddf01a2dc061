"""The connection to Redis or Valkey: deadlines, scripts and whether the server answers.

No call takes longer than `DEADLINE_S`. After a failure, every call fails at once until a probe has
had an answer, so that requests do not wait for a server that is away.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from avatar_gateway import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_contracts.backoff import Backoff

_log = logging.getLogger(__name__)

DEADLINE_S: Final = 1.0
MAX_CONNECTIONS: Final = 16
_MAX_MESSAGE: Final = 120
MAX_CALLS: Final = 32
"""Scripts that are sent together, so that the server is never busy for long."""
_SCRIPTS: Final = "avatar_gateway.shared.scripts"
_WITHOUT_COMMON: Final = frozenset({"count_use", "queue"})


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is."""

    url: str = field(repr=False)
    """redis://, rediss:// (TLS) or unix://; it may contain a password and is never logged."""
    read_password: Callable[[], str] = field(repr=False, default=lambda: "")
    """Returns the password, if the URL has none; it is read for each new connection."""
    ca: str = ""
    """PEM file with the certificate authorities of the server; empty for those of the system."""

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the hash by which the server knows it."""

    text: str
    sha: str


@dataclass(frozen=True, slots=True)
class _Call:
    """One run of a script; its answer may be abandoned."""

    script: Script
    keys: int
    values: Sequence[str]
    answer: asyncio.Future[Any]

    def take(self, answer: Any) -> None:
        """Set the answer, which may be an error of this script alone."""
        if isinstance(answer, Exception):
            self.fail(answer)
        elif not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """Set the error; a call is not cancelled with the round trip that it is a part of."""
        if not self.answer.done():
            is_error = isinstance(error, Exception)
            self.answer.set_exception(error if is_error else ConnectionError("it was stopped"))


def load_script(name: str, package: str = _SCRIPTS) -> Script:
    """Return the script `NAME.lua`, after the functions of common.lua."""
    folder = resources.files(package)
    text = folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
    if name not in _WITHOUT_COMMON:
        text = resources.files(_SCRIPTS).joinpath("common.lua").read_text(encoding="utf-8") + text
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Connection:
    """Runs scripts and commands on the server."""

    def __init__(self, address: Address, backoff: Backoff, prefix: str = "avatar:") -> None:
        """Every key has the prefix."""
        self.prefix = prefix
        self._address = address
        self._backoff = backoff
        self._is_up = True
        self._probe: asyncio.Task[None] | None = None
        self._calls: list[_Call] = []
        """Those of this turn of the event loop."""
        self._running: set[asyncio.Task[None]] = set()
        parts = urlsplit(address.url)
        tls = {"ssl_ca_certs": address.ca} if address.ca and parts.scheme == "rediss" else {}
        pool = BlockingConnectionPool.from_url(
            address.url,
            **tls,
            max_connections=MAX_CONNECTIONS,
            timeout=DEADLINE_S,
            socket_connect_timeout=DEADLINE_S,
            socket_timeout=DEADLINE_S,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        if not parts.password and address.read_password():
            pool.connection_kwargs.pop("username", None)
            pool.connection_kwargs["credential_provider"] = _Credentials(address, parts.username)
        self._redis = Redis(connection_pool=pool)

    @property
    def is_up(self) -> bool:
        """Return whether the last call had an answer."""
        return self._is_up

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        """Run a script as a whole and return what it returns.

        Raises:
            SharedStateUnavailable: no answer in time. The script may have run nevertheless, so a
                script must be safe to repeat.
        """
        values = [*(self.prefix + key for key in keys), *map(str, arguments)]

        call = _Call(script, len(keys), values, asyncio.get_running_loop().create_future())
        return await self.call(lambda: self._answer(call))

    async def command(self, *words: object) -> Any:
        """Run one command, of which the caller has prefixed the keys.

        Raises:
            SharedStateUnavailable: no answer in time.
        """

        async def call() -> Any:
            return await self._redis.execute_command(*words)  # type: ignore[no-untyped-call]

        return await self.call(call)

    async def call(self, operation: Callable[[], Any]) -> Any:
        """Await an operation of the client, within the deadline."""
        if not self._is_up:
            raise errors.SharedStateUnavailable("it did not answer before")
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await operation()
        except ResponseError as error:
            # An answer, for example to a command that the server lacks: the server is there.
            # What it says is the cause: that its memory is full, or that it is a read-only replica.
            text = f"{type(error).__name__}: {str(error)[:_MAX_MESSAGE]!r}"
            raise errors.SharedStateUnavailable(text) from error
        except (RedisError, OSError, TimeoutError) as error:
            self._lose(error)
            raise errors.SharedStateUnavailable(type(error).__name__) from error
        finally:
            # The client waits by asyncio.wait_for, which loses a cancellation that comes together
            # with an answer (Python 3.11). A loop that is cancelled would run on.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError

    async def _answer(self, call: _Call) -> Any:
        """Send a call with the others of this turn of the event loop, and return its answer."""
        if not self._calls:
            asyncio.get_running_loop().call_soon(self._send_calls)
        self._calls.append(call)
        return await call.answer

    def _send_calls(self) -> None:
        calls, self._calls = self._calls, []
        for at in range(0, len(calls), MAX_CALLS):
            task = asyncio.create_task(self._run_all(calls[at : at + MAX_CALLS]), name="scripts")
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run_all(self, calls: Sequence[_Call]) -> None:
        """Run scripts in one round trip; each of them is atomic and fails by itself."""
        try:
            async with asyncio.timeout(DEADLINE_S), self._redis.pipeline(transaction=False) as pipe:
                for call in calls:
                    pipe.evalsha(call.script.sha, call.keys, *call.values)
                answers = await pipe.execute(raise_on_error=False)
                for at, answer in enumerate(answers):
                    if isinstance(answer, NoScriptError):
                        call = calls[at]
                        pipe.eval(call.script.text, call.keys, *call.values)
                again = iter(await pipe.execute(raise_on_error=False))
        except BaseException as error:
            for call in calls:
                call.fail(error)
            if not isinstance(error, (RedisError, OSError, TimeoutError)):
                raise
            return
        for call, answer in zip(calls, answers, strict=True):
            call.take(next(again) if isinstance(answer, NoScriptError) else answer)

    async def close(self) -> None:
        """Close all connections; what is called from now on fails at once."""
        self._is_up = False
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        await self._redis.aclose(close_connection_pool=True)

    def _lose(self, error: Exception) -> None:
        if not self._is_up:
            return
        self._is_up = False
        _log.warning("shared state lost address=%s problem=%s", self._address, type(error).__name__)
        self._probe = asyncio.create_task(self._probe_until_up(), name="probe-shared-state")

    async def _probe_until_up(self) -> None:
        while True:
            await asyncio.sleep(self._backoff.next_s())
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await self._redis.ping()
            except (RedisError, OSError, TimeoutError):
                continue
            self._backoff.reset()
            self._is_up = True
            _log.info("shared state is back address=%s", self._address)
            return


class _Credentials:
    """Gives redis-py the password as it is now."""

    def __init__(self, address: Address, username: str | None) -> None:
        self._address = address
        self._username = username

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._address.read_password()
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()
