"""Starts a node in namespaces of its own, and runs programs in it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from localcluster import errors, paths, waiting
from localcluster.controlplane import (
    certificates,
    kubeconfigs,
    processes,
    supervision,
    supervisor,
)
from localcluster.kubelet import cgroups, documents, network, pause

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.kubelet.documents import NodePlan

READY_S: Final = 120.0
ETC: Final = documents.ETC


@dataclass(frozen=True, slots=True)
class Node:
    """A running node."""

    cluster: ControlPlane
    plan: NodePlan
    folder: Path
    pid: int
    """Its first process, as this machine numbers it."""

    @property
    def name(self) -> str:
        return self.plan.name

    def is_alive(self) -> bool:
        """Return whether its first process runs."""
        return Path(f"/proc/{self.pid}").exists()

    async def run(self, *command: str | Path) -> str:
        """Run a program of this machine in the node; return its output.

        Raises:
            CommandFailed: the program failed.
        """
        entered = ("nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--")
        process = await asyncio.create_subprocess_exec(
            *entered, *map(str, command), stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, problems = await process.communicate()
        if process.returncode:
            shown = tuple(map(str, command))
            raise errors.CommandFailed(shown, process.returncode, problems.decode())
        return output.decode()

    async def import_image(self, archive: Path) -> None:
        """Import and unpack an OCI archive: what a pull does on another cluster."""
        await self.run("ctr", "--namespace=k8s.io", "images", "import", archive)

    async def images(self) -> tuple[str, ...]:
        """Return the names of the images that the node has."""
        listed = await self.run("ctr", "--namespace=k8s.io", "images", "list", "--quiet")
        return tuple(line for line in listed.split() if not line.startswith("sha256:"))

    async def containers(self) -> tuple[str, ...]:
        """Return the IDs of the containers that the node has, sandboxes included."""
        listed = await self.run("ctr", "--namespace=k8s.io", "containers", "list", "--quiet")
        return tuple(listed.split())

    async def ready(self) -> None:
        """Wait until the kubelet reports the node as Ready.

        Raises:
            ComponentFailed: the node ended, or it is not ready in time.
        """
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"

        async def status() -> str:
            if not self.is_alive():
                raise self._failed("ended")
            with contextlib.suppress(errors.CommandFailed):  # not registered yet
                return await self.cluster.kubectl("get", "node", self.name, "-o", path)
            return ""

        try:
            await waiting.until(status, lambda s: s == "True", f"{self.name} Ready", READY_S)
        except TimeoutError as error:
            raise self._failed(f"was not ready after {READY_S:.0f} s") from error

    async def offer(self, resource: str, count: int) -> None:
        """Advertise an extended resource of the node."""
        body = {"status": {"capacity": {resource: str(count)}}}
        await self.cluster.kubectl(
            "patch", "node", self.name, "--subresource=status", "--type=merge",
            f"--patch={json.dumps(body)}",
        )  # fmt: skip

    def _failed(self, what: str) -> errors.ComponentFailed:
        log = paths.tail(self.folder / "kubelet.log") or paths.tail(
            self.cluster.layout.log(component(self.plan))
        )
        return errors.ComponentFailed(self.name, what, log)


def component(plan: NodePlan) -> str:
    """Return the name of a node's first process at the supervisor."""
    return f"node-{plan.name}"


def cgroup(plan: NodePlan) -> str:
    """Return the name of the cgroup of a node."""
    return f"avatar-{plan.addresses.topology.number}-{plan.addresses.index}"


async def started(
    cluster: ControlPlane,
    plan: NodePlan,
    binaries: Mapping[str, Path],
    others: Sequence[NodePlan],
) -> Node:
    """Start a node without images but that of the sandbox; `others` are the other nodes.

    Raises:
        ComponentFailed: it does not become ready.
    """
    folder = cluster.layout.nodes / plan.name
    _fill(cluster, plan, folder, binaries, others)
    cgroups.create(cgroup(plan))
    argv = (
        "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
        sys.executable, "-m", "localcluster.kubelet.init", str(folder),
    )  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(paths.MODULE), "PYTHONUNBUFFERED": "1"}
    name = component(plan)
    spec = supervisor.Spec(name, argv, env, str(cluster.layout.log(name)), 0)
    status = await supervision.start(cluster.layout, spec)

    async def first() -> tuple[int, ...]:
        return processes.descendants(status.identity.pid)[:1]

    (pid,) = await waiting.until(first, bool, f"{plan.name} starts")
    node = Node(cluster, plan, folder, pid)
    await waiting.until(lambda: _has_own_network(pid), bool, f"{plan.name} has its namespaces")
    await network.attach(plan.addresses, pid)
    await node.ready()
    await node.import_image(folder / "etc" / "pause.tar")
    return node


async def _has_own_network(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


def _fill(
    cluster: ControlPlane,
    plan: NodePlan,
    folder: Path,
    binaries: Mapping[str, Path],
    others: Sequence[NodePlan],
) -> None:
    etc = folder / "etc"
    (etc / "cni").mkdir(parents=True, exist_ok=True)
    (etc / "kubelet.json").write_text(json.dumps(documents.kubelet(plan, f"/{cgroup(plan)}")))
    (etc / "kube-proxy.json").write_text(json.dumps(documents.kube_proxy(plan)))
    (etc / "cni" / "10-pods.conflist").write_text(json.dumps(documents.cni(plan)))
    (etc / "containerd.toml").write_text(documents.containerd(f"{ETC}/spec.json"))
    (etc / "resolv.conf").write_text(documents.resolv_conf(plan.addresses.topology.host))
    spec = documents.with_environment(_base_spec(), plan.environment)
    (etc / "spec.json").write_text(json.dumps(spec))
    shutil.copyfile(cluster.ca, etc / "ca.crt")
    pause.write(etc / "pause.tar")
    pki = certificates.Pki(cluster.layout.pki)
    now = datetime.datetime.now(datetime.UTC)
    users = {
        "kubelet": (f"system:node:{plan.name}", "system:nodes"),
        "kube-proxy": ("system:kube-proxy", None),
    }
    for program, (user, group) in users.items():
        name = f"{program}-{plan.name}"
        certificates.issue_client(pki, name, user, group, now)
        credentials = kubeconfigs.certificate_user(pki, name)
        path = etc / f"{program}.kubeconfig"
        kubeconfigs.write(path, cluster.server, cluster.ca, credentials, "default")
        shutil.copyfile(binaries[program], etc / program)
        (etc / program).chmod(0o755)
    (folder / "node.json").write_text(json.dumps(_first_process(plan, others)))


def _first_process(plan: NodePlan, others: Sequence[NodePlan]) -> dict[str, Any]:
    """Return what the first process of a node does; see init.py."""
    labels = ",".join(f"{key}={value}" for key, value in plan.labels.items())
    kubelet = [
        f"{ETC}/kubelet", f"--config={ETC}/kubelet.json", f"--kubeconfig={ETC}/kubelet.kubeconfig",
        f"--hostname-override={plan.name}", f"--node-ip={plan.addresses.address}",
        f"--node-labels={labels}", "--cert-dir=/var/lib/kubelet/pki", "--v=1",
    ]  # fmt: skip
    return {
        "network": {
            "address": plan.addresses.address,
            "gateway": plan.addresses.topology.host,
            "routes": [(other.addresses.pods, other.addresses.address) for other in others],
        },
        "components": [
            {
                "name": "containerd",
                "argv": ["containerd", f"--config={ETC}/containerd.toml"],
                "socket": documents.CONTAINERD_SOCKET,
            },
            {
                "name": "kube-proxy",
                "argv": [f"{ETC}/kube-proxy", f"--config={ETC}/kube-proxy.json"],
            },
            {"name": "kubelet", "argv": kubelet},
        ],
    }


def _base_spec() -> dict[str, Any]:
    printed = subprocess.run(("ctr", "oci", "spec"), check=True, capture_output=True).stdout
    return dict(json.loads(printed))


async def removed(cluster: ControlPlane, plan: NodePlan) -> None:
    """End a node and everything in it, also one that did not start; remove its link and cgroups."""
    name = component(plan)
    if name in await supervision.status(cluster.layout):
        await supervision.stop(cluster.layout, name, 0)
    await network.detach(plan.addresses)

    async def left() -> str:
        try:
            cgroups.remove(cgroup(plan))
        except OSError as error:  # the kernel still ends processes
            return str(error)
        return ""

    await waiting.until(left, lambda problem: not problem, f"cgroups of {plan.name} are removed")
