"""The command that the hooks of the chart run before and after `helm uninstall`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from avatar_operator import settings
from avatar_operator.__main__ import main
from avatar_operator.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

OWN = {"AVATAR_NAMESPACE": "system", "AVATAR_LEASE": "avatar-operator"}


def test_the_installation_is_that_of_the_operator_of_the_release() -> None:
    found = settings.installation_from_env({**OWN, "AVATAR_WATCH_NAMESPACES": "acme,globex"})
    assert found == ("system/avatar-operator", ("acme", "globex"))
    assert settings.installation_from_env(OWN) == ("system/avatar-operator", ())


def test_missing_variables_are_named_together() -> None:
    with pytest.raises(SettingsError) as refusal:
        settings.installation_from_env({})
    assert "AVATAR_NAMESPACE" in str(refusal.value)
    assert "AVATAR_LEASE" in str(refusal.value)


def test_an_uninstall_without_its_variables_ends_with_their_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*OWN, "AVATAR_WATCH_NAMESPACES"):
        monkeypatch.delenv(name, raising=False)
    assert main(["uninstall"]) == 2
    assert "AVATAR_NAMESPACE" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "stream", "text"),
    [
        ((), 0, "stdout", "cannot list what stays in the cluster: GET"),
        (("--cleanup",), 1, "stderr", "avatar-operator: GET"),
    ],
    ids=["notice", "cleanup"],
)
def test_without_a_cluster_only_a_cleanup_fails(
    tmp_path: Path, arguments: tuple[str, ...], status: int, stream: str, text: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "avatar_operator", "uninstall", *arguments],
        env={**OWN, "KUBECONFIG": str(unreachable(tmp_path)), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert text in getattr(done, stream)


def unreachable(folder: Path) -> Path:
    """Write a kubeconfig of a server that refuses connections: port 1 is reserved."""
    path = folder / "kubeconfig"
    path.write_text(
        """
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {token: t}}]
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
"""
    )
    return path
