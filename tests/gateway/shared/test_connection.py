from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING

import pytest

from avatar_contracts.backoff import Backoff
from avatar_gateway import errors
from avatar_gateway.shared import leases as shared_leases
from avatar_gateway.shared import metering
from avatar_gateway.shared.connection import MAX_CALLS, Address, Connection, Script
from avatar_gateway.shared.leases import Leases
from avatar_gateway.shared.redis import RedisState
from avatar_gateway.shared.usage_log import UsageLog
from avatar_gateway.shared.use_counts import SharedUseCounts

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

WAIT_S = 30.0


async def until_up(connection: Connection) -> None:
    async with asyncio.timeout(WAIT_S):
        while not connection.is_up:  # noqa: ASYNC110  the probe sets no event
            await asyncio.sleep(0.01)


async def test_calls_fail_at_once_while_the_server_is_away_and_succeed_afterwards(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    connection = redis_server.connection()
    state = RedisState(connection)
    assert await state.count_use("x", 9, 60)
    assert connection.is_up
    await redis_server.kill()
    for _ in range(3):
        with pytest.raises(errors.SharedStateUnavailable):
            await state.count_use("x", 9, 60)
    assert state.name == "unavailable"
    await redis_server.start()
    await until_up(connection)
    assert await state.count_use("x", 9, 60)
    await connection.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_server_that_says_nothing_does_not_hold_a_request() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = Connection(Address(f"redis://127.0.0.1:{port}"), Backoff(5, 5, lambda: 1.0))
    with pytest.raises(errors.SharedStateUnavailable):
        await RedisState(connection).count_use("x", 9, 60)
    await connection.close()
    server.close()
    await server.wait_closed()


@pytest.mark.slow
async def test_an_answer_that_comes_too_late_is_not_the_answer_of_another_call(
    redis_server: RedisServer,
) -> None:
    connection = redis_server.connection()
    redis_server.freeze()
    late = await asyncio.gather(
        *(connection.command("ECHO", f"late-{at}") for at in range(40)), return_exceptions=True
    )
    assert all(isinstance(each, errors.SharedStateUnavailable) for each in late)
    redis_server.thaw()
    await until_up(connection)
    found = await asyncio.gather(*(connection.command("ECHO", f"{at}") for at in range(40)))
    assert found == [f"{at}" for at in range(40)]
    await connection.close()


async def test_what_the_server_answers_wrongly_ends_no_session(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_leases, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(metering, "REPORT_S", 0.01)
    connection = redis_server.connection()
    state = RedisState(connection)

    async def wrong(*arguments: object) -> object:
        return ["nonsense", None]

    monkeypatch.setattr(connection, "run", wrong)
    now = asyncio.get_running_loop().time
    meter = metering.Meter(state, UsageLog(""), "g", lambda _: 1, now, now)
    monkeypatch.setattr(metering, "ABANDONED_EVERY", 1)
    tasks = [asyncio.create_task(each.run()) for each in (Leases(state, "g", now), meter)]
    async with asyncio.timeout(WAIT_S):
        while {record.getMessage() for record in caplog.records} < {  # noqa: ASYNC110
            "leases not reported",
            "usage not reported",
        }:
            await asyncio.sleep(0.01)
    for task in tasks:
        assert not task.done()
        task.cancel()
    await connection.close()


async def test_uses_of_client_secrets_are_counted_while_the_server_is_away(
    redis_server: RedisServer,
) -> None:
    connection = redis_server.connection()
    uses = SharedUseCounts(RedisState(connection), lambda: 0.0)
    assert await uses.count_use("x", 1, 60)
    assert not await uses.count_use("x", 1, 60)
    await redis_server.kill()
    assert [await uses.count_use("y", 2, 60) for _ in range(3)] == [True, True, False]
    await connection.close()


async def test_the_password_is_read_for_each_connection_and_never_logged(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with redis_server.client() as client:
        await client.config_set("requirepass", "a-wrong-canary")
    passwords = ["a-wrong-one"]
    address = Address(redis_server.url, lambda: passwords[0])
    connection = Connection(address, Backoff(0.02, 0.02, lambda: 1.0))
    with pytest.raises(errors.SharedStateUnavailable) as refused:
        await RedisState(connection).count_use("x", 9, 60)
    passwords[0] = "a-wrong-canary"
    await until_up(connection)
    assert await RedisState(connection).count_use("x", 9, 60)
    await connection.close()
    for text in (caplog.text, str(refused.value), repr(address)):
        assert "canary" not in text
        assert "a-wrong-one" not in text


async def test_a_cancellation_that_the_client_loses_is_not_lost(redis_server: RedisServer) -> None:
    connection = redis_server.connection()
    reached = asyncio.Event()

    async def swallow() -> str:
        """Answer although it was cancelled, as `asyncio.wait_for` does if both come together."""
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "an answer"
        raise AssertionError

    task = asyncio.create_task(connection.call(swallow))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await connection.close()


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


async def test_scripts_of_one_turn_share_a_round_trip_and_fail_alone(
    redis_server: RedisServer,
) -> None:
    connection = redis_server.connection()
    echo, wrong = _script("return ARGV[1]"), _script("return redis.call('NONE')")
    async with redis_server.client() as client:
        # The server does not know the scripts yet: those of the first turn are sent again.
        for _ in range(2):
            calls = [connection.run(echo, [], [at]) for at in range(MAX_CALLS + 3)]
            calls.insert(5, connection.run(wrong, [], []))
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(found.pop(5), errors.SharedStateUnavailable)
            assert found == [str(at) for at in range(MAX_CALLS + 3)]
        clients = (await client.info("clients"))["connected_clients"]
    assert connection.is_up
    assert clients <= 3  # this client, and one connection for each of two groups
    await connection.close()
    with pytest.raises(errors.SharedStateUnavailable):
        await connection.run(echo, [], ["x"])
