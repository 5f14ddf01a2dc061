"""Creates the volumes of a pod as folders and files, and updates their content."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import ApiError, ConfigError, MountError
from .resolve import Place, Source, field_value, resource_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .api import Api

REFRESH_S: Final = 60.0  # the kubelet's sync period for Secrets and ConfigMaps
TOKEN_SHARE: Final = 0.8  # share of the lifetime of a token after which a new one is requested


class Volumes:
    """The volumes of one pod, in the folder of the pod."""

    def __init__(self, api: Api, pod: Mapping[str, Any], place: Place, folder: Path) -> None:
        self._api = api
        self._pod = pod
        self._place = place
        self._folder = folder
        self._namespace = str(pod["metadata"]["namespace"])
        self._token_due: dict[Path, float] = {}  # when to request the next one, monotonic clock
        self.paths: dict[str, Path] = {}
        """Path on this machine by volume name, after `set_up`."""

    async def set_up(self) -> None:
        """Create or update every volume.

        Raises:
            MountError: something does not exist yet; the caller retries.
        """
        for volume in self._pod["spec"].get("volumes") or ():
            self.paths[volume["name"]] = await self._volume(volume)

    def token_folder(self, container: Mapping[str, Any]) -> Path | None:
        """Return the folder with the ServiceAccount's token that a container mounts, if any."""
        mounted = {item["name"] for item in container.get("volumeMounts") or ()}
        for name, folder in self.paths.items():
            if name in mounted and folder / "token" in self._token_due:
                return folder
        return None

    async def _volume(self, volume: Mapping[str, Any]) -> Path:
        folder = self._folder / str(volume["name"])
        if "hostPath" in volume:
            return _host_path(volume["hostPath"])
        if "persistentVolumeClaim" in volume:
            return await self._claim(volume["persistentVolumeClaim"]["claimName"])
        if "emptyDir" in volume:
            _make(folder)
        elif "secret" in volume:
            body = volume["secret"]
            await self._source(folder, Source("Secret", body["secretName"]), body)
        elif "configMap" in volume:
            body = volume["configMap"]
            await self._source(folder, Source("ConfigMap", body["name"]), body)
        elif "downwardAPI" in volume:
            self._downward(folder, volume["downwardAPI"])
        elif "projected" in volume:
            for item in volume["projected"].get("sources") or ():
                await self._projection(folder, item)
        else:
            kind = next((key for key in volume if key != "name"), "empty")
            raise MountError(f'volume "{volume["name"]}": {kind} volumes are not supported here')
        return folder

    async def _projection(self, folder: Path, item: Mapping[str, Any]) -> None:
        if body := item.get("serviceAccountToken"):
            await self._token(folder / body["path"], body)
        elif body := item.get("secret"):
            await self._source(folder, Source("Secret", body["name"]), body)
        elif body := item.get("configMap"):
            await self._source(folder, Source("ConfigMap", body["name"]), body)
        elif body := item.get("downwardAPI"):
            self._downward(folder, body)
        else:
            raise MountError(f"projection of {min(item, default='nothing')} is not supported here")

    async def _source(self, folder: Path, source: Source, body: Mapping[str, Any]) -> None:
        _make(folder)
        data = await read(self._api, self._namespace, source)
        if data is None:
            if body.get("optional"):
                return
            owner = f"{self._namespace}/{source.name}"
            raise MountError(f'references non-existent {source.kind.lower()}: "{owner}"')
        items = body.get("items")
        wanted = {i["key"]: i["path"] for i in items} if items else {key: key for key in data}
        for key, path in wanted.items():
            if key in data:
                _write(folder / path, data[key])
            elif not body.get("optional"):
                raise MountError(f"references non-existent {source.kind.lower()} key: {key}")

    def _downward(self, folder: Path, body: Mapping[str, Any]) -> None:
        for item in body.get("items") or ():
            _write(folder / item["path"], self._fact(item).encode())

    def _fact(self, item: Mapping[str, Any]) -> str:
        if ref := item.get("resourceFieldRef"):
            owners = self._pod["spec"]["containers"]
            owner = next(c for c in owners if c["name"] == ref["containerName"])
            return resource_value(ref, owner, self._place)
        path = item["fieldRef"]["fieldPath"]
        if path in ("metadata.labels", "metadata.annotations"):
            texts = self._pod["metadata"].get(path.partition(".")[2]) or {}
            return "\n".join(f'{key}="{_quoted(texts[key])}"' for key in sorted(texts))
        try:
            return field_value(path, self._pod, self._place)
        except ConfigError as error:
            raise MountError(str(error)) from error

    async def _token(self, path: Path, body: Mapping[str, Any]) -> None:
        if time.monotonic() < self._token_due.get(path, 0.0):
            return
        meta, spec = self._pod["metadata"], self._pod["spec"]
        life_s = int(body.get("expirationSeconds") or 3600)
        account = spec.get("serviceAccountName") or "default"
        audience = body.get("audience")
        try:
            answer = await self._api.create(
                f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token",
                {
                    "apiVersion": "authentication.k8s.io/v1",
                    "kind": "TokenRequest",
                    "spec": {
                        "audiences": [audience] if audience else [],
                        "expirationSeconds": life_s,
                        "boundObjectRef": {
                            "apiVersion": "v1",
                            "kind": "Pod",
                            "name": meta["name"],
                            "uid": meta["uid"],
                        },
                    },
                },
            )
        except ApiError as error:
            raise MountError(f"failed to fetch token: {error}") from error
        _write(path, answer["status"]["token"].encode(), mode=0o600)
        self._token_due[path] = time.monotonic() + TOKEN_SHARE * life_s

    async def _claim(self, name: str) -> Path:
        path = f"/api/v1/namespaces/{self._namespace}/persistentvolumeclaims/{name}"
        try:
            claim = await self._api.get(path)
            volume = claim["spec"].get("volumeName")
            if not volume or claim.get("status", {}).get("phase") != "Bound":
                raise MountError(f'persistentvolumeclaim "{name}" is not bound')
            body = (await self._api.get(f"/api/v1/persistentvolumes/{volume}"))["spec"]
        except ApiError as error:
            raise MountError(f'persistentvolumeclaim "{name}": {error}') from error
        if "hostPath" in body:
            return _host_path(body["hostPath"])
        if "local" in body:
            return _host_path({"path": body["local"]["path"], "type": ""})
        raise MountError(f'persistentvolume "{volume}" is neither hostPath nor local')


async def read(api: Api, namespace: str, source: Source) -> dict[str, bytes] | None:
    """Return the data of a Secret or ConfigMap, or None if it does not exist.

    Raises:
        MountError: it cannot be read.
    """
    collection = "secrets" if source.kind == "Secret" else "configmaps"
    try:
        body = await api.get(f"/api/v1/namespaces/{namespace}/{collection}/{source.name}")
    except ApiError as error:
        if error.status == 404:
            return None
        raise MountError(f"cannot read {source.kind} {source.name}: {error}") from error
    data = body.get("data") or {}
    if source.kind == "Secret":
        return {key: base64.b64decode(value) for key, value in data.items()}
    binary = {k: base64.b64decode(v) for k, v in (body.get("binaryData") or {}).items()}
    return {key: value.encode() for key, value in data.items()} | binary


def _host_path(body: Mapping[str, Any]) -> Path:
    """Check the type of a hostPath and return it.

    Raises:
        MountError: the path does not match the type.
    """
    path, kind = Path(body["path"]), body.get("type") or ""
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.touch(exist_ok=True)
    fits = path.is_file() if kind.startswith("File") else path.is_dir() or kind == ""
    if not fits:
        raise MountError(f"hostPath type check failed: {path} is not a {kind}")
    if not path.exists():
        # A container runtime creates the folder; here a missing folder is almost always a mistake.
        raise MountError(f"hostPath {path} does not exist")
    return path


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file atomically, and only if its content changes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes() == content:
        return
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.chmod(mode)
    os.replace(fresh, path)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
