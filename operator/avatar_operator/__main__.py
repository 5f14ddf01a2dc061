"""Command line of the operator: `avatar-operator run | plan`."""

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path

from avatar_operator import offline
from avatar_operator.core import report
from avatar_operator.errors import AvatarOperatorError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _run() if options.command == "run" else _plan(options)
    except AvatarOperatorError as error:
        print(f"avatar-operator: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="avatar-operator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the operator; settings come from AVATAR_* variables")
    plan = commands.add_parser(
        "plan",
        help="print what the operator would do, offline",
        description="Print what the operator would do. Files are what kubectl get -o yaml prints.",
    )
    plan.add_argument("--service", type=Path, required=True, metavar="FILE")
    plan.add_argument("--nodes", type=Path, required=True, metavar="FILE")
    plan.add_argument(
        "--profiles", type=Path, metavar="FILE", help="GPUProfiles; default: those of the chart"
    )
    plan.add_argument(
        "--state", type=Path, metavar="FILE", help="pods, and what /control/v1/state says of them"
    )
    plan.add_argument("-o", "--output", choices=["text", "json"], default="text")
    return parser


def _plan(options: argparse.Namespace) -> int:
    files = offline.Files(options.service, options.nodes, options.profiles, options.state)
    outcome = offline.plan(files, time.time())
    parts = (outcome.service, outcome.plan, outcome.findings)
    if options.output == "json":
        print(json.dumps(report.document(*parts), indent=2))
    else:
        print(report.text(*parts))
    return 0


def _run() -> int:
    # kopf and the API client cost 60 MiB and a second: only those who run it pay.
    from avatar_operator import handlers, settings

    return asyncio.run(handlers.run(settings.from_env(os.environ)))


if __name__ == "__main__":
    sys.exit(main())
