"""The variables that the chart sets are those that the settings read."""

import ast
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "operator": ROOT / "operator/avatar_operator/settings.py",
    "gateway": ROOT / "runtime/avatar_gateway/settings.py",
}


def known(settings: Path) -> set[str]:
    """Return the names of variables in a settings module."""
    texts = (
        n.value for n in ast.walk(ast.parse(settings.read_text())) if isinstance(n, ast.Constant)
    )
    return {text for text in texts if isinstance(text, str) and text.startswith("AVATAR_")}


@pytest.mark.slow
@pytest.mark.parametrize("component", SETTINGS)
def test_every_variable_of_a_deployment_is_a_setting(
    defaults: list[dict[str, Any]], component: str
) -> None:
    (deployment,) = [
        item
        for item in defaults
        if item["kind"] == "Deployment" and item["metadata"]["name"].endswith(f"-{component}")
    ]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    names = {variable["name"] for variable in container["env"]}
    assert len(names) >= 6
    assert names - known(SETTINGS[component]) == set()
