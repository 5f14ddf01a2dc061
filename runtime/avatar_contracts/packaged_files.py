"""The files that more than one package reads: the page and the GPU profiles."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def page() -> str:
    """Return the HTML of the page that the gateway and a runtime serve at `/`."""
    return files("avatar_contracts").joinpath("page/index.html").read_text(encoding="utf-8")


def gpu_profiles() -> dict[str, dict[str, Any]]:
    """Return the `spec` of each GPUProfile that the chart ships, by its name."""
    text = files("avatar_contracts").joinpath("gpu_profiles.json").read_text(encoding="utf-8")
    profiles: dict[str, dict[str, Any]] = json.loads(text)
    return profiles
