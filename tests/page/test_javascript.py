"""The JavaScript package: its types, its parts, and a session with a real runtime from Node.js."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
from tests import programs
from tests.clients import environments
from tests.clients.conftest import running
from tests.page.cutting_proxy import CuttingProxy

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "runtime/avatar_contracts/page"
TESTS: Final = Path(__file__).parent / "javascript"
MAX_LINES: Final = 300
LIMIT_S: Final = 100
BINARY_ACKS: Final = {"transport": "binary", "flow": "ack"}
OPTIONS: Final = {
    "checkJs": True,
    "allowJs": True,
    "noEmit": True,
    "strict": True,
    "target": "es2023",
    "module": "nodenext",
}
PROJECTS: Final = {
    "page": ({"lib": ["es2023", "dom", "dom.iterable"], "types": []}, "worklets"),
    "worklets": ({"lib": ["es2023"], "types": ["audioworklet"]}, "page"),
}

pytestmark = [pytest.mark.slow, pytest.mark.realtime, pytest.mark.timeout(1200)]


async def _run(*command: str) -> programs.Ended:
    return await programs.run(*command, limit_s=LIMIT_S)


@pytest.mark.parametrize("name", PROJECTS)
async def test_the_types_are_right(name: str, tmp_path: Path) -> None:
    _, folder = environments.node()
    special, _ = PROJECTS[name]
    worklets, scripts = str(PAGE / "client/*-worklet.js"), str(PAGE / "**/*.js")
    parts = {"include": [scripts], "exclude": [worklets]}
    document = {
        "compilerOptions": {
            **OPTIONS,
            **special,
            "typeRoots": [str(folder / "node_modules/@types")],
        },
        **(parts if name == "page" else {"include": [worklets]}),
    }
    project = tmp_path / "tsconfig.json"
    project.write_text(json.dumps(document))
    compiler = folder / "node_modules/.bin/tsc"
    ended = await _run(str(compiler), "-p", str(project))
    assert (ended.status, ended.output + ended.errors) == (0, "")


@pytest.mark.parametrize("file", sorted(TESTS.glob("*.test.mjs")), ids=lambda file: file.stem)
async def test_the_parts_do_what_they_say(file: Path) -> None:
    node, _ = environments.node()
    ended = await _run(str(node), "--test", str(file))
    assert ended.status == 0, (ended.output + ended.errors)[-6000:]


def test_no_file_is_long() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in PAGE.rglob("*.js")}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


async def test_the_package_can_be_packed_and_imported_by_its_name(tmp_path: Path) -> None:
    node, _ = environments.node()
    package = tmp_path / "node_modules/avatar-client"
    shutil.copytree(PAGE / "client", package)
    script = 'import { createSession } from "avatar-client"; console.log(typeof createSession);'
    (tmp_path / "script.mjs").write_text(script)
    ended = await _run(str(node), str(tmp_path / "script.mjs"))
    assert (ended.status, ended.output + ended.errors) == (0, "function\n")
    packed = json.loads((package / "package.json").read_text())
    assert (packed["name"], packed["type"]) == ("avatar-client", "module")
    assert "dependencies" not in packed


async def _drive(port: int, options: dict[str, str], socket: str = "global") -> dict[str, Any]:
    """Run a session in Node.js, and return what happened in it."""
    node, folder = environments.node()
    given = str(folder / "node_modules/ws/wrapper.mjs") if socket == "ws" else ""
    arguments = (f"http://127.0.0.1:{port}", str(ROOT / "examples/speech.wav"))
    script = str(TESTS / "session.mjs")
    ended = await _run(str(node), script, *arguments, json.dumps(options), given)
    assert ended.status == 0, ended.output + ended.errors
    result: dict[str, Any] = json.loads(ended.output.splitlines()[-1])
    return result


def _check(result: dict[str, Any], mode: str) -> None:
    first = result["first"]
    assert (first["played"], first["frames"], first["modes"]) == ("completed", 50, [mode])
    assert first["isEqual"]
    assert first["pts"]
    assert first["keyframes"] == (50 if mode == "jpeg" else 1)
    assert first["tookS"] >= 2  # it is over when it has been heard
    # Speak, Speak, Stop: the second one never starts.
    assert result["cancelled"] == ["cancelled", "cancelled"]
    assert result["responses"] == 2
    assert result["again"] == "completed"
    assert result["refused"] == "unsupported_in_mode"
    assert result["states"] == ["open", "closed"]
    assert set(result["faults"]) <= {"unsupported_in_mode"}
    assert result["firstFrameMs"] > 0
    assert result["kbitPerS"] > 0


@pytest.mark.parametrize(("socket", "mode"), [("global", "jpeg"), ("ws", "h264")])
async def test_node_drives_a_session(socket: str, mode: str) -> None:
    async with running() as port:
        result = await _drive(port, {"mode": mode}, socket)
    _check(result, mode)
    assert result["media"]["binary"] == 0


@pytest.mark.parametrize(("socket", "mode"), [("ws", "jpeg"), ("global", "h264")])
async def test_both_transports_give_the_same_frames_and_sound(socket: str, mode: str) -> None:
    async with running() as port:
        text, binary = await asyncio.gather(
            _drive(port, {"mode": mode, "flow": "ack"}, socket),
            _drive(port, {"mode": mode, **BINARY_ACKS}, socket),
        )
    for result in (text, binary):
        _check(result, mode)
        # The server counts a response as played when its last sample is acknowledged.
        assert result["counts"]["output_audio_buffer.stopped"] >= 1
    assert text["digest"] == binary["digest"]
    assert (text["media"]["binary"], binary["media"]["json"]) == (0, 0)
    assert binary["media"]["binary"] > 50


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"mode": "jpeg"}, id="jpeg"),
        pytest.param({"mode": "h264", **BINARY_ACKS}, id="h264-binary-ack"),
    ],
)
async def test_a_session_that_is_cut_again_and_again_loses_nothing(options: dict[str, str]) -> None:
    node, _ = environments.node()
    generator = random.Random(7)
    async with running() as port, CuttingProxy(port).running() as proxy:
        process = await asyncio.create_subprocess_exec(
            *(str(node), str(TESTS / "resume.mjs"), f"http://127.0.0.1:{proxy.port}"),
            *(str(ROOT / "examples/speech.wav"), json.dumps(options)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        reading = asyncio.create_task(process.stdout.read())
        async with asyncio.timeout(LIMIT_S):
            while not reading.done():
                # Cuts come at any moment of a session, also while it is being resumed.
                await asyncio.wait([reading], timeout=generator.uniform(0.05, 1.2))
                proxy.cut()
            await process.wait()
    result: dict[str, Any] = json.loads(reading.result())
    assert result["status"] == "completed"
    assert result["faults"] == []
    assert result["cuts"] >= 4
    assert result["isEqual"]
    assert (result["frames"], result["inOrder"], result["seqsInOrder"]) == (186, True, True)
