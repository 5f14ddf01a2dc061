"""What registries of charts show of the chart is complete and true."""

from __future__ import annotations

import base64
import runpy
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "avatar-operator"
METADATA: Final[dict[str, Any]] = yaml.safe_load((CHART / "Chart.yaml").read_text())
ANNOTATIONS: Final[dict[str, str]] = METADATA["annotations"]


def listed(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(ANNOTATIONS[f"artifacthub.io/{name}"])
    return found


def test_metadata_is_complete() -> None:
    for field in ("home", "sources", "maintainers", "icon", "keywords", "kubeVersion"):
        assert METADATA[field], field
    assert ANNOTATIONS["artifacthub.io/license"] == "Apache-2.0"
    assert {each["kind"] for each in listed("changes")} <= {"added", "changed", "fixed", "removed"}
    assert all(each["url"].startswith("https://") for each in listed("links"))


def test_the_icon_is_the_picture_beside_the_chart() -> None:
    head, _, data = METADATA["icon"].partition(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == (CHART / "icon.svg").read_bytes()


def test_the_crds_are_those_of_the_chart() -> None:
    crds = [yaml.safe_load(path.read_text()) for path in (CHART / "crds").glob("*.yaml")]
    stated = {(each["kind"], each["name"], each["version"]) for each in listed("crds")}
    assert stated == {
        (crd["spec"]["names"]["kind"], crd["metadata"]["name"], crd["spec"]["versions"][0]["name"])
        for crd in crds
    }
    kinds = {each[0] for each in stated}
    assert {each["kind"] for each in listed("crdsExamples")} <= kinds


def test_the_images_are_those_of_the_values() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    images = {name: values[name]["image"] for name in ("operator", "gateway", "runtime")}
    images["valkey"] = values["gateway"]["sharedState"]["embedded"]["image"]
    assert {each["name"]: each["image"] for each in listed("images")} == {
        name: f"{image['repository']}:{image['tag'] or METADATA['appVersion']}"
        for name, image in images.items()
    }


@pytest.fixture(scope="module")
def readme() -> str:
    module = runpy.run_path(str(ROOT / "docs/reference/chart_readme.py"))
    text: str = module["readme"]()
    return text


def test_the_readme_equals_its_sources(readme: str) -> None:
    assert (CHART / "README.md").read_text() == readme, "run python docs/reference/generate.py"


def test_the_readme_describes_every_value(readme: str) -> None:
    rows = [line.split(" | ") for line in readme.splitlines() if line.startswith("| ")]
    values = {row[0].removeprefix("| "): row for row in rows if len(row) >= 4}
    assert len(values) > 150
    assert [key for key, row in values.items() if not row[3].removesuffix(" |").strip()] == []
    assert values["gateway.service.port"][1:3] == ["int", "`80`"]
    assert values["operator.memoryShare"][3].startswith("Maximum share of the GPU memory")
