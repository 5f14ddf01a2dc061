"""The DNS server of a cluster: dnsmasq, with a file of names for each Service.

It answers what pods ask for: `SERVICE.NAMESPACE.svc.cluster.local`, for Services with an address.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from localcluster.kubelet import topology

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from localcluster.controlplane.cluster import ControlPlane

REFRESH_S: Final = 0.5


def arguments(host: str, folder: Path) -> tuple[str, ...]:
    """Return the command line of dnsmasq, which notices new files in `folder` itself."""
    return (
        "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--no-poll",
        f"--listen-address={host}", "--bind-interfaces", "--user=root", "--pid-file=",
        "--conf-file=/dev/null", f"--hostsdir={folder}", f"--local=/{topology.CLUSTER_DOMAIN}/",
    )  # fmt: skip


def hosts(services: list[dict[str, Any]]) -> dict[str, str]:
    """Return the lines of /etc/hosts format by file name, for the Services that have an address."""
    found = {}
    for service in services:
        address = service["spec"].get("clusterIP", "")
        if re.fullmatch(r"[\d.]+", address):
            name = f"{service['metadata']['name']}.{service['metadata']['namespace']}"
            # A Service that is created again has another address, and so another file.
            file = f"{name}-{address}"
            found[file] = f"{address} {name}.svc.{topology.CLUSTER_DOMAIN}\n"
    return found


@contextlib.asynccontextmanager
async def names(cluster: ControlPlane, folder: Path) -> AsyncIterator[None]:
    """Keep the files of names equal to the Services while the block runs."""
    following = asyncio.create_task(_follow(cluster, folder), name="names of services")
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _follow(cluster: ControlPlane, folder: Path) -> None:
    while True:
        with contextlib.suppress(Exception):  # the API server restarts in some tests
            listed = await cluster.kubectl("get", "services", "--all-namespaces", "-o", "json")
            for name, line in hosts(json.loads(listed)["items"]).items():
                if not (folder / name).exists():
                    partial = folder.parent / f".{name}"
                    partial.write_text(line)
                    partial.rename(folder / name)
        await asyncio.sleep(REFRESH_S)
