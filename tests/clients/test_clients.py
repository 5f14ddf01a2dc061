"""Clients that nobody here wrote, with their default settings: each finishes three turns.

They run the scripts of docs/clients.md, unchanged.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from tests import programs
from tests.clients import environments

ROOT: Final = Path(__file__).parents[2]
SCRIPTS: Final = ROOT / "examples/clients"
LIMIT_S: Final = 120
SOUND_BYTES: Final = 3 * 1400 * 24 * 2
"""Each turn has 0.9 s of speech and the 0.5 s of silence that end it; an answer that is cut has
less."""

pytestmark = [
    pytest.mark.realtime,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.asyncio(loop_scope="session"),
]


@dataclass(frozen=True)
class Client:
    """A script, and the environment in which it runs."""

    script: str
    environment: str | None
    """The name of a lock in `locks/`; `None` for the environment of the project."""
    options: tuple[str, ...] = ()
    frames: bool = False
    """Whether the client asks for video."""


CLIENTS: Final = {
    "openai-python, no update": Client("openai_python.py", None),
    "openai-python, server_vad": Client("openai_python.py", None, ("server_vad",)),
    "openai-python, beta": Client("openai_python_beta.py", "openai-beta"),
    "openai-agents": Client("openai_agents.py", "openai-agents"),
    "livekit-plugins-openai": Client("livekit_openai.py", "livekit-plugins-openai"),
    "livekit-plugins-openai, generate_reply": Client(
        "livekit_push_to_talk.py", "livekit-plugins-openai"
    ),
    "pipecat-ai": Client("pipecat_openai.py", "pipecat-ai"),
    "semantic-kernel": Client("semantic_kernel_realtime.py", "semantic-kernel"),
    "azure-ai-voicelive": Client("azure_voicelive.py", "azure-ai-voicelive"),
    "azure-ai-voicelive, video": Client(
        "azure_voicelive.py", "azure-ai-voicelive", ("video",), frames=True
    ),
}


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS.keys())
async def test_a_client_for_python_finishes_three_turns(
    client: Client, server: str, speech: Path
) -> None:
    name = client.environment
    python = Path(sys.executable) if name is None else environments.python(name)
    command = (str(python), str(SCRIPTS / client.script), server, str(speech), *client.options)
    result = await _run(*command)
    _check(result)
    assert bool(result.get("frames")) is client.frames


async def test_openai_for_node_finishes_three_turns_over_tls(
    tls_server: tuple[str, Path], speech: Path
) -> None:
    address, trusted = tls_server
    node, folder = environments.node()
    script = str(shutil.copy(SCRIPTS / "openai_node.mjs", folder))
    _check(await _run(str(node), script, address, str(speech), NODE_EXTRA_CA_CERTS=str(trusted)))


async def test_openai_agents_for_node_finish_three_turns(server: str, speech: Path) -> None:
    node, folder = environments.node()
    script = str(shutil.copy(SCRIPTS / "openai_agents_node.mjs", folder))
    _check(await _run(str(node), script, server, str(speech)))


def _check(result: dict[str, Any]) -> None:
    assert result["errors"] == []
    assert result["turns"] == 3
    assert result["sound_bytes"] >= SOUND_BYTES


async def _run(*command: str, **variables: str) -> dict[str, Any]:
    """Run a script, and return the JSON object that it prints last."""
    ended = await programs.run(*command, limit_s=LIMIT_S, **variables)
    assert ended.status == 0, ended.errors[-3000:]
    result: dict[str, Any] = json.loads(ended.output.splitlines()[-1])
    return result
