"""The sessions listener with a certificate: sessions, probes, and a change of the certificate."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from tests import certificates
from websockets.asyncio.client import connect

from avatar_contracts import tls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.certificates import Certificate
    from tests.runtime.serving.conftest import Client, FakeEngine, Serve

pytestmark = pytest.mark.slow


@pytest.fixture
def files(tmp_path: Path) -> Certificate:
    return certificates.make(tmp_path)


def variables(files: Certificate) -> dict[str, str]:
    return {
        "AVATAR_TLS_CERTIFICATE": str(files.certificate),
        "AVATAR_TLS_KEY": str(files.key),
    }


async def speaks(client: Client, frames: int) -> None:
    await client.speak(frames)
    done = await client.until("response.done")
    assert done["response"]["status"] == "completed"
    (video,) = client.of("response.video.done")
    assert video["frames"] + video["dropped"] == frames
    client.events.clear()


async def test_a_session_survives_a_change_of_the_certificate(
    serve: Serve, files: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "CHECK_S", 0.01)
    other, old = certificates.make(tmp_path, "new"), files.client()
    async with serve(**variables(files)) as served, asyncio.timeout(60):
        async with served.client(tls=old) as first:
            await speaks(first, 30)
            files.replace(other)
            while await certificate_of(served.sessions) != other.der:  # noqa: ASYNC110 - the files
                await asyncio.sleep(0.01)
            await speaks(first, 30)
            async with served.client(tls=other.client()) as second:
                await speaks(second, 5)


async def test_a_client_that_reads_slowly_gets_all_of_its_response(
    serve: Serve, files: Certificate, make_engine: Callable[..., FakeEngine]
) -> None:
    engine = make_engine(jpeg=bytes(150_000))
    async with (
        serve(engine=engine, **variables(files)) as served,
        served.client(tls=files.client(), max_queue=1) as client,
    ):
        await client.speak(40)
        await client.until("response.video.delta")
        # Reading stops here, until the socket is full.
        await served.eventually(lambda: sum(map(len, engine.batches)) == 40, "made all frames")
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"
        [video] = client.of("response.video.done")
        assert video["frames"] + video["dropped"] == 40


async def certificate_of(address: str) -> bytes:
    """Return what a new connection is shown, whoever issued it."""
    host, port = address.split(":")
    context = certificates.trusting_anyone()
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    assert isinstance(der, bytes)
    return der


async def test_probes_are_encrypted_and_the_admin_port_is_not(
    serve: Serve, files: Certificate
) -> None:
    async with serve(**variables(files)) as served:
        async with httpx.AsyncClient(verify=files.client()) as http:
            assert (await http.get(f"https://{served.sessions}/readyz")).status_code == 200
            assert (await http.get(f"http://{served.admin}/control/v1/state")).status_code == 200
            with pytest.raises(httpx.TransportError):
                await http.get(f"http://{served.sessions}/readyz")


async def test_a_handshake_that_is_never_sent_ends(
    serve: Serve, files: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.05)
    async with serve(**variables(files)) as served, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*served.sessions.split(":"))
        assert await reader.read() == b""
        writer.close()


async def test_the_command_takes_the_files_as_arguments_and_names_what_is_wrong(
    files: Certificate,
) -> None:
    files.certificate.write_text("no certificate")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avatar_runtime", "serve"),
        *("--model", "examples/models/demo", "--avatars", "examples/avatars"),
        *("--device", "simulated:h100-80gb", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
        *("--tls-certificate", str(files.certificate), "--tls-key", str(files.key)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, printed = await process.communicate()
    assert process.returncode == 2
    (line,) = printed.decode().splitlines()
    assert line.startswith(f"avatar-runtime: {files.certificate} and {files.key} are not a cert")


async def test_a_page_on_the_same_host_may_connect(serve: Serve, files: Certificate) -> None:
    async with serve(**variables(files)) as served:
        address = f"wss://{served.sessions}/v1/realtime"
        origin = f"https://{served.sessions}"
        async with connect(address, ssl=files.client(), origin=origin) as socket:  # type: ignore[arg-type]
            assert json.loads(await socket.recv())["type"] == "session.created"
