"""`make kubelet-demo`: the images of this repository on nodes with a real kubelet, as root.

`helm install` with the chart's defaults, where every namespace enforces the restricted Pod
Security Standard; `kubectl apply` of README's example; and one session through a TLS proxy.
Results go to `build/kubelet-demo/`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from localcluster import demo, errors
from localcluster.controlplane import build, certificates, progress
from localcluster.kubelet import cluster as clusters
from localcluster.kubelet import fleet as fleets
from localcluster.kubelet import proxy, requirements
from localcluster.report import Report

if TYPE_CHECKING:
    from localcluster.kubelet.fleet import Fleet

RESULTS: Final = demo.ROOT / "build" / "kubelet-demo"
STATE: Final = demo.ROOT / "build" / "kubelet-cluster"
SERVICE: Final = "avatar-avatar-operator-gateway"
SECRET: Final = "avatar-api-key"
FIGURES: Final = (
    "first_frame_ms", "frames", "fps", "realtime_factor", "audio_ms", "video_ms",
    "max_pts_error_ms",
)  # fmt: skip


async def run(report: Report, started: float) -> None:
    """Run all steps; an error of a step is passed on."""
    with report.step("tools (kubelet, kube-proxy, kube-apiserver, … from Go modules)"):
        await build.ensure(progress.Screen(sys.stderr), os.environ)
        await clusters.built()
    report.figures["setup_s"] = round(time.time() - started, 3)
    async with contextlib.AsyncExitStack() as stack:
        with report.step("control plane, two nodes with a kubelet, images imported"):
            fleet = await stack.enter_async_context(fleets.running(STATE))
        report.figures["control_plane_start_s"] = round(fleet.control.start_seconds, 3)
        await _talk(fleet, report)
        with report.step("everything is removed"):
            await stack.aclose()


async def _talk(fleet: Fleet, report: Report) -> None:
    key = secrets.token_urlsafe(24)
    shown = demo.Demo(fleet.control, key, report)
    with report.step("helm install avatar-operator"):
        await _install(fleet, key)
    with report.step("kubectl apply -f examples/avatarservice.yaml → Ready"):
        await shown.apply()
    address = await fleet.cluster_ip(demo.SYSTEM, SERVICE)
    async with proxy.serving(fleet.nodes[0], f"{address}:80") as endpoint:
        with report.step("a session through the TLS proxy speaks examples/speech.wav"):
            await _session(fleet, endpoint, key)
    session = json.loads((RESULTS / "session.json").read_text())
    report.figures.update((name, session[name]) for name in FIGURES)


async def _install(fleet: Fleet, key: str) -> None:
    kubectl = fleet.control.kubectl
    await kubectl("create", "namespace", demo.SYSTEM)
    await kubectl(
        "create", "secret", "generic", SECRET, "-n", demo.SYSTEM, f"--from-literal=api-key={key}"
    )
    await fleet.control.helm(
        "install", demo.RELEASE, demo.ROOT / "charts" / "avatar-operator", "-n", demo.SYSTEM,
        "--set", f"gateway.apiKey.existingSecret={SECRET}",
        "--wait", "--timeout", f"{demo.READY_S}s",
    )  # fmt: skip


async def _session(fleet: Fleet, endpoint: str, key: str) -> None:
    arguments = (
        "talk", "--url", f"wss://{endpoint}", "--model", f"default/{demo.SERVICE}",
        "--audio", str(demo.ROOT / "examples" / "speech.wav"),
        "--out", str(RESULTS / "talking.mp4"), "--sheet", str(RESULTS / "contact-sheet.png"),
        "--json", str(RESULTS / "session.json"), "--every-frame",
    )  # fmt: skip
    ca = certificates.Pki(fleet.control.layout.pki).ca
    environment = {"AVATAR_API_KEY": key, "SSL_CERT_FILE": str(ca), "NO_PROXY": "*"}
    await demo.run_program(sys.executable, "-m", "avatar_client", *arguments, env=environment)


async def _main(started: float) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    if problem := requirements.missing() or _no_proxy():
        print(f"make kubelet-demo: {problem}", file=sys.stderr)
        return 1
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = Report()
    try:
        await run(report, started)
    except (demo.DemoFailed, errors.LocalClusterError) as error:
        print(f"\nmake kubelet-demo: {error}", file=sys.stderr)
        print(f"logs are kept in {STATE.relative_to(demo.ROOT)}", file=sys.stderr)
        return 1
    finally:
        report.write(RESULTS / "report.json")
    print("\n" + demo.summary(report.document(), RESULTS))
    return 0 if report.document()["ok"] else 1


def _no_proxy() -> str:
    return "" if shutil.which("nginx") else "requirements/install-debian installs nginx"


def main() -> int:
    """Run the demo; nothing stays up."""
    parser = argparse.ArgumentParser(prog="localcluster.kubelet.demo", description=__doc__)
    parser.add_argument("--started", type=float, default=time.time(), help="when make began")
    arguments = parser.parse_args()
    try:
        return asyncio.run(_main(arguments.started))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
