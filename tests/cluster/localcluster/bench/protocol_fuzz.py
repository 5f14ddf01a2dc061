"""Random clients against the protocol of `/v1/realtime`: faults, hangs, missing answers.

The messages are right, nearly right, wrong and hostile; the engine delivers, drops and fails frames
at random while time passes. The sessions are those of all modes, with video and with sound only,
and the clients speak all forms of the protocol. `--session` repeats one session and prints it.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

from localcluster.bench import record
from localcluster.fuzz import many

_MESSAGES: Final = 1_000_000
_SHARES: Final = {"drive": 0.6, "speech": 0.25, "bridge": 0.15}
"""Share of the messages of each mode."""


def main() -> int:
    """Play the sessions and write the record; return 1 at the first violation."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.protocol_fuzz", description=__doc__)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--messages", type=int, default=_MESSAGES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--session", type=int, help="play only this session, and print it")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--mode", choices=many.MODES, help="play sessions of this mode only")
    options = parser.parse_args()
    if options.session is not None:
        return repeat(options.mode or "drive", options.seed, options.session)
    modes = [options.mode] if options.mode else list(_SHARES)
    total, found = many.Total(), dict[str, Any]()
    for mode in modes:
        share = 1.0 if options.mode else _SHARES[mode]
        played = play(mode, options.seed, round(options.messages * share), options.processes)
        print(f"{mode}: {played.messages} messages, {played.events} events", flush=True)
        found[mode] = {"messages": played.messages, "sessions": played.sessions}
        total.add(played)
    print(f"{total.messages} messages, {total.events} events, {total.cpu_s:.0f} s of CPU time")
    if options.out is not None:
        described = {"modes": found, "violations": 0, **total.describe()}
        record.write(options.out, options.seed, "none", described)
    return 0


def play(mode: str, seed: int, messages: int, processes: int) -> many.Total:
    """Play sessions of one mode in several processes until they have had enough messages.

    Raises:
        Violation: a session did something wrong.
    """
    total, share = many.Total(), -(-messages // processes)
    with ProcessPoolExecutor(processes) as pool:
        plays = [
            pool.submit(many.play_many, mode, seed, share, first, processes)
            for first in range(processes)
        ]
        for each in plays:
            total.add(each.result())
    return total


def repeat(mode: str, seed: int, index: int) -> int:
    """Play one session and print its latest messages and events; return 1 at a violation."""
    session = many.open_play(mode, seed, index)
    try:
        session.run(many.MESSAGES_OF_A_SESSION)
    finally:
        print("\n".join(session.log))
    return 0


if __name__ == "__main__":
    sys.exit(main())
