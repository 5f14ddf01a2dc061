"""Command line of the process nodes: `serve` (the default) and `ctl`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

from .api import Api
from .errors import NodeError
from .machine import POLL_S, Machine, switch
from .nodes_file import load

CTL_WITHIN_S = 15.0


def main() -> int:
    """Run the command line and return its exit status."""
    words = sys.argv[1:]
    try:
        return _ctl(words[1:]) if words[:1] == ["ctl"] else asyncio.run(_serve(words))
    except NodeError as error:
        print(f"error: {error}", file=sys.stderr)
    except BaseExceptionGroup as group:
        # A failed task ends its task group; print the message of the failed task.
        known, unknown = group.split(NodeError)
        if unknown or not known:
            raise
        print(f"error: {_first(known)}", file=sys.stderr)
    return 1


async def _serve(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m localcluster.node", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--nodes", type=Path, required=True, help="the nodes file (YAML)")
    parser.add_argument("--state", type=Path, required=True, help="folder for logs and volumes")
    parser.add_argument("--port", type=int, default=10250, help="port of the log endpoint")
    parser.add_argument(
        "--die-with-parent", action="store_true", help="stop when the starting process is gone"
    )
    options = parser.parse_args(words)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    file = load(options.nodes)
    state = options.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    stop, ready = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Api.from_kubeconfig(options.kubeconfig) as api, asyncio.TaskGroup() as group:
        machine = Machine(api, file, state, options.port)
        names = [node.name for node in file.nodes]
        tasks = [
            group.create_task(machine.run(ready), name="machine"),
            group.create_task(_greet(ready, names, machine.way), name="greeting"),
        ]
        if options.die_with_parent:
            tasks.append(group.create_task(_watch_parent(stop), name="parent"))
        await stop.wait()
        for task in tasks:
            task.cancel()
    return 0


async def _greet(ready: asyncio.Event, names: list[str], way: str) -> None:
    await ready.wait()
    print(json.dumps({"ready": True, "nodes": names, "mounts": way}), flush=True)


async def _watch_parent(stop: asyncio.Event) -> None:
    # Not PR_SET_PDEATHSIG: it follows the parent thread, which may end before the parent process.
    parent = os.getppid()
    while True:
        if os.getppid() != parent:
            stop.set()
        await asyncio.sleep(POLL_S)


def _ctl(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m localcluster.node ctl")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("do", choices=["kill-node", "revive-node"])
    parser.add_argument("name")
    options = parser.parse_args(words)
    up = options.do == "revive-node"
    button = switch(options.state.resolve(), options.name)
    if not button.folder.exists():
        raise NodeError(f"no node {options.name!r} below {options.state}")
    button.ask(up)
    deadline = time.monotonic() + CTL_WITHIN_S
    while button.is_up != up:
        if time.monotonic() > deadline:
            raise NodeError(f"node {options.name} did not follow within {CTL_WITHIN_S:g} s")
        time.sleep(POLL_S)
    return 0


def _first(group: BaseExceptionGroup[NodeError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
