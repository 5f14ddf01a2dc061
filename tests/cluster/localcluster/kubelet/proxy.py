"""A TLS proxy in front of the gateway, as an Ingress controller runs it: nginx on a node."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from typing import TYPE_CHECKING, Final

from localcluster import waiting
from localcluster.controlplane import certificates, supervision, supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from localcluster.kubelet.node import Node

PORT: Final = 8443
NAME: Final = "tls-proxy"

CONFIGURATION: Final = """\
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  server {{
    listen {address}:{port} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    location / {{
      proxy_pass http://{backend};
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto https;
      # A session is a WebSocket that lasts hours and must not wait for full buffers.
      proxy_read_timeout 3600s;
      proxy_send_timeout 3600s;
      proxy_buffering off;
    }}
  }}
}}
"""


@contextlib.asynccontextmanager
async def serving(node: Node, backend: str) -> AsyncIterator[str]:
    """Serve TLS on a node and pass requests to `backend` (HOST:PORT); yields HOST:PORT."""
    folder = node.folder / NAME
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    layout, address = node.cluster.layout, node.plan.addresses.address
    pki = certificates.Pki(layout.pki)
    now = datetime.datetime.now(datetime.UTC)
    certificates.issue_server(pki, NAME, ("avatar.example",), now, (address,))
    configuration = folder / "nginx.conf"
    configuration.write_text(_configuration(folder, address, backend, pki))
    enter = ("nsenter", f"--target={node.pid}", "--net", "--")
    argv = (*enter, "nginx", "-c", str(configuration), "-p", str(folder), "-e", "stderr")
    env = {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"}
    spec = supervisor.Spec(NAME, argv, env, str(layout.log(NAME)), 1)
    await supervision.start(layout, spec)
    try:
        await waiting.until(lambda: _listens(node), bool, "the TLS proxy listens")
        yield f"{address}:{PORT}"
    finally:
        await supervision.stop(layout, NAME, 2)


def _configuration(folder: Path, address: str, backend: str, pki: certificates.Pki) -> str:
    return CONFIGURATION.format(
        folder=folder, address=address, port=PORT, backend=backend,
        certificate=pki.certificate(NAME), key=pki.key(NAME),
    )  # fmt: skip


async def _listens(node: Node) -> bool:
    listening = await node.run("ss", "--listening", "--tcp", "--numeric", "--no-header")
    return f":{PORT} " in listening
