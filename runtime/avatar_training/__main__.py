"""`python -m avatar_training`: trains the demo model, prepares its avatars, and evaluates it."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

from avatar_training.identities import IDENTITIES
from avatar_training.speech import HELD_OUT_VOICES


def main() -> None:
    """Run one command."""
    arguments = _parser().parse_args()
    # Threads that busy-wait on two shared cores delay each other; torch reads this when it loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m avatar_training", description=__doc__)
    version = importlib.metadata.version("avatar-service")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    commands = parser.add_subparsers(required=True)

    train = commands.add_parser("train", help="train the three networks, or resume the training")
    train.add_argument("--out", type=Path, required=True, help="checkpoints, model and report")
    train.add_argument("--minutes", type=float, help="total time of all stages")
    train.add_argument("--smoke", action="store_true", help="run a few steps of each stage")
    train.add_argument("--seed", type=int, default=7)
    train.set_defaults(run=_train)

    avatars = commands.add_parser("avatars", help="draw and prepare the demo avatars")
    avatars.add_argument("--model", type=Path, required=True)
    avatars.add_argument("--out", type=Path, required=True)
    avatars.set_defaults(run=_avatars)

    clip = commands.add_parser("clip", help="draw a clip of a talking face, to prepare it")
    clip.add_argument("--identity", choices=sorted(IDENTITIES), default="mira")
    clip.add_argument("--out", type=Path, required=True, metavar="MP4")
    clip.set_defaults(run=_clip)

    speech = commands.add_parser("speech", help="speak the greeting into a WAV file")
    speech.add_argument("--out", type=Path, required=True)
    speech.set_defaults(run=_speech)

    evaluate = commands.add_parser("evaluate", help="measure lip sync in the finished frames")
    evaluate.add_argument("--model", type=Path, required=True)
    evaluate.add_argument("--avatars", type=Path, required=True)
    evaluate.add_argument("--out", type=Path, required=True, help="report and contact sheet")
    evaluate.add_argument("--avatar", choices=sorted(IDENTITIES), default="anna")
    evaluate.add_argument("--voice", action="append", help=f"default: {', '.join(HELD_OUT_VOICES)}")
    evaluate.add_argument("--seconds", type=float, default=60.0, help="seconds of speech per voice")
    evaluate.set_defaults(run=_evaluate)

    gate = commands.add_parser("gate", help="measure the voice gate on speech over noise")
    gate.set_defaults(run=_gate)
    return parser


def _train(arguments: argparse.Namespace) -> None:
    import cv2

    from avatar_training import networks, pipeline

    cv2.setNumThreads(1)
    plan = pipeline.SMOKE if arguments.smoke else pipeline.FULL
    if arguments.minutes is not None:
        plan = plan.within(arguments.minutes)
    _print(pipeline.train(arguments.out, plan, networks.Sizes(), arguments.seed))


def _avatars(arguments: argparse.Namespace) -> None:
    from avatar_runtime.engine.networks.musetalk import load
    from avatar_training import products

    products.write_avatars(arguments.out, load(arguments.model))


def _clip(arguments: argparse.Namespace) -> None:
    from avatar_training import clip

    clip.write_clip(arguments.out, arguments.identity)


def _speech(arguments: argparse.Namespace) -> None:
    from avatar_training import products

    products.write_speech(arguments.out)


def _evaluate(arguments: argparse.Namespace) -> None:
    from avatar_training import evaluation

    report = evaluation.evaluate(
        arguments.model,
        arguments.avatars / arguments.avatar,
        arguments.out,
        arguments.voice or HELD_OUT_VOICES,
        arguments.seconds,
    )
    _print(report)


def _gate(arguments: argparse.Namespace) -> None:
    from avatar_training import gate_evaluation

    _print(gate_evaluation.evaluate())


def _print(report: dict[str, Any]) -> None:
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
