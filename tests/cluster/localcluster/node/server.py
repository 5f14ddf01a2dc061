"""Serves the part of the kubelet API that `kubectl logs` uses, over TLS, for all nodes."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .errors import NodeError
from .pod import Pod
from .setting import log_file

if TYPE_CHECKING:
    from pathlib import Path

FOLLOW_S: Final = 0.1
CHUNK: Final = 1 << 16
NETWORKS: Final = range(0, 64)  # second octets of 127.0.0.0/8 that clusters can claim

Find = Callable[[str, str], Pod | None]


class Logs:
    """The log endpoint; `find` returns the pods."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self.app = web.Application()
        self.app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        self.app.router.add_get("/healthz", self._healthz)

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        names = request.match_info
        pod = self._find(names["namespace"], names["pod"])
        container = pod.container(names["container"]) if pod else None
        if pod is None or container is None:
            raise web.HTTPNotFound(text=f"no container {names['container']} in {names['pod']}\n")
        record = container.record
        run = record.restarts
        path = log_file(pod.folder, record.name, run)
        if request.query.get("previous") == "true" or not path.exists():
            # While it waits for a restart, the log is that of the previous run.
            previous = log_file(pod.folder, record.name, run - 1)
            if request.query.get("previous") == "true" or previous.exists():
                path = previous
        if not path.exists():
            text = f'container "{record.name}" in pod "{names["pod"]}" has no such log yet\n'
            raise web.HTTPBadRequest(text=text)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        with path.open("rb") as file:
            if tail := request.query.get("tailLines"):
                await response.write(b"".join(deque(file, maxlen=int(tail))))
            while True:
                over = not container.running or container.record.restarts != run
                while chunk := file.read(CHUNK):
                    await response.write(chunk)
                if request.query.get("follow") != "true" or over:
                    break
                await asyncio.sleep(FOLLOW_S)
        await response.write_eof()
        return response


async def claim_network(runner: web.AppRunner, nodes: int, port: int, folder: Path) -> list[str]:
    """Serve on the first address of one /24 network per node, and return these addresses.

    The listening sockets also claim a /16 of the loopback network: a second cluster on this machine
    finds the addresses in use and takes the next network.
    """
    context = _tls(folder)
    for second in NETWORKS:
        addresses = [f"127.{second}.{10 + index}.1" for index in range(nodes)]
        sites = []
        try:
            for address in addresses:
                site = web.TCPSite(runner, address, port, ssl_context=context)
                await site.start()
                sites.append(site)
        except OSError:
            for site in sites:
                await site.stop()
            continue
        return addresses
    raise NodeError(f"port {port} is taken on every loopback network from 127.0 to 127.63")


def _tls(folder: Path) -> ssl.SSLContext:
    """Return a server context with a new certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localcluster-node")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    pem = folder / "kubelet.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return context
