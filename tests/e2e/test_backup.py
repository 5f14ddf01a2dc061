"""The commands of docs/backup.md, from one control plane to another one."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from typing import TYPE_CHECKING, Final

import httpx
import pytest
import yaml
from tests.e2e.test_tenants import answer, keys

from localcluster import paths, waiting
from localcluster.controlplane import cluster as controlplane
from localcluster.release import KEYS, SYSTEM, Release, Space

if TYPE_CHECKING:
    from pathlib import Path

    from localcluster.controlplane.cluster import ControlPlane

pytestmark = pytest.mark.e2e

KEY: Final = "a-key-that-survives-its-cluster"
MODEL: Final = "hosted/desk"
STEP_S: Final = 180


async def test_a_restored_installation_knows_its_services_and_its_callers(tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is missing: requirements/install-debian installs it")
    back_up, restore = blocks(paths.REPOSITORY / "docs" / "backup.md")
    async with controlplane.running(tmp_path / "lost", nodes=paths.SIMULATED_NODES) as cluster:
        await install(cluster)
        space = Space(await released(cluster), "hosted")
        tenant_key = str(yaml.safe_load(await keys(space, "new", "-o", "yaml"))["key"])
        await opens(space, tenant_key)
        client_secret = await new_client_secret(space)
        await run(cluster, back_up, tmp_path)
    async with controlplane.running(tmp_path / "new", nodes=paths.SIMULATED_NODES) as cluster:
        await run(cluster, restore, tmp_path)
        space = Space(await released(cluster), "hosted")
        await space.ready("desk", within_s=STEP_S)
        for credential in (KEY, tenant_key, client_secret):
            await opens(space, credential)
        profile = json.loads(await cluster.kubectl("get", "gpuprofile", "h100-80gb", "-o", "json"))
        assert profile["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"


def blocks(page: Path) -> tuple[str, str]:
    """Return the commands of the sections "Back up" and "Restore"."""
    found = re.findall(r"^## (.+?)\n.*?^```sh\n(.*?)^```$", page.read_text(), re.M | re.S)
    sections = dict(found)
    return sections["Back up"], sections["Restore"]


async def install(cluster: ControlPlane) -> None:
    """Install the chart with a tenant and a service."""
    for namespace in (SYSTEM, "hosted"):
        await cluster.kubectl("create", "namespace", namespace)
    await cluster.kubectl(
        "create",
        "secret",
        "generic",
        "avatar-api-key",
        "-n",
        SYSTEM,
        f"--from-literal=api-key={KEY}",
    )
    await cluster.helm(
        "install", "avatar", paths.REPOSITORY / "charts" / "avatar-operator", "-n", SYSTEM,
        "--set", "gateway.apiKey.existingSecret=avatar-api-key", "--set", "gateway.replicas=1",
        "--set", f"gateway.tenants.keysNamespace={KEYS}",
        "--set", "gateway.tenants.createKeysNamespace=true", "--wait", "--timeout", "120s",
    )  # fmt: skip
    space = Space(Release(cluster, "", KEY), "hosted")
    await space.apply("desk", replicas=1, placement={"gpuClasses": ["h100-80gb"]})
    body = {
        "apiVersion": "avatar.musetalk.io/v1alpha1",
        "kind": "AvatarTenant",
        "metadata": {"name": "guest"},
        "spec": {
            "access": {"namespaces": ["hosted"]},
            "apiKeys": {"secretRefs": [{"name": "e2e-tenant-keys"}]},
        },
    }
    await space.kubectl_apply(yaml.safe_dump(body))
    await space.ready("desk", within_s=STEP_S)


async def released(cluster: ControlPlane) -> Release:
    """Return the release of a cluster, with the address of its gateway."""
    (gateway,) = await Release(cluster, "", KEY).pods("gateway")
    return Release(cluster, f"{gateway['status']['podIP']}:8080", KEY)


async def opens(space: Space, credential: str) -> None:
    """Wait until a session opens with an API key or a client secret."""
    await waiting.until(
        lambda: answer(space, credential, MODEL),
        lambda code: code == "opened",
        "a session that opens",
        60,
    )


async def new_client_secret(space: Space) -> str:
    async with httpx.AsyncClient(base_url=f"http://{space.release.gateway}") as client:
        answered = await client.post(
            "/v1/realtime/client_secrets",
            headers={"Authorization": f"Bearer {KEY}"},
            json={"session": {"type": "realtime", "model": MODEL}},
        )
    assert answered.status_code == 200, answered.text
    return str(answered.json()["value"])


async def run(cluster: ControlPlane, commands: str, folder: Path) -> None:
    """Run commands of the documentation in bash, as the administrator of a cluster."""
    (folder / "charts").unlink(missing_ok=True)
    (folder / "charts").symlink_to(paths.REPOSITORY / "charts")
    child = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", commands, cwd=folder, env=cluster.environment(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(STEP_S):
        output, _ = await child.communicate()
    assert child.returncode == 0, output.decode()
