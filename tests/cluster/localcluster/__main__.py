"""Command line: `python -m localcluster up | down | build | kubeconfig`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from localcluster import errors, paths, waiting
from localcluster.controlplane import build, folder, processes, progress
from localcluster.controlplane.cluster import ControlPlane, attach, running

POLL_S: Final = 0.1
STOP_S: Final = 20.0


def main() -> int:
    """Run one command; return the exit status."""
    arguments = _parser().parse_args()
    try:
        return asyncio.run(_COMMANDS[arguments.command](arguments))
    except errors.LocalClusterError as error:
        print(f"localcluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="localcluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the binaries into the user's cache")
    up = commands.add_parser("up", help="run a control plane until Ctrl-C")
    down = commands.add_parser("down", help="stop the control plane of a state folder")
    kubeconfig = commands.add_parser("kubeconfig", help="print a kubeconfig's path")
    for command in (up, down, kubeconfig):
        command.add_argument("--state", type=Path, default=paths.DEFAULT_STATE, metavar="DIR")
    up.add_argument("--detach", action="store_true", help="return once it is ready")
    up.add_argument("--port", type=int, help="of the API server; any free one by default")
    up.add_argument(
        "--nodes", type=Path, nargs="?", const=paths.DEFAULT_NODES, metavar="FILE",
        help="run process nodes too, by default those of tests/cluster/nodes.yaml",
    )  # fmt: skip
    kubeconfig.add_argument(
        "--service-account", metavar="NAMESPACE/NAME", help="instead of the administrator's"
    )
    return parser


async def _build(_: argparse.Namespace) -> int:
    for path in (await build.ensure(progress.Screen(sys.stderr), os.environ)).values():
        print(path)
    return 0


async def _up(arguments: argparse.Namespace) -> int:
    if arguments.detach:
        return await _up_detached(arguments)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    opened = running(arguments.state, nodes=arguments.nodes, api_port=arguments.port)
    async with opened as cluster:
        print(_describe(cluster), flush=True)
        await processes.until_gone(cluster.supervisor)  # `down` stops it
    return 0


async def _up_detached(arguments: argparse.Namespace) -> int:
    # Build in this process, which may have a terminal for the progress.
    await build.ensure(progress.Screen(sys.stderr), os.environ)
    layout = paths.Layout.of(arguments.state)
    folder.claim(layout)
    with folder.held(layout):
        folder.forget(layout)
    log = layout.root / "up.log"
    process = _spawn_owner(arguments, log)
    try:
        while process.poll() is None:
            with contextlib.suppress(errors.NotRunning):
                print(_describe(attach(layout.root)))
                process.returncode = 0  # it has become independent of this process
                return 0
            await asyncio.sleep(POLL_S)
    except asyncio.CancelledError:  # Ctrl-C before it was ready: stop everything
        process.terminate()
        process.wait()
        raise
    print(paths.tail(log, lines=60), file=sys.stderr)
    return process.returncode or 1


def _spawn_owner(arguments: argparse.Namespace, log: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "localcluster", "up", "--state", arguments.state]
    if arguments.nodes is not None:
        argv += ["--nodes", arguments.nodes]
    if arguments.port is not None:
        argv += ["--port", str(arguments.port)]
    with log.open("wb") as output:
        return subprocess.Popen(
            argv, env={**os.environ, "PYTHONPATH": str(paths.MODULE)},
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


async def _down(arguments: argparse.Namespace) -> int:
    layout = paths.Layout.of(arguments.state)
    state = folder.read(layout)
    if state is None or not state.supervisor.is_alive():
        folder.forget(layout)
        raise errors.NotRunning(layout.root)
    state.supervisor.signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_S):
            await processes.until_gone(state.supervisor)
    except TimeoutError:
        state.supervisor.signal(signal.SIGKILL)  # the kernel ends the components together with it
    await waiting.until(lambda: _is_free(layout), bool, f"{layout.root} is free", STOP_S)
    folder.forget(layout)
    print(f"stopped the cluster of {layout.root}")
    return 0


async def _is_free(layout: paths.Layout) -> bool:
    """Return whether the owner has released the folder after the end of the supervisor."""
    try:
        with folder.held(layout):
            return True
    except errors.AlreadyRunning:
        return False


async def _kubeconfig(arguments: argparse.Namespace) -> int:
    cluster = attach(arguments.state)
    if arguments.service_account is None:
        print(cluster.kubeconfig)
    else:
        namespace, _, name = arguments.service_account.partition("/")
        print(await cluster.service_account_kubeconfig(namespace, name))
    return 0


def _describe(cluster: ControlPlane) -> str:
    return (
        f"control plane ready after {cluster.start_seconds:.1f} s at {cluster.server}\n"
        f"export KUBECONFIG={cluster.kubeconfig}\n"
        f'export PATH={cluster.bin_dir}:"$PATH"'
    )


_COMMANDS: Final = {"build": _build, "up": _up, "down": _down, "kubeconfig": _kubeconfig}


if __name__ == "__main__":
    sys.exit(main())
