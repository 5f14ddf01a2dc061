"""The certificate of a listener: what it needs, and how it is replaced."""

from __future__ import annotations

import asyncio
import logging
import ssl
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests import certificates

from avatar_contracts import socket_buffers, tls
from avatar_contracts.environment import Environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.certificates import Certificate


def served(files: Certificate) -> tls.ServerCertificate:
    return tls.ServerCertificate(tls.CertificateFiles(str(files.certificate), str(files.key)))


@asynccontextmanager
async def listening(certificate: tls.ServerCertificate) -> AsyncIterator[int]:
    """Echo lines over TLS, and give the port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=certificate.context)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


async def peer_of(port: int, name: str | None, trusted: Certificate) -> bytes:
    """Return the certificate that a new connection gets."""
    context = trusted.client()
    context.check_hostname = name is not None
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name or ""
    )
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    assert isinstance(der, bytes)
    return der


@pytest.mark.parametrize("name", ["localhost", None], ids=["with a server name", "without"])
async def test_new_connections_get_the_new_certificate_and_open_ones_go_on(
    tmp_path: Path, name: str | None
) -> None:
    files, other = certificates.make(tmp_path), certificates.make(tmp_path, "new")
    certificate = served(files)
    async with listening(certificate) as port:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=files.client(), server_hostname="localhost"
        )
        assert await peer_of(port, name, files) == files.der
        assert not certificate.reload()
        files.replace(other)
        assert certificate.reload()
        assert await peer_of(port, name, other) == other.der
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"
        writer.close()


async def test_a_change_of_the_files_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "CHECK_S", 0.01)
    files, other = certificates.make(tmp_path), certificates.make(tmp_path, "new")
    certificate = served(files)
    async with listening(certificate) as port, asyncio.timeout(20):
        following = asyncio.create_task(certificate.follow())
        files.replace(other)
        while True:
            try:
                assert await peer_of(port, "localhost", other) == other.der
                break
            except ssl.SSLCertVerificationError:
                await asyncio.sleep(0)
        following.cancel()


async def test_a_wrong_pair_is_reported_once_and_the_old_certificate_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files, other = certificates.make(tmp_path), certificates.make(tmp_path, "new")
    before = files.der
    old = ssl.create_default_context(cadata=files.certificate.read_text())
    certificate = served(files)
    async with listening(certificate) as port:
        files.certificate.write_bytes(other.certificate.read_bytes())
        assert [certificate.reload() for _ in range(3)] == [False] * 3
        (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert "key values mismatch" in record.getMessage()
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=old, server_hostname="localhost"
        )
        assert writer.get_extra_info("ssl_object").getpeercert(binary_form=True) == before
        writer.close()
        files.key.unlink()
        assert not certificate.reload()
        files.replace(other)
        assert certificate.reload()
        assert await peer_of(port, "localhost", other) == other.der


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    files = certificates.make(tmp_path)
    missing = tmp_path / "missing.crt"
    with pytest.raises(tls.CertificateError, match=r"missing\.crt: No such file"):
        tls.ServerCertificate(tls.CertificateFiles(str(missing), str(files.key)))
    locked = tmp_path / "locked.key"
    command = ["openssl", "ec", "-in", str(files.key), "-aes256", "-passout", "pass:word"]
    subprocess.run([*command, "-out", str(locked)], check=True, capture_output=True)
    with pytest.raises(tls.CertificateError, match=r"locked\.key has a passphrase, must have none"):
        tls.ServerCertificate(tls.CertificateFiles(str(files.certificate), str(locked)))
    files.certificate.write_text("no certificate")
    with pytest.raises(tls.CertificateError, match="not a certificate and its key"):
        served(files)
    with files.certificate.open("wb") as large:
        large.truncate(tls.MAX_BYTES + 1)
    with pytest.raises(tls.CertificateError, match="has 1048577 bytes, must have at most 1048576"):
        served(files)


async def test_a_transport_that_was_closed_twice_has_nothing_unsent(tmp_path: Path) -> None:
    files = certificates.make(tmp_path)
    async with listening(served(files)) as port:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=files.client(), server_hostname="localhost"
        )
        assert socket_buffers.unsent_bytes(writer.transport) == 0
        writer.transport.close()
        writer.transport.close()
        assert socket_buffers.unsent_bytes(writer.transport) == 0


def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    assert served(certificates.make(tmp_path)).context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("variables", "expected", "faults"),
    [
        ({}, None, []),
        ({"C": "a", "K": "b"}, tls.CertificateFiles("a", "b"), []),
        ({"C": "a"}, None, ["K is not set, must be set, because C is set"]),
        ({"K": "b"}, None, ["C is not set, must be set, because K is set"]),
    ],
)
def test_both_variables_or_none_are_set(
    variables: dict[str, str], expected: tls.CertificateFiles | None, faults: list[str]
) -> None:
    read = Environment(variables)
    assert tls.from_env(read, "C", "K") == expected
    assert [str(fault) for fault in read.faults] == faults
