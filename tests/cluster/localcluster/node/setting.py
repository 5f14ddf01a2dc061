"""The data that the containers of a node and of a pod share."""

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
    """The data that all pods of one node share."""

    spec: NodeSpec
    ip: str
    file: NodesFile
    api: Api
    recorder: Recorder
    runner: Runner
    folder: Path
    """The folder of the logs and volumes of all pods."""
    repository: Path
    """The folder to which paths of images are relative."""
    search_path: str
    """PATH of every process; the environment of the repository comes first."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The data that all containers of one pod share."""

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
        """Return the log file of a run of a container."""
        return log_file(self.folder, container, run)

    def image(self, container: Mapping[str, Any]) -> Image | None:
        """Return the local replacement of a container's image."""
        return self.host.file.image(container["image"])

    def mounts(self, container: Mapping[str, Any], image: Image) -> tuple[Mount, ...]:
        """Return the mounts of a container: the folders of its image, then its volumes.

        Raises:
            ConfigError: the pod does not have a mounted volume.
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
                    path.mkdir(parents=True)  # as in the kubelet
            mounts.append(Mount(item["mountPath"], path, bool(item.get("readOnly"))))
        if message := message_path(container):
            mounts.append(Mount(message, message_file(self.folder, container["name"])))
        return keeping(mounts, (self.folder, self.host.repository))

    async def command(self, container: Mapping[str, Any], image: Image) -> Command:
        """Return the command of a container with its paths on this machine.

        Raises:
            ConfigError: a required value of its environment is missing.
        """
        env = await self.environment(container, image)
        own = {name: self._own_address(value) for name, value in env.items()}
        line = tuple(self._own_address(word) for word in words(container, image.command, env))
        return Command(line, own, container.get("workingDir") or str(self.folder / "home"))

    async def environment(self, container: Mapping[str, Any], image: Image) -> dict[str, str]:
        """Return the complete environment of a container."""
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
        """Return the command of a probe or hook with the environment of its container."""
        return replace(command, words=tuple(line))

    def _own_address(self, text: str) -> str:
        return bind_to(text, self.place.pod_ip)

    def _credentials(self, container: Mapping[str, Any]) -> dict[str, str]:
        """Return the folder of the ServiceAccount's credentials, if the container mounts them."""
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
            # In-cluster configuration works only if the mount really exists.
            host, _, port = self.host.api.server.rpartition("//")[2].rpartition(":")
            result |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        return result


def kubeconfig(server: str, ca: Path, token: Path, meta: Mapping[str, Any]) -> str:
    """Return a kubeconfig for a pod's ServiceAccount; the token file is updated in place."""
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


def message_path(container: Mapping[str, Any]) -> str | None:
    """Return the path of the termination message, None if the container does not name it.

    Every container has a path by default; the file is mounted only where something writes it.
    """
    path = str(container.get("terminationMessagePath") or "")
    words = (*(container.get("command") or ()), *(container.get("args") or ()))
    return path if path and path in words else None


def message_file(folder: Path, container: str) -> Path:
    """Return the file with the termination message of a container; it is created."""
    path = folder / "messages" / container
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def log_file(folder: Path, container: str, run: int) -> Path:
    """Return the log file of a run of a container in the folder of its pod."""
    return folder / "logs" / container / f"{run}.log"


def _texts(data: Mapping[str, bytes]) -> dict[str, str]:
    return {key: value.decode(errors="replace") for key, value in data.items()}
