"""The network of a cluster on this machine: a bridge, and a link to each node."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from localcluster import errors
from localcluster.kubelet import topology

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@contextlib.asynccontextmanager
async def created() -> AsyncIterator[topology.Topology]:
    """Create a bridge with a network that no other cluster of this machine uses, and remove it."""
    with _reserved() as chosen:
        await _ip("link", "delete", chosen.bridge, check=False)  # of a killed cluster
        try:
            await _ip("link", "add", chosen.bridge, "type", "bridge")
            await _ip("address", "add", f"{chosen.host}/24", "dev", chosen.bridge)
            await _ip("link", "set", chosen.bridge, "up")
            yield chosen
        finally:
            await _ip("link", "delete", chosen.bridge, check=False)


async def attach(node: topology.NodeAddresses, pid: int) -> None:
    """Give the network namespace of a process its eth0, and route its pods to it."""
    await _ip("link", "delete", node.link, check=False)
    peer = ("peer", "name", "eth0", "netns", str(pid))
    await _ip("link", "add", node.link, "type", "veth", *peer)
    await _ip("link", "set", node.link, "master", node.topology.bridge, "up")
    await _ip("route", "replace", node.pods, "via", node.address, "dev", node.topology.bridge)


async def detach(node: topology.NodeAddresses) -> None:
    """Remove the link of a node; the kernel has removed it if the node has ended."""
    await _ip("link", "delete", node.link, check=False)
    await _ip("route", "delete", node.pods, check=False)


@contextlib.contextmanager
def _reserved() -> Iterator[topology.Topology]:
    """Reserve a number; the kernel releases it when this process ends."""
    for number in topology.NUMBERS:
        path = Path(tempfile.gettempdir()) / f"avatar-kubelet-{number}.lock"
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield topology.Topology(number)
            return
    raise errors.LocalClusterError("all networks for clusters with a kubelet are in use")


async def _ip(*arguments: str, check: bool = True) -> None:
    process = await asyncio.create_subprocess_exec(
        "ip", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, problems = await process.communicate()
    if check and process.returncode:
        raise errors.CommandFailed(("ip", *arguments), process.returncode, problems.decode())
