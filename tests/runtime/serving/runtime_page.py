"""A real browser on the page of a real runtime."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from tests import browser
from tests.runtime.upstream.endpoints import running

from localcluster import speech_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from playwright.async_api import Page

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def runtime(avatars: Path, *options: str, capacity: int = 2) -> AsyncIterator[str]:
    """Run a runtime with a simulated GPU and yield the address of its page."""
    sessions, admin = browser.free_port(), browser.free_port()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "avatar_runtime", "serve", "--device=simulated:h100-80gb", *options),
        *(f"--model={ROOT / 'examples/models/demo'}", f"--avatars={avatars}"),
        *(f"--listen=127.0.0.1:{sessions}", f"--admin=127.0.0.1:{admin}"),
        env={"PATH": os.environ["PATH"], "AVATAR_CAPACITY": str(capacity)},
    )
    address = f"http://127.0.0.1:{sessions}"
    try:
        async with asyncio.timeout(60), httpx.AsyncClient() as http:
            while True:
                with suppress(httpx.TransportError):
                    if (await http.get(f"{address}/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.1)
        yield address
    finally:
        # A runtime that is asked to stop would wait for the session of the browser to come back.
        if child.returncode is None:
            child.kill()
        await child.wait()


@asynccontextmanager
async def speaking_runtime(avatars: Path, folder: Path) -> AsyncIterator[str]:
    """Run a runtime that says texts with espeak-ng; its configuration is written to a folder."""
    async with running(speech_server.app()) as url:
        document = folder / "upstream.json"
        speech = {"url": f"{url}/v1/audio/speech", "voice": "en"}
        document.write_text(json.dumps({"mode": "speech", "speech": speech}))
        async with runtime(avatars, f"--upstream={document}") as address:
            yield address


@asynccontextmanager
async def page(
    address: str, query: str = "", arguments: Sequence[str] = (), **context: Any
) -> AsyncIterator[tuple[Page, list[str]]]:
    """Open the page; yield it with what the browser reported or asked of others.

    `arguments` and `context` are those of `browser.new_page`; a function `prepare` in `context`
    gets the page before it is opened.
    """
    prepare = context.pop("prepare", None)
    faults: list[str] = []
    async with browser.new_page(*arguments, **context) as opened:
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("console", lambda message: faults.append(message.text))
        opened.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, "data:", "blob:"))
                else faults.append(f"asked {request.url}")
            ),
        )
        if prepare is not None:
            await prepare(opened)
        await opened.goto(address + query)
        yield opened, faults
