"""The health check that Argo CD runs on an AvatarService, in the Lua that Argo CD embeds (5.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lupa.lua51 import LuaRuntime

SCRIPT = Path(__file__).parents[2] / "integrations/argocd/avatarservice-health.lua"


def health(status: dict[str, Any] | None, generation: int = 2) -> tuple[str, str]:
    """Run the script as Argo CD does, with the resource in the global `obj`."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    body: dict[str, Any] = {"metadata": {"generation": generation}, "status": status}
    lua.globals().obj = lua.table_from(body, recursive=True)
    found = lua.execute(SCRIPT.read_text())
    return found["status"], found["message"]


def status(*conditions: tuple[str, str, str], generation: int = 2) -> dict[str, Any]:
    keys = ("type", "status", "reason")
    listed = [{**dict(zip(keys, each, strict=True)), "message": each[0]} for each in conditions]
    return {"observedGeneration": generation, "conditions": listed}


READY = ("Ready", "True", "Serving")
UP_TO_DATE = ("Progressing", "False", "UpToDate")
FINE = ("Degraded", "False", "Applied")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, ("Progressing", "no operator has reconciled this service")),
        ({}, ("Progressing", "no operator has reconciled this service")),
        (status(("Ready", "Unknown", "NotReconciled"), generation=-1), ("Progressing", "Ready")),
        (status(READY, UP_TO_DATE, FINE, generation=1), ("Progressing", "Ready")),
        (status(READY, UP_TO_DATE, FINE), ("Healthy", "Ready")),
        (status(("Ready", "False", "PodsStarting"), UP_TO_DATE, FINE), ("Progressing", "Ready")),
        (
            status(READY, ("Reconciling", "True", "RollingOut"), FINE),
            ("Progressing", "Reconciling"),
        ),
        (status(READY, ("Stalled", "True", "RolloutHalted"), FINE), ("Degraded", "Stalled")),
        (status(READY, UP_TO_DATE, ("Degraded", "True", "NodeLost")), ("Degraded", "Degraded")),
        (status(READY, ("Progressing", "False", "Paused"), FINE), ("Suspended", "Progressing")),
        (status(), ("Progressing", "no operator has reconciled this service")),
    ],
)
def test_health_follows_the_conditions(
    given: dict[str, Any] | None, wanted: tuple[str, str]
) -> None:
    assert health(given) == wanted
