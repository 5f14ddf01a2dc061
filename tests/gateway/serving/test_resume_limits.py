"""Callers that are to continue a session and say nothing make room for others."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from avatar_contracts import labels, session_ids
from avatar_contracts.tokens import caller_code, gateway_key
from avatar_gateway.core.connections import Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

KEY = "a-key-of-some-length"
MASTER = "a-master-secret-of-the-operator"
MODEL = "model=acme/concierge"
LOOPBACK = (ip_network("127.0.0.0/8"),)


def _open(gateway: Any, query: str = "", headers: Mapping[str, str] | None = None) -> connect:
    return connect(
        f"{gateway.url}?{MODEL}{query}",
        additional_headers={"Authorization": f"Bearer {KEY}", **(headers or {})},
        compression=None,
        open_timeout=30,
    )


async def test_silent_callers_keep_nobody_from_the_gateway(
    make_gateway: Callable[..., AbstractAsyncContextManager[Any]],
    until: Callable[..., Awaitable[None]],
) -> None:
    async with make_gateway(limits=Limits(4, 4)) as gateway, AsyncExitStack() as stack:
        pod = await gateway.pod("p1", capacity=20)
        resume = f"&resume={session_ids.new('p1')}"
        session = await stack.enter_async_context(_open(gateway))
        silent = [await stack.enter_async_context(_open(gateway, resume)) for _ in range(3)]
        # Both a caller that resumes and a new one get in, each in the place of the oldest one.
        resuming = await stack.enter_async_context(_open(gateway, resume))
        await resuming.send("session.resume")
        assert await resuming.recv() == "session.resume"
        another = await stack.enter_async_context(_open(gateway))
        for displaced in silent[:2]:
            with pytest.raises(ConnectionClosed):
                await displaced.recv()
        # The pods learn that the callers are gone. The callers with sessions are left alone.
        await until(lambda: pod.closed_with == [1001, 1001])
        for kept in (session, resuming, another):
            await kept.send("hello")
            assert await kept.recv() == "hello"
        # Without silent callers, the limit is one.
        await silent[2].send("session.resume")
        await silent[2].recv()
        # The answer does not wait for a request. The client of websockets cannot read it so early.
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 429 ")
        writer.close()


async def test_silent_callers_behind_a_proxy_keep_nobody_of_their_address_out(
    make_gateway: Callable[..., AbstractAsyncContextManager[Any]],
) -> None:
    limits = Limits(100, 3)
    async with (
        make_gateway(limits=limits, trusted_proxies=LOOPBACK) as gateway,
        AsyncExitStack() as stack,
    ):
        await gateway.pod("p1", capacity=20)
        resume = f"&resume={session_ids.new('p1')}"
        office = {"X-Forwarded-For": "192.0.2.7"}
        silent = [await stack.enter_async_context(_open(gateway, resume, office)) for _ in range(3)]
        own = await stack.enter_async_context(_open(gateway, resume, office))
        await own.send("session.resume")
        assert await own.recv() == "session.resume"
        with pytest.raises(ConnectionClosed):
            await silent[0].recv()


async def test_a_pod_can_tell_callers_apart_and_not_who_they_are(
    make_gateway: Callable[..., AbstractAsyncContextManager[Any]],
) -> None:
    async with make_gateway(trusted_proxies=LOOPBACK) as gateway:
        pod = await gateway.pod("p1", capacity=20)
        addresses = ("192.0.2.7", "192.0.2.7", "2001:db8::1", "2001:db8::2", None)
        for address in addresses:
            headers = {} if address is None else {"X-Forwarded-For": address}
            # A caller cannot choose its code.
            headers[labels.CALLER_HEADER] = "chosen"
            async with _open(gateway, headers=headers):
                pass
        codes = [request.headers.get(labels.CALLER_HEADER) for request in pod.requests]
    key = gateway_key(MASTER)
    v4, v6 = caller_code(key, "192.0.2.7"), caller_code(key, "2001:db8::/64")
    assert codes == [v4, v4, v6, v6, None]
    assert len(v4) == 16
    assert v4 != v6 != caller_code("another key", "2001:db8::/64")


async def test_without_a_proxy_the_caller_is_who_connects(gateway: Any) -> None:
    pod = await gateway.pod("p1")
    async with _open(gateway):
        pass
    (request,) = pod.requests
    assert request.headers[labels.CALLER_HEADER] == caller_code(gateway_key(MASTER), "127.0.0.1")
