"""A release on nodes with a kubelet, installed with README's commands, and used by its tests."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

from localcluster import paths, waiting
from localcluster.release import SYSTEM, condition

if TYPE_CHECKING:
    from localcluster.kubelet.fleet import Fleet
    from localcluster.readme import Reader

GATEWAY: Final = "avatar-avatar-operator-gateway"
OPERATOR: Final = "avatar-avatar-operator-operator"
SIMULATED: Final = "simulated"
"""A service on the node whose GPUs are simulated."""
READY_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Installed:
    """The release, and the reader who has installed it."""

    fleet: Fleet
    reader: Reader
    output: str
    """What README's commands printed."""
    key: str
    """API key of callers."""
    address: str
    """HOST:PORT of the gateway's Service, which the nodes can reach."""

    async def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return await self.fleet.control.kubectl(*arguments, stdin=stdin)

    async def pods(self, component: str) -> list[dict[str, Any]]:
        """Return the pods of `operator` or `gateway` that are not terminating, sorted by name."""
        selector = f"app.kubernetes.io/component={component}"
        pods = await self.fleet.objects("pods", "-n", SYSTEM, "-l", selector)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    async def runtimes(self, service: str) -> list[dict[str, Any]]:
        """Return the runtime pods of a service in the namespace default, sorted by name."""
        return await self.fleet.objects("pods", "-l", f"avatar.musetalk.io/service={service}")

    async def service(self, name: str) -> dict[str, Any]:
        """Return an AvatarService of the namespace default."""
        return dict(json.loads(await self.kubectl("get", "avs", name, "-o", "json")))

    async def apply(self, name: str, **spec: Any) -> None:
        """Apply an AvatarService to the namespace default, and wait until it is Ready."""
        body = {
            "apiVersion": "avatar.musetalk.io/v1alpha1",
            "kind": "AvatarService",
            "metadata": {"name": name},
            "spec": spec,
        }
        await self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))
        await self.ready(name)

    async def ready(self, name: str) -> dict[str, Any]:
        """Wait until a service is Ready."""

        def holds(service: dict[str, Any]) -> bool:
            observed = service.get("status", {}).get("observedGeneration")
            return (
                observed == service["metadata"]["generation"]
                and condition(service, "Ready").get("status") == "True"
            )

        return await waiting.until(
            lambda: self.service(name), holds, f"{name} is Ready", within_s=READY_S
        )

    async def talk(
        self, service: str, sessions: int, duration_s: float, *more: str
    ) -> asyncio.subprocess.Process:
        """Start sessions through the gateway's Service, and wait until all of them are live."""
        node = self.fleet.nodes[0]
        load = await asyncio.create_subprocess_exec(
            "nsenter", f"--target={node.pid}", "--net", "--",
            sys.executable, "-m", "avatar_client", "load",
            "--url", f"ws://{self.address}", "--model", f"default/{service}", "--key", self.key,
            "--audio", str(paths.REPOSITORY / "examples" / "speech.wav"),
            "--sessions", str(sessions), "--duration-s", str(duration_s), *more,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await waiting.until(
            lambda: self.service(service),
            lambda found: (
                load.returncode is not None or found["status"].get("sessions") == sessions
            ),
            f"{sessions} sessions of {service}",
            60,
        )
        return load


def restarts(pods: list[dict[str, Any]]) -> dict[str, int]:
    """Return how often the container of each pod was restarted."""
    return {
        pod["metadata"]["name"]: sum(
            status["restartCount"] for status in pod["status"].get("containerStatuses", ())
        )
        for pod in pods
    }
