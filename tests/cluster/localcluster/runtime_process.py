"""One runtime with the shipped model as a local process, and clients that generate load."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from localcluster import paths
from localcluster.controlplane import ports, processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

READY_S: Final = 300.0
STOP_S: Final = 60.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_EXAMPLES: Final = paths.REPOSITORY / "examples"
_SERIES: Final = re.compile(r"^(\w+(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Runtime:
    """A running `avatar-runtime serve`."""

    pid: int
    url: str
    admin: str

    def cpu_s(self) -> float:
        """Return the CPU time of the process."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / _TICKS

    def rss_mib(self) -> float:
        """Return the resident memory of the process."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE / 2**20

    def state(self, token: str = "") -> dict[str, Any]:
        """Return the state document that the operator reads; `token` is the state token if any."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"{self.admin}/control/v1/state", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.load(answer))

    def metrics(self) -> Mapping[str, float]:
        """Return all metric series by name with labels."""
        with urllib.request.urlopen(f"{self.admin}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return {name: float(value) for name, value in _SERIES.findall(text)}


@contextmanager
def serving(
    log: Path,
    batch_size: int,
    environment: Mapping[str, str] | None = None,
    device: str = "cpu",
    program: Sequence[str] = ("avatar_runtime",),
) -> Iterator[Runtime]:
    """Run a runtime with the shipped model, on the CPU by default, until the block ends.

    `program` is the module that is run, and what it wants before the arguments of `avatar-runtime`.

    Raises:
        TimeoutError: it is not ready in time; the message has the path of the log.
    """
    sessions, admin = ports.find_free(2)
    argv = [
        *(sys.executable, "-m", *program, "serve", "--device", device),
        *("--model", str(_EXAMPLES / "models" / "demo"), "--avatars", str(_EXAMPLES / "avatars")),
        *("--batch-size", str(batch_size)),
        *("--listen", f"127.0.0.1:{sessions}", "--admin", f"127.0.0.1:{admin}"),
    ]
    given = {"AVATAR_CAPACITY": "64", "AVATAR_METRICS_OPEN": "true", **(environment or {})}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            env={**os.environ, **given},
            stdout=output,
            stderr=output,
            preexec_fn=processes.die_with_parent,
        )
        try:
            _until_ready(process, f"http://127.0.0.1:{sessions}/readyz", log)
            yield Runtime(process.pid, f"ws://127.0.0.1:{sessions}", f"http://127.0.0.1:{admin}")
        finally:
            process.terminate()
            process.wait(STOP_S)


def load(runtime: Runtime, arguments: Sequence[str]) -> dict[str, Any]:
    """Run `avatar-client load` in its own process and return its report."""
    with tempfile.TemporaryDirectory(prefix="avatar-load-") as folder:
        found = Path(folder) / "load.json"
        argv = [
            *(sys.executable, "-m", "avatar_client", "load", "--url", runtime.url),
            *("--audio", str(_EXAMPLES / "speech.wav"), "--json", str(found), *arguments),
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if not found.exists():
            raise RuntimeError(f"avatar-client load failed: {done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(found.read_text())
        return result


def _until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline, seen = time.monotonic() + READY_S, ""
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            seen = str(error)
        time.sleep(0.1)
    raise TimeoutError(f"the runtime was not ready (see {log}), last seen: {seen}")
