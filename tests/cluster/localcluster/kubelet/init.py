"""The first process of a node: `python -m localcluster.kubelet.init FOLDER`, inside its namespaces.

It waits for its link, configures the network, mounts the folders of the node where every node has
them, starts containerd, kube-proxy and the kubelet, and reaps orphans. It ends when one of them
ends; the kernel then ends everything that runs in the PID namespace, and removes the mounts and
interfaces of the other namespaces.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

LINK_S: Final = 30.0
SOCKET_S: Final = 60.0
POLL_S: Final = 0.02
MOUNTED: Final = {
    "containerd": "/var/lib/containerd",
    "kubelet": "/var/lib/kubelet",
    "cni": "/var/lib/cni",
    "pod-logs": "/var/log/pods",
    "container-logs": "/var/log/containers",
    "etc": "/etc/avatar-node",
}
"""Folders of the node's state, and where the node sees them."""


def main(folder: Path) -> int:
    """Run a node until one of its components ends or a signal arrives."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    plan = json.loads((folder / "node.json").read_text())
    mount(folder)
    configure_network(plan["network"])
    (folder / "up").touch()
    started: dict[int, str] = {}
    for component in plan["components"]:
        started[start(folder, component)] = component["name"]
        if component.get("socket"):
            _until(lambda path=component["socket"]: Path(path).exists(), SOCKET_S)
    while True:
        pid, status = os.wait()
        if pid in started:
            code = os.waitstatus_to_exitcode(status)
            print(f"{started[pid]} ended with {code}", flush=True)
            return 1


def mount(folder: Path) -> None:
    """Give the node its own /run and its own folders; nothing of it is visible outside."""
    _run("mount", "--make-rprivate", "/")
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for name, path in MOUNTED.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        (folder / name).mkdir(exist_ok=True)
        _run("mount", "--bind", folder / name, path)
    _run("mount", "--make-rshared", "/")  # the kubelet's mounts must reach containerd's containers


def configure_network(plan: dict[str, Any]) -> None:
    """Wait for eth0, and configure the addresses, routes and switches of the node."""
    _until(lambda: "eth0" in (name for _, name in socket.if_nameindex()), LINK_S)
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "address", "add", f"{plan['address']}/24", "dev", "eth0")
    _run("ip", "link", "set", "eth0", "up")
    _run("ip", "route", "add", "default", "via", plan["gateway"])
    for pods, node in plan["routes"]:
        _run("ip", "route", "add", pods, "via", node)
    for switch in ("net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet"):
        Path("/proc/sys", switch).write_text("1")


def start(folder: Path, component: dict[str, Any]) -> int:
    """Start a component, with its output in its log; return its PID."""
    with (folder / f"{component['name']}.log").open("ab") as log:
        process = subprocess.Popen(
            component["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
        )  # fmt: skip
    return process.pid


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def _until(holds: Any, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{holds} does not hold after {within_s:g} s")
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
