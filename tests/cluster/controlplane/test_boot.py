"""The real control plane, end to end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import aiohttp
import pytest

from localcluster import errors, paths
from localcluster.controlplane import audit, components, kubeapi, processes
from localcluster.controlplane.cluster import attach, running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from localcluster.controlplane.cluster import ControlPlane

pytestmark = pytest.mark.e2e

KINDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
KIND = "widgets.test.local"
WIDGETS = "/apis/test.local/v1/widgets"
ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
SERVICE_ACCOUNT = "system:serviceaccount:control-plane-test:nobody"


def command(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "localcluster", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(paths.MODULE)}


async def local(*arguments: str | Path) -> tuple[int, str]:
    """Run the command line; return its status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments),
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


def family(pid: int) -> tuple[processes.Identity, ...]:
    return tuple(processes.identify(below) for below in processes.descendants(pid))


async def gone(identities: tuple[processes.Identity, ...]) -> None:
    async with asyncio.timeout(30):
        for identity in identities:
            await processes.until_gone(identity)


def start_owner(state: Path) -> subprocess.Popen[str]:
    argv = command("up", "--state", state, "--nodes")
    return subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, text=True)


async def test_kubectl_understands_the_server(cluster: ControlPlane) -> None:
    versions = json.loads(await cluster.kubectl("version", "-o", "json"))
    server, client = versions["serverVersion"], versions["clientVersion"]
    assert server["gitVersion"] == client["gitVersion"]
    assert re.fullmatch(r"v1\.\d+\.\d+", server["gitVersion"])


async def test_a_service_account_has_only_the_permissions_of_rbac(cluster: ControlPlane) -> None:
    await cluster.kubectl("create", "namespace", "control-plane-test")
    await cluster.kubectl("create", "serviceaccount", "-n", "control-plane-test", "nobody")
    kubeconfig = await cluster.service_account_kubeconfig("control-plane-test", "nobody")
    who = await cluster.kubectl("auth", "whoami", "-o", "json", "--kubeconfig", kubeconfig)
    assert json.loads(who)["status"]["userInfo"]["username"] == SERVICE_ACCOUNT
    with pytest.raises(errors.CommandFailed, match=r"(?i)forbidden"):
        await cluster.kubectl("get", "pods", "--kubeconfig", kubeconfig)
    grant = ("--clusterrole=view", f"--user={SERVICE_ACCOUNT}", "-n", "control-plane-test")
    await cluster.kubectl("create", "rolebinding", "look", *grant)
    await cluster.kubectl("get", "pods", "--kubeconfig", kubeconfig)
    with pytest.raises(errors.CommandFailed, match=r"(?i)forbidden"):
        await cluster.kubectl("create", "configmap", "x", "--kubeconfig", kubeconfig)
    (write,) = (w for w in audit.read(cluster.audit_log, SERVICE_ACCOUNT) if w.code == 403)
    assert (write.verb, write.resource) == ("create", "configmaps")


async def test_helm_does_not_use_the_home_of_the_user(cluster: ControlPlane) -> None:
    listed = await cluster.helm("env")
    folders = [line for line in listed.splitlines() if "_HOME=" in line]
    assert len(folders) == 3
    assert all(str(cluster.layout.home) in line for line in folders)


async def test_a_mirror_follows_a_kind_that_is_changed_deleted_and_recreated(
    cluster: ControlPlane,
) -> None:
    """The server ends watches of a changed kind, refuses new ones, and forgets versions."""
    changed = asyncio.Condition()
    async with kubeapi.connected(cluster) as api:
        await install(api)
        async with kubeapi.Mirror(api, WIDGETS, changed).running() as mirror:

            async def seen(*names: str) -> None:
                def reported() -> str:
                    return f"{names}, not {list(mirror.objects)}"

                keys = {("default", name) for name in names}
                await kubeapi.until(changed, lambda: mirror.objects.keys() == keys, reported, 30)

            await make(api, "first")
            await seen("first")
            for short in ("wi", "wid"):
                await api.merge(f"{KINDS}/{KIND}", {"spec": {"names": {"shortNames": [short]}}})
                await make(api, short)
            await seen("first", "wi", "wid")
            await api.delete(f"{KINDS}/{KIND}")
            await seen()
            await install(api)
            await make(api, "last")
            await seen("last")
        await api.delete(f"{KINDS}/{KIND}")


async def install(api: kubeapi.Api) -> None:
    """Make the kind Widget as soon as an old one is gone, and wait until it is served."""
    versions = [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": ANY}}]
    names = {
        "plural": "widgets",
        "singular": "widget",
        "kind": "Widget",
        "listKind": "WidgetList",
    }
    spec = {"group": "test.local", "scope": "Namespaced", "names": names, "versions": versions}
    kind = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    await until_taken(lambda: api.post(KINDS, {**kind, "metadata": {"name": KIND}, "spec": spec}))
    await until_taken(lambda: api.get(WIDGETS))


async def make(api: kubeapi.Api, name: str) -> None:
    body = {"apiVersion": "test.local/v1", "kind": "Widget", "metadata": {"name": name}}
    path = "/apis/test.local/v1/namespaces/default/widgets"
    await until_taken(lambda: api.post(path, body))


async def until_taken(request: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await request()
            except aiohttp.ClientResponseError as error:
                if error.status not in {404, 409, 429, 503}:
                    raise
            else:
                return
            await asyncio.sleep(0.05)


async def test_components_restart_and_keep_their_data(tmp_path: Path) -> None:
    async with running(tmp_path / "state") as cluster:
        await cluster.kubectl("create", "configmap", "kept", "--from-literal=a=b")
        for name in components.CONTROL_PLANE:
            await cluster.restart_component(name, kill=name != components.SCHEDULER)
        kept = await cluster.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}")
        assert kept == "b"


@pytest.mark.parametrize("victim", ["owner", "supervisor"])
async def test_a_kill_leaves_no_process_of_a_component_or_a_pod(
    tmp_path: Path, victim: str
) -> None:
    state = tmp_path / "state"
    with start_owner(state) as owner:
        assert owner.stdout is not None
        line = await asyncio.to_thread(owner.stdout.readline)
        assert line.startswith("control plane ready")
        cluster = attach(state)
        image = "--image=avatar-musetalk/operator"
        await cluster.kubectl("run", "sleeper", image, "--command", "--", "sleep", "600")
        await cluster.kubectl("wait", "--for=condition=Ready", "pod/sleeper", "--timeout=30s")
        below = family(owner.pid)
        assert len(below) >= 7  # supervisor, control plane, process node, what sleeps in the pod
        killed = owner.pid if victim == "owner" else cluster.supervisor.pid
        os.kill(killed, signal.SIGKILL)
        await gone(below)
    with pytest.raises(errors.NotRunning):
        attach(state)


async def test_up_and_down_from_a_terminal(tmp_path: Path) -> None:
    state = tmp_path / "state"
    status, output = await local("up", "--detach", "--state", state)
    assert status == 0, output
    cluster = attach(state)
    assert cluster.server in output
    owned = (cluster.supervisor, *family(cluster.supervisor.pid))
    status, path = await local("kubeconfig", "--state", state)
    assert (status, path.strip()) == (0, str(cluster.kubeconfig))
    status, output = await local("up", "--detach", "--state", state)
    assert (status, "stop it first" in output) == (1, True)
    status, output = await local("down", "--state", state)
    assert status == 0, output
    await gone(owned)
    status, output = await local("down", "--state", state)
    assert (status, "no cluster runs in" in output) == (1, True)


async def test_a_port_in_use_is_rejected_before_a_process_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        status, output = await local("up", "--state", tmp_path / "state", "--port", port)
    assert status == 1
    assert (
        output == f"localcluster: port {port} of 127.0.0.1 cannot be used: Address already in use\n"
    )


async def test_a_component_that_ends_shows_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    etcd = assets / "etcd"
    etcd.write_text("#!/bin/sh\necho the disk is full >&2; exit 4\n")
    etcd.chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    with pytest.raises(errors.ComponentFailed, match="the disk is full"):
        async with running(tmp_path / "state"):
            pass
