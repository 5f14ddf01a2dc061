"""What the containers of a node and of a pod share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import yaml

from .errors import ConfigError, MountError
from .events import Event, Recorder
from .nodes_file import EMPTY, Image, NodesFile, NodeSpec
from .resolve import Place, bind_to, environment, sources, wants_gpu, words
from .view import Command, Mount, keeping
from .volumes import Volumes, read

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .api import Api
    from .process import Runner

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True, slots=True)
class Host:
    """What all pods of one node share."""

    spec: NodeSpec
    ip: str
    file: NodesFile
    api: Api
    recorder: Recorder
    runner: Runner
    folder: Path
    """Where the pods of this node keep logs and volumes."""
    repository: Path
    """What paths of images are relative to."""
    search_path: str
    """PATH of every process: the repository's environment first."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all containers of one pod share."""

    host: Host
    pod: Mapping[str, Any]
    place: Place
    volumes: Volumes
    folder: Path

    def event(self, container: str, reason: str, message: str, kind: str = "Normal") -> None:
        """Record an Event about the pod, or about one of its containers."""
        event = Event(self.pod, container, kind, reason, message)
        self.host.recorder.record(event, self.host.spec.name)

    def log_file(self, container: str, run: int) -> Path:
        """Return where the output of a container's run goes."""
        return log_file(self.folder, container, run)

    def image(self, container: Mapping[str, Any]) -> Image | None:
        """Return what stands in for a container's image."""
        return self.host.file.image(container["image"])

    def mounts(self, container: Mapping[str, Any], image: Image) -> tuple[Mount, ...]:
        """Return what the container sees: folders of its image, then its volumes.

        Raises ConfigError for a mount of a volume that the pod does not have.
        """
        mounts = [Mount(p, self.host.repository / source) for p, source in image.paths.items()]
        for item in container.get("volumeMounts") or ():
            path = self.volumes.paths.get(item["name"])
            if path is None:
                raise ConfigError(f'no volume "{item["name"]}" for {item["mountPath"]}')
            if item.get("subPathExpr"):
                raise ConfigError(f"subPathExpr of {item['mountPath']} is not supported here")
            if below := item.get("subPath"):
                path = path / below
                if not path.exists():
                    path.mkdir(parents=True)  # as the kubelet does
            mounts.append(Mount(item["mountPath"], path, bool(item.get("readOnly"))))
        return keeping(mounts, (self.folder, self.host.repository))

    async def command(self, container: Mapping[str, Any], image: Image) -> Command:
        """Return the process that a container stands for, with the paths that it sees.

        Raises ConfigError for what its environment lacks.
        """
        env = await self.environment(container, image)
        own = {name: self._own_address(value) for name, value in env.items()}
        line = tuple(self._own_address(word) for word in words(container, image.command, env))
        return Command(line, own, container.get("workingDir") or str(self.folder / "home"))

    async def environment(self, container: Mapping[str, Any], image: Image) -> dict[str, str]:
        """Return a container's whole environment."""
        namespace = self.pod["metadata"]["namespace"]
        data: dict[Any, dict[str, str] | None] = {}
        for source in sources(container):
            try:
                found = await read(self.host.api, namespace, source)
            except MountError as error:
                raise ConfigError(str(error)) from error
            data[source] = None if found is None else _texts(found)
        device = self.host.spec.device_env if wants_gpu(container) else EMPTY
        base = {
            "PATH": self.host.search_path,
            "HOME": str(self.folder / "home"),
            "HOSTNAME": self.pod["metadata"]["name"],
            "LANG": "C.UTF-8",
            **self._credentials(container),
            **image.env,
            **device,
        }
        return environment(container, self.pod, self.place, data, base)

    def hook(self, command: Command, line: list[str]) -> Command:
        """Return a probe's or hook's command in the surroundings of the container's own."""
        return replace(command, words=tuple(line))

    def _own_address(self, text: str) -> str:
        return bind_to(text, self.place.pod_ip)

    def _credentials(self, container: Mapping[str, Any]) -> dict[str, str]:
        """Return where the ServiceAccount's credentials are, if the container mounts them."""
        folder = self.volumes.token_folder(container)
        if folder is None:
            return {}
        path = self.folder / "kubeconfig"
        ca = folder / "ca.crt"
        path.write_text(
            kubeconfig(self.host.api.server, ca, folder / "token", self.pod["metadata"])
        )
        path.chmod(0o600)
        result = {"KUBECONFIG": str(path)}
        if self.host.runner.bwrap and any(
            item["mountPath"] == SERVICE_ACCOUNT for item in container.get("volumeMounts") or ()
        ):
            # In-cluster configuration works only where the mount is really there.
            host, _, port = self.host.api.server.rpartition("//")[2].rpartition(":")
            result |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        return result


def kubeconfig(server: str, ca: Path, token: Path, meta: Mapping[str, Any]) -> str:
    """Return a kubeconfig for a pod's ServiceAccount; the token's file is renewed in place."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "local", "cluster": {"server": server, "certificate-authority": str(ca)}}
        ],
        "users": [{"name": "pod", "user": {"tokenFile": str(token)}}],
        "contexts": [
            {
                "name": "pod",
                "context": {"cluster": "local", "user": "pod", "namespace": meta["namespace"]},
            }
        ],
        "current-context": "pod",
    }
    return yaml.safe_dump(document, sort_keys=False)


def log_file(folder: Path, container: str, run: int) -> Path:
    """Return where the output of a container's run goes, below its pod's folder."""
    return folder / "logs" / container / f"{run}.log"


def _texts(data: Mapping[str, bytes]) -> dict[str, str]:
    return {key: value.decode(errors="replace") for key, value in data.items()}
