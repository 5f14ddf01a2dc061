"""Renders the chart with the real helm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from localcluster import paths
from localcluster.controlplane import build

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "avatar-operator"

Manifest = dict[str, Any]


class Refused(Exception):
    """What helm said when it did not render."""


@dataclass(frozen=True, slots=True)
class Helm:
    """The helm binary, with folders of its own."""

    binary: Path
    home: Path

    def run(self, *args: str, values: Mapping[str, Any] | None = None) -> str:
        """Return what helm prints, or raise `Refused`; `values` are read from its input."""
        done = subprocess.run(
            [self.binary, *args, *([] if values is None else ["--values", "-"])],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "HELM_CACHE_HOME": str(self.home / "cache"),
            },
        )
        if done.returncode != 0:
            raise Refused(done.stderr)
        return done.stdout

    def template(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        release: str = "demo",
        namespace: str = "avatars",
        args: Sequence[str] = (),
    ) -> list[Manifest]:
        """Return the objects of a release."""
        rendered = self.run(
            "template", release, str(CHART), "--namespace", namespace, *args, values=values or {}
        )
        return [document for document in yaml.safe_load_all(rendered) if document]


def find_helm() -> Path | None:
    """Return a helm that is there already; nothing is built for a unit test."""
    go_mod, go_sum = ((paths.MODULE / name).read_text() for name in ("go.mod", "go.sum"))
    offered = build.find_prebuilt(build.parse_tools(go_mod), os.environ)
    cached = build.cache_root(os.environ) / build.cache_key(go_mod, go_sum) / "bin" / "helm"
    on_path = shutil.which("helm")
    candidates = [offered.get("helm"), cached, Path(on_path) if on_path else None]
    return next((path for path in candidates if path and path.exists()), None)


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    binary = find_helm()
    if binary is None:
        pytest.skip("helm is missing: python -m localcluster build, in tests/cluster, makes it")
    return Helm(binary, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def defaults(helm: Helm) -> list[Manifest]:
    """The objects of a release without any values."""
    return helm.template()
