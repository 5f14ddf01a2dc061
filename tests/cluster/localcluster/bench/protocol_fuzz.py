"""Random clients against the protocol of `/v1/realtime`: faults, hangs, missing answers.

The messages are right, nearly right, wrong and hostile; the engine delivers, drops and fails frames
at random while time passes. `--session` repeats one session and prints its messages and events.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from localcluster.bench import record
from localcluster.fuzz import many
from localcluster.fuzz.bridge_play import BridgePlay
from localcluster.fuzz.play import Play

_MESSAGES: Final = 1_000_000
_MODES: Final = {"drive": many.play_many, "bridge": many.bridge_many}


def main() -> int:
    """Play the sessions and write the record; return 1 at the first violation."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.protocol_fuzz", description=__doc__)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--messages", type=int, default=_MESSAGES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--session", type=int, help="play only this session, and print it")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--mode", choices=list(_MODES), default="drive")
    options = parser.parse_args()
    if options.session is not None:
        return repeat(options.mode, options.seed, options.session)
    total = many.Total()
    share = -(-options.messages // options.processes)
    with ProcessPoolExecutor(options.processes) as pool:
        plays = [
            pool.submit(_MODES[options.mode], options.seed, share, first, options.processes)
            for first in range(options.processes)
        ]
        for play in plays:
            total.add(play.result())
    print(f"{total.messages} messages, {total.events} events, {total.cpu_s:.0f} s of CPU time")
    if options.out is not None:
        found = {"mode": options.mode, "violations": 0, **total.describe()}
        record.write(options.out, options.seed, "none", found)
    return 0


def repeat(mode: str, seed: int, index: int) -> int:
    """Play one session and print its latest messages and events; return 1 at a violation."""
    play = Play(seed, index) if mode == "drive" else BridgePlay(seed, index)
    try:
        play.run(many.MESSAGES_OF_A_SESSION)
    finally:
        print("\n".join(play.log))
    return 0


if __name__ == "__main__":
    sys.exit(main())
