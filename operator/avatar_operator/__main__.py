"""Command line: `avatar-operator run | plan | simulate | replay | uninstall` and two for CRDs."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from avatar_operator.cli import plan, replay, simulate
from avatar_operator.cli.plan import plan_document, plan_text
from avatar_operator.errors import AvatarOperatorError, InputError, SettingsError
from avatar_operator.simulator import traces

BROKEN_PIPE: Final = 128 + 13
"""Exit status of a command that SIGPIPE ends, as shells report it."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status, which is 2 for missing or invalid settings."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "run":
            return _run()
        if options.command == "upgrade-crds":
            return _upgrade_crds()
        if options.command in ("uninstall", "remove-crds"):
            return asyncio.run(_remove(options))
        return _offline(options)
    except AvatarOperatorError as error:
        print(f"avatar-operator: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="avatar-operator", description=__doc__)
    version = importlib.metadata.version("avatar-service")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the operator; settings are AVATAR_* variables")
    commands.add_parser(
        "upgrade-crds", help="upgrade the CRDs of the cluster to this release; objects are kept"
    )
    uninstall = commands.add_parser(
        "uninstall",
        help="list what helm uninstall leaves in the cluster; with --cleanup, remove it first",
        description="List the AvatarServices, Avatars and pods of this installation "
        "(AVATAR_NAMESPACE, AVATAR_LEASE, AVATAR_WATCH_NAMESPACES).",
    )
    uninstall.add_argument(
        "--cleanup",
        action="store_true",
        help="delete the AvatarServices, wait for the sessions of their pods, then delete the "
        "Avatars; the operator must run",
    )
    uninstall.add_argument(
        "--deadline-s",
        type=float,
        default=240.0,
        help="seconds after which --cleanup fails if something is left. Defaults to 240.",
    )
    commands.add_parser(
        "remove-crds", help="delete the CRDs, and with them all objects of their kinds"
    )
    plan = commands.add_parser(
        "plan",
        help="print what the operator would do, without a cluster",
        description="Print what the operator would do, from files that kubectl get -o yaml wrote.",
    )
    plan.add_argument("--service", type=Path, required=True, metavar="FILE")
    plan.add_argument("--nodes", type=Path, required=True, metavar="FILE")
    plan.add_argument(
        "--profiles", type=Path, metavar="FILE", help="GPUProfiles. Defaults to those of the chart."
    )
    plan.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="pods, and the documents of their /control/v1/state",
    )
    plan.add_argument(
        "--tenants",
        type=Path,
        metavar="FILE",
        help="AvatarTenants, and the Namespaces and other AvatarServices that they select",
    )
    plan.add_argument("-o", "--output", choices=["text", "json"], default="text")
    _add_simulate(commands.add_parser("simulate", help="simulate scaling on a trace, offline"))
    replay = commands.add_parser(
        "replay",
        help="decide again from the inputs in a decision log, offline",
        description="Decide again from the inputs in a log (AVATAR_DECISION_LOG), and print the "
        "differences. With --service, the policy of its manifest is used.",
    )
    replay.add_argument("--log", type=Path, required=True, metavar="FILE", help="JSON lines")
    replay.add_argument("--service", type=Path, metavar="FILE", help="with spec.autoscaling")
    replay.add_argument("--json", type=Path, metavar="FILE", help="file for the comparison")
    return parser


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.description = "Simulate the operator's decisions on a trace, in virtual time."
    parser.add_argument("--trace", type=Path, metavar="FILE", help="CSV: arrival_s,duration_s")
    parser.add_argument("--service", type=Path, metavar="FILE", help="with spec.autoscaling")
    parser.add_argument(
        "--profiles", type=Path, metavar="FILE", help="GPUProfiles. Defaults to those of the chart."
    )
    parser.add_argument("--gpus", type=int, help="GPUs of each class. Defaults to maxReplicas.")
    parser.add_argument("--start-s", type=float, default=20.0, help="median startup time of a pod")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="file for the timeline")
    parser.add_argument(
        "--decisions", type=Path, metavar="FILE", help="file for the decisions, for replay"
    )
    parser.add_argument(
        "--generate",
        choices=[kind.value for kind in traces.Kind],
        help="generate a trace and write it to --out instead",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="file that --generate writes")
    parser.add_argument(
        "--sessions", type=float, default=40.0, help="mean concurrency of --generate"
    )


def _offline(options: argparse.Namespace) -> int:
    """Run a command that needs no cluster, and return the exit status.

    A reader that closes the pipe early, for example `head`, ends the command without a message.
    """
    commands = {"plan": _plan, "simulate": _simulate, "replay": _replay}
    try:
        status = commands[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout again when it exits: without this, it would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status


def _plan(options: argparse.Namespace) -> int:
    files = plan.Files(
        options.service, options.nodes, options.profiles, options.state, options.tenants
    )
    outcome = plan.plan(files, time.time())
    parts = (outcome.service, outcome.plan, outcome.findings)
    if not outcome.knows_pods:
        print(
            "avatar-operator: --state contains no pods, so every GPU counts as free; "
            "pass it what `kubectl get pods --all-namespaces -o yaml` prints",
            file=sys.stderr,
        )
    if options.output == "json":
        print(json.dumps(plan_document(*parts), indent=2))
    else:
        print(plan_text(*parts))
    return 0


def _simulate(options: argparse.Namespace) -> int:
    if options.generate is not None:
        out = _required(options.out, "--out")
        scale = traces.Scale(options.sessions)
        count = simulate.generate(traces.Kind(options.generate), scale, options.seed, out)
        print(f"{count} sessions in {out}")
        return 0
    if options.plot is not None and options.plot.suffix != ".svg":
        raise InputError("--plot", str(options.plot), "must end in .svg, the only supported format")
    run = simulate.simulate(
        simulate.Request(
            trace=_required(options.trace, "--trace"),
            service=_required(options.service, "--service"),
            profiles=options.profiles,
            seed=options.seed,
            gpus=options.gpus,
            start_s=options.start_s,
            decisions=options.decisions is not None,
        )
    )
    for path, content in (
        (options.json, json.dumps(run.figures, indent=2) + "\n"),
        (options.plot, run.picture),
        (options.decisions, "".join(f"{line}\n" for line in run.decisions)),
    ):
        if path is not None:
            path.write_text(content, encoding="utf-8")
    print(simulate.text(run.figures))
    return 0


def _replay(options: argparse.Namespace) -> int:
    data = replay.replay(options.log, options.service)
    if options.json is not None:
        options.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    print(replay.text(data))
    return 1 if data["differences"] and options.service is None else 0


def _required(path: Path | None, option: str) -> Path:
    if path is None:
        raise InputError(option, "", "is missing, must be a file")
    return path


def _run() -> int:
    # kopf and the API client take 60 MiB and a second: only `run` imports them.
    from avatar_operator import app, settings

    return asyncio.run(app.run(settings.from_env(os.environ)))


async def _remove(options: argparse.Namespace) -> int:
    from avatar_operator import settings
    from avatar_operator.kube import removal

    if options.command == "remove-crds":
        steps = removal.run_crds()
    else:
        scope = removal.Scope(*settings.installation_from_env(os.environ))
        steps = removal.run(scope, options.deadline_s if options.cleanup else None)
    async for sentence in steps:
        print(sentence, flush=True)  # the log of a hook is read while it runs
    return 0


def _upgrade_crds() -> int:
    from avatar_operator.kube import crds

    for sentence in asyncio.run(crds.run()):
        print(sentence)
    return 0


if __name__ == "__main__":
    sys.exit(main())
