"""Writes kubeconfig files."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from pathlib import Path

    from localcluster.controlplane.certificates import Pki


def certificate_user(pki: Pki, name: str) -> dict[str, str]:
    """Return the credentials of a client certificate, embedded so that the file can be moved."""
    return {
        "client-certificate-data": _encoded(pki.certificate(name)),
        "client-key-data": _encoded(pki.key(name)),
    }


def token_user(token: str) -> dict[str, str]:
    """Return the credentials of a ServiceAccount token."""
    return {"token": token}


def write(path: Path, server: str, ca: Path, user: dict[str, str], namespace: str) -> Path:
    """Write a kubeconfig with one context; readable only by its owner."""
    cluster = {"server": server, "certificate-authority-data": _encoded(ca)}
    context = {"cluster": "localcluster", "user": "user", "namespace": namespace}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "localcluster", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "localcluster", "context": context}],
        "current-context": "localcluster",
    }
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        yaml.safe_dump(document, file, sort_keys=False)
    return path


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
