"""An installed release and a namespace, used through kubectl and avatar-client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from localcluster import paths, waiting
from localcluster.controlplane import kubeapi

if TYPE_CHECKING:
    from localcluster.controlplane.cluster import ControlPlane

SYSTEM: Final = "avatar-system"
KEYS: Final = "avatar-keys"
"""The namespace of the API keys of tenants."""
LEASE: Final = "avatar-avatar-operator-operator"
CORE: Final = "/api/v1"
GROUP: Final = "/apis/avatar.musetalk.io/v1alpha1"
FPS: Final = 25  # a served session has more than one second of frames


@dataclass(frozen=True, slots=True)
class Release:
    """The installed chart."""

    cluster: ControlPlane
    gateway: str
    """HOST:PORT of the gateway's sessions port."""
    key: str
    """API key of the gateway."""

    async def pods(self, component: str) -> list[dict[str, Any]]:
        """Return the pods of `operator` or `gateway`, sorted by name."""
        selector = f"app.kubernetes.io/component={component}"
        pods = await kubeapi.read(self.cluster, f"{CORE}/namespaces/{SYSTEM}/pods", selector)
        return sorted(pods["items"], key=lambda pod: str(pod["metadata"]["name"]))

    async def leader(self) -> str:
        """Return the name of the leading operator pod; empty if there is no leader."""
        return str((await self.lease()).get("holderIdentity", "")).rpartition("_")[0]

    async def both_operators_ready(self) -> None:
        """Wait until one pod leads and the other one is on standby."""

        async def ready() -> int:
            pods = await self.pods("operator")
            statuses = [s for pod in pods for s in pod["status"].get("containerStatuses", ())]
            return sum(status["ready"] for status in statuses)

        await waiting.until(ready, lambda count: count == 2, "two operators again", 60)

    async def lease(self) -> dict[str, Any]:
        """Return the spec of the Lease of the operator pods."""
        leases = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"
        return dict((await kubeapi.read(self.cluster, f"{leases}/{LEASE}")).get("spec", {}))


@dataclass(frozen=True, slots=True)
class Space:
    """The namespace of one test, with the actions of a user."""

    release: Release
    name: str

    @property
    def cluster(self) -> ControlPlane:
        return self.release.cluster

    async def kubectl(self, *arguments: str) -> str:
        return await self.cluster.kubectl("-n", self.name, *arguments)

    async def read(self, api: str, name: str, selector: str = "") -> dict[str, Any]:
        """Return an object of the namespace (`avatars/anna`) or a list (`avatars`)."""
        path = f"{api}/namespaces/{self.name}/{name}"
        return await kubeapi.read(self.cluster, path, selector)

    async def apply(self, name: str, **spec: Any) -> None:
        """Apply an AvatarService, with `kubectl apply`."""
        body = {
            "apiVersion": "avatar.musetalk.io/v1alpha1",
            "kind": "AvatarService",
            "metadata": {"name": name},
            "spec": spec,
        }
        await self.kubectl_apply(yaml.safe_dump(body))

    async def kubectl_apply(self, manifest: str) -> None:
        """Apply a manifest to the namespace."""
        await self.cluster.kubectl("-n", self.name, "apply", "-f", "-", stdin=manifest)

    async def service(self, name: str) -> dict[str, Any]:
        """Return the AvatarService."""
        return await self.read(GROUP, f"avatarservices/{name}")

    async def pods(self, service: str) -> list[dict[str, Any]]:
        """Return the runtime pods of a service, sorted by name."""
        pods = await self.read(CORE, "pods", f"avatar.musetalk.io/service={service}")
        return sorted(pods["items"], key=lambda pod: str(pod["metadata"]["name"]))

    async def session_token(self, service: str) -> str:
        """Return the token that opens sessions on the pods of a service without the gateway."""
        secret = await self.read(CORE, f"secrets/{service}-control")
        return base64.b64decode(secret["data"]["session-token"]).decode()

    async def every_pod(self) -> list[str]:
        """Return the names of all pods of the namespace."""
        return [pod["metadata"]["name"] for pod in (await self.read(CORE, "pods"))["items"]]

    async def ready(self, name: str, pods: int = 1, within_s: float = 60) -> dict[str, Any]:
        """Wait until the status of a service says that it is Ready with `pods` pods."""

        def holds(service: dict[str, Any]) -> bool:
            status = service.get("status", {})
            return (
                condition(service, "Ready").get("status") == "True"
                and status.get("readyReplicas") == status.get("replicas") == pods
                and status.get("observedGeneration") == service["metadata"]["generation"]
            )

        return await waiting.until(
            lambda: self.service(name), holds, f"{name} Ready with {pods} pods", within_s
        )

    async def load(
        self, service: str, sessions: int, duration_s: float, *more: str
    ) -> asyncio.subprocess.Process:
        """Start the load generator; its JSON goes to standard output."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "avatar_client", "load",
            "--url", f"ws://{self.release.gateway}", "--model", f"{self.name}/{service}",
            "--key", self.release.key, "--audio", str(paths.REPOSITORY / "examples" / "speech.wav"),
            "--sessions", str(sessions), "--duration-s", str(duration_s), *more,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def known_to_gateway(self, service: str, sessions: int) -> None:
        """Wait until the gateway accepts `sessions` sessions at once."""

        async def refused() -> int:
            load = await self.load(service, sessions, 0.1)
            output, _ = await load.communicate()
            return int(json.loads(output)["refused"])

        what = f"the gateway takes {sessions} sessions of {service}"
        await waiting.until(refused, lambda count: count == 0, what)


async def all_served(load: asyncio.subprocess.Process, sessions: int) -> dict[str, Any]:
    """Wait for the load generator, and check that no session was cut, rejected or missed a frame.

    Returns:
        What it has measured.

    Raises:
        AssertionError: a check failed; the message has the report.
    """
    output, problems = await load.communicate()
    if load.returncode:
        raise AssertionError(output.decode() + problems.decode())
    summary: dict[str, Any] = json.loads(output)
    wanted = {"sessions": sessions, "done": sessions}
    wanted |= dict.fromkeys(("cut", "refused", "failed", "frames_missing"), 0)
    if {key: summary[key] for key in wanted} != wanted or summary["frames"] <= sessions * FPS:
        raise AssertionError(f"not all {sessions} sessions were served to their end: {summary}")
    return summary


def condition(service: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a condition of a service, or an empty object."""
    conditions = service.get("status", {}).get("conditions", [])
    return next((dict(c) for c in conditions if c["type"] == kind), {})


def processes_with(variable: str, value: str) -> list[int]:
    """Return the local processes whose environment has the variable with the given value."""
    wanted = f"{variable}={value}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found
