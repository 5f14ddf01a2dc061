"""The process that prepares: how its end becomes an answer, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from avatar_runtime.errors import Rejection
from avatar_runtime.serving import prepare_process
from avatar_runtime.serving.prepare_process import Result

DEADLINE_S = 20.0


@pytest.mark.parametrize(("status", "answer"), [(0, 200), (65, 422)])
def test_a_report_is_the_answer(status: int, answer: int) -> None:
    result = Result(status, b'{"verdict": "x"}\n', "notes")
    assert prepare_process.report_of(result, "/a/source") == (answer, {"verdict": "x"})


def test_the_sentence_of_the_command_is_the_answer_without_the_path() -> None:
    log = "reading: 0/0 frames\navatar-runtime: /a/source: is not a video\n"
    for status, answer in ((65, 400), (75, 503)):
        with pytest.raises(Rejection) as refused:
            prepare_process.report_of(Result(status, b"", log), "/a/source")
        assert (refused.value.status, str(refused.value)) == (answer, "the file: is not a video")


@pytest.mark.parametrize(
    "result",
    [
        Result(-9, b"", ""),
        Result(1, b"", "Traceback: secret"),
        Result(65, b"", "Traceback: secret"),
        Result(2, b"", "usage"),
        Result(0, b"[]", ""),
    ],
)
def test_any_other_end_is_an_error_of_the_server(result: Result) -> None:
    with pytest.raises(Rejection) as refused:
        prepare_process.report_of(result, "/a/source")
    assert refused.value.status == 500
    assert "secret" not in str(refused.value)


@pytest.mark.slow
async def test_output_progress_and_status_are_returned() -> None:
    code = "import sys; print('one\\ntwo', file=sys.stderr); print('{}'); sys.exit(3)"
    lines: list[str] = []
    result = await prepare_process.run([sys.executable, "-c", code], lines.append)
    assert (result.status, result.output, result.log) == (3, b"{}\n", "one\ntwo\n")
    assert lines[-1] == "two"


@pytest.mark.slow
async def test_a_cancelled_run_kills_the_process_and_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {note}.new; mv {note}.new {note}; echo ready >&2; wait"
    ready = asyncio.Event()
    run = asyncio.create_task(prepare_process.run(["sh", "-c", script], lambda _: ready.set()))
    async with asyncio.timeout(DEADLINE_S):
        await ready.wait()
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run
        while _runs(int(note.read_text())):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
