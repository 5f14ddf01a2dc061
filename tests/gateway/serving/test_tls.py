"""The sessions port with a certificate: sessions, limits and a change of the certificate."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests import certificates

from avatar_contracts import tls
from avatar_gateway import settings
from avatar_gateway.core.connections import Limits
from avatar_gateway.serving.server import Listener

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.certificates import Certificate
    from tests.gateway.conftest import Setup

    MakeGateway = Callable[[ssl.SSLContext], AbstractAsyncContextManager[Setup]]

KEY = {"Authorization": "Bearer a-key-of-some-length"}
MODEL = "?model=acme/concierge"


@pytest.fixture
def files(tmp_path: Path) -> Certificate:
    return certificates.make(tmp_path)


@pytest.fixture
def certificate(files: Certificate) -> tls.ServerCertificate:
    return tls.ServerCertificate(tls.CertificateFiles(str(files.certificate), str(files.key)))


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=KEY) as session:
        yield session


async def test_a_session_survives_a_change_of_the_certificate(
    make_gateway: MakeGateway,
    files: Certificate,
    certificate: tls.ServerCertificate,
    http: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    other = certificates.make(tmp_path, "new")
    async with make_gateway(certificate.context) as gateway:
        await gateway.pod("p1")
        url = f"https://localhost:{gateway.port}/v1/realtime{MODEL}"
        async with http.ws_connect(url, ssl=files.client()) as first:
            await first.send_str("before")
            assert await first.receive_str(timeout=5) == "before"
            files.replace(other)
            assert certificate.reload()
            large = "x" * (3 * 2**20)
            await first.send_str(large)
            assert await first.receive_str(timeout=20) == large
            async with http.ws_connect(url, ssl=other.client()) as second:
                await second.send_str("new certificate")
                assert await second.receive_str(timeout=5) == "new certificate"


async def test_http_answers_are_encrypted_and_plain_requests_get_none(
    make_gateway: MakeGateway,
    files: Certificate,
    certificate: tls.ServerCertificate,
    http: aiohttp.ClientSession,
) -> None:
    async with make_gateway(certificate.context) as gateway:
        address = f"localhost:{gateway.port}/healthz"
        async with http.get(f"https://{address}", ssl=files.client()) as response:
            assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await http.get(f"http://{address}")


async def test_a_handshake_that_is_never_sent_ends(
    make_gateway: MakeGateway,
    certificate: tls.ServerCertificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.05)
    async with make_gateway(certificate.context) as gateway, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        assert await reader.read() == b""
        writer.close()


async def test_at_the_limit_the_oldest_handshake_makes_room(
    files: Certificate, certificate: tls.ServerCertificate, http: aiohttp.ClientSession
) -> None:
    async def hello(_: Any) -> aiohttp.web.Response:
        return aiohttp.web.Response(text="hello")

    application = aiohttp.web.Application()
    application.router.add_get("/", hello)
    listener = Listener(Limits(2, 2), tls_context=certificate.context)
    any_port = settings.Address("127.0.0.1", 0)
    descriptors = len(os.listdir("/proc/self/fd"))
    async with listener.listening(application, any_port) as port, asyncio.timeout(20):
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
        for reader, _ in silent[:4]:
            assert await reader.read() == b""
        async with http.get(f"https://localhost:{port}/", ssl=files.client()) as response:
            assert await response.text() == "hello"
        assert listener.connections <= 2
        for _, writer in silent:
            writer.close()
            await writer.wait_closed()
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 3
