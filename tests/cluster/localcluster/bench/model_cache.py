"""The start of a pod with an empty and with a filled cache of models, on this machine.

A start is what the containers of a pod run: `avatar-runtime cache-model` with a server whose
network takes `--network-s` for the demo model, and then `avatar-runtime serve` on a simulated
device until it is ready. A GPU, a kubelet and the pull of an image are not part of it, so the ratio
is that of downloads, and it grows with the time that the network takes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.request import urlopen

from localcluster import paths
from localcluster.bench import record
from localcluster.controlplane import ports
from localcluster.fakes.file_server import running

if TYPE_CHECKING:
    from localcluster.fakes.file_server import FileServer

FOLDER: Final = "/musetalk/"
EXAMPLES: Final = paths.REPOSITORY / "examples"
READY_S: Final = 180.0


def measure(network_s: float, rounds: int) -> dict[str, Any]:
    """Return the seconds of cold and warm starts, and the ratio of their medians."""
    cold: list[dict[str, float]] = []
    warm: list[dict[str, float]] = []
    with running() as server:
        server.add_folder(EXAMPLES / "models" / "demo", FOLDER)
        sha = server.add_manifest(FOLDER)
        size = sum(map(len, server.files.values()))
        server.bytes_per_s = size / network_s
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                cold.append(_start(server, sha, Path(folder)))
                warm.append(_start(server, sha, Path(folder)))
    totals = {
        name: record.figures([each["total_s"] for each in starts])
        for name, starts in (("cold", cold), ("warm", warm))
    }
    ratio = totals["cold"]["median"] / totals["warm"]["median"]
    return {
        "network_s": network_s,
        "model_bytes": size,
        "total_s": totals,
        "cold": cold,
        "warm": warm,
        "cold_to_warm_ratio": round(ratio, 2),
        "download_ratio": round(_median(cold, "download_s") / _median(warm, "download_s"), 2),
    }


def _median(starts: list[dict[str, float]], stage: str) -> float:
    return record.figures([each[stage] for each in starts])["median"]


def _start(server: FileServer, sha: str, cache: Path) -> dict[str, float]:
    began, used = time.monotonic(), _cpu_s()
    command = [sys.executable, "-m", "avatar_runtime", "cache-model"]
    command += ["--url", f"{server.url}{FOLDER}SHA256SUMS", "--sha256", sha]
    command += ["--allow-host", "127.0.0.1", "--cache", str(cache)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    downloaded = time.monotonic()
    sessions, admin = ports.find_free(2)
    command = [sys.executable, "-m", "avatar_runtime", "serve", "--device", "simulated:rtx-4090"]
    command += ["--model", str(cache / sha / "files"), "--avatars", str(EXAMPLES / "avatars")]
    command += ["--listen", f"127.0.0.1:{sessions}", "--admin", f"127.0.0.1:{admin}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(f"http://127.0.0.1:{sessions}/readyz", process)
        finally:
            process.terminate()
    ended = time.monotonic()
    seconds = {
        "download_s": downloaded - began,
        "runtime_s": ended - downloaded,
        "total_s": ended - began,
        "cpu_s": _cpu_s() - used,
    }
    return {name: round(value, 3) for name, value in seconds.items()}


def _cpu_s() -> float:
    """Return the processor time of the containers so far: on a busy machine it says more."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"{url} was not ready within {READY_S:.0f} s")


def main() -> None:
    """Run the benchmark and write its record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network-s", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("build/bench/model-cache.json"))
    options = parser.parse_args()
    results = measure(options.network_s, options.rounds)
    record.write(options.json, 0, "none: each round has its own cache", results)
    print(results["cold_to_warm_ratio"], results["total_s"])


if __name__ == "__main__":
    main()
