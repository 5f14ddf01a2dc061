"""`make demo`: installs everything and runs one session, with the time of each step.

A real control plane, `helm install`, `kubectl apply -f examples/avatarservice.yaml`, and one
session through the gateway that speaks `examples/speech.wav`. A second service says a typed
sentence through a speech endpoint (espeak-ng). Beside them, a new avatar is prepared from a clip.
Results go to `build/demo/`.
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
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from localcluster import errors, paths
from localcluster.controlplane import build, ports, processes, progress
from localcluster.controlplane.cluster import ControlPlane, running
from localcluster.report import Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT: Final = Path(__file__).parents[3]
RESULTS: Final = ROOT / "build" / "demo"
STATE: Final = ROOT / "build" / "demo-cluster"
RELEASE: Final = "avatar"
SYSTEM: Final = "avatar-system"
SERVICE: Final = "concierge"
SPEAKER: Final = "speaker"
SENTENCE: Final = "Hello! I say what you type. Try it."
READY_S: Final = 120


@dataclass(frozen=True, slots=True)
class Demo:
    """One run of the demo: the cluster, the API key of callers, and the report."""

    cluster: ControlPlane
    key: str
    report: Report

    async def install(self) -> None:
        """Install the chart, and wait until the operator and the gateway are ready."""
        await self.cluster.helm(
            "install", RELEASE, ROOT / "charts" / "avatar-operator",
            "--namespace", SYSTEM, "--create-namespace",
            "--set", f"gateway.apiKey.value={self.key}",
            "--wait", "--timeout", f"{READY_S}s",
        )  # fmt: skip

    async def apply(self) -> None:
        """Apply the example, and wait until its pod accepts sessions."""
        started = time.monotonic()
        manifest = ROOT / "examples" / "avatarservice.yaml"
        print(indented(await self.cluster.kubectl("apply", "-f", manifest)), flush=True)
        await self.cluster.kubectl(
            "wait", f"avs/{SERVICE}", "--for=condition=Ready", f"--timeout={READY_S}s"
        )
        self.report.figures["apply_to_ready_s"] = round(time.monotonic() - started, 3)
        print(indented(await self.cluster.kubectl("get", "avs,pods", "-o", "wide")), flush=True)
        pools = json.loads(await self.cluster.kubectl("get", "avs", SERVICE, "-o", "json"))
        pool = pools["status"]["pools"][0]
        self.report.figures["gpu_class"] = pool["gpuClass"]
        self.report.figures["batch_size"] = pool["batchSize"]
        selector = f"avatar.musetalk.io/service={SERVICE}"
        self.report.figures["pod"] = await self._first("pod", selector, "{.metadata.name}")

    async def prepare(self) -> None:
        """Draw a clip of a talking face, and prepare an avatar from it."""
        clip, out = RESULTS / "mira.mp4", RESULTS / "avatars" / "mira"
        out.parent.mkdir(exist_ok=True)
        await run_program(sys.executable, "-m", "avatar_training", "clip", "--out", str(clip))
        await run_program(
            sys.executable, "-m", "avatar_runtime", "prepare",
            "--source", str(clip), "--model", str(ROOT / "examples" / "models" / "demo"),
            "--out", str(out), "--consent", "Drawn by the project; no person is shown.",
            "--device", "cpu", "--force",
        )  # fmt: skip
        shutil.copyfile(out / "preview.jpg", RESULTS / "prepared.jpg")
        report = json.loads((out / "report.json").read_text())
        self.report.figures["prepared"] = report["verdict"]

    async def talk(self) -> None:
        """Run one session, and save its video and its figures."""
        figures = RESULTS / "session.json"
        arguments = [
            "talk", "--url", f"ws://{await self.gateway()}", "--model", f"default/{SERVICE}",
            "--audio", str(ROOT / "examples" / "speech.wav"),
            "--out", str(RESULTS / "talking.mp4"), "--sheet", str(RESULTS / "contact-sheet.png"),
            "--json", str(figures), "--every-frame",
        ]  # fmt: skip
        await run_program(
            sys.executable, "-m", "avatar_client", *arguments, env={"AVATAR_API_KEY": self.key}
        )
        session = json.loads(figures.read_text())
        for key in (
            "first_frame_ms", "frames", "fps", "realtime_factor", "audio_ms", "video_ms",
            "max_pts_error_ms",
        ):  # fmt: skip
            self.report.figures[key] = session[key]

    async def say(self, endpoint: str) -> None:
        """Start a service in mode speech, and let it say a sentence."""
        manifest = yaml.safe_load((ROOT / "examples" / "avatarservice-speech.yaml").read_text())
        manifest["spec"]["upstream"]["speech"] = {"url": endpoint, "voice": "en"}
        path = RESULTS / "avatarservice-speech.yaml"
        path.write_text(yaml.safe_dump(manifest, sort_keys=False))
        await self.cluster.kubectl("apply", "-f", path)
        await self.cluster.kubectl(
            "wait", f"avs/{SPEAKER}", "--for=condition=Ready", f"--timeout={READY_S}s"
        )
        figures = RESULTS / "said.json"
        await run_program(
            sys.executable, "-m", "avatar_client", "say", SENTENCE,
            "--url", f"ws://{await self.gateway()}", "--model", f"default/{SPEAKER}",
            "--out", str(RESULTS / "said.mp4"), "--json", str(figures), "--every-frame",
            env={"AVATAR_API_KEY": self.key},
        )  # fmt: skip
        self.report.figures["said_first_frame_ms"] = json.loads(figures.read_text())[
            "first_frame_ms"
        ]

    async def gateway(self) -> str:
        """Return HOST:PORT of the gateway. A real cluster uses a Service or an Ingress."""
        selector = "app.kubernetes.io/component=gateway"
        address = await self._first("pod", selector, "{.status.podIP}", "-n", SYSTEM)
        return f"{address}:8080"

    async def page(self, service: str) -> str:
        """Return the URL of a service's page. The browser does not send the part after #."""
        return f"http://{await self.gateway()}/?model=default/{service}#key={self.key}"

    async def _first(self, kind: str, selector: str, field: str, *more: str) -> str:
        path = f"jsonpath={{.items[0]{field[1:-1]}}}"
        return await self.cluster.kubectl("get", kind, "-l", selector, *more, "-o", path)


class DemoFailed(Exception):
    """A step of the demo failed."""


@contextlib.contextmanager
def speech_endpoint() -> Iterator[str]:
    """Serve speech by espeak-ng until the block ends; yields the URL of the endpoint."""
    (port,) = ports.find_free(1)
    command = [sys.executable, "-m", "localcluster.speech_server", "--port", str(port)]
    process = subprocess.Popen(command, preexec_fn=processes.die_with_parent)
    try:
        yield f"http://127.0.0.1:{port}/v1/audio/speech"
    finally:
        process.terminate()
        process.wait(10)


async def run_program(*command: str, env: Mapping[str, str] | None = None) -> None:
    """Run a command.

    Raises:
        DemoFailed: its exit status is not 0; contains what it printed.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(env or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    if process.returncode:
        name = " ".join(command[2:4])
        raise DemoFailed(f"{name} failed:\n{indented(printed.decode(errors='replace'))}")


async def run(report: Report, started: float, *, stay: bool) -> None:
    """Run all steps; an error of a step is passed on."""
    with report.step("tools (kube-apiserver, etcd, helm, … from Go modules)"):
        await build.ensure(progress.Screen(sys.stderr), os.environ)
    report.figures["setup_s"] = round(time.time() - started, 3)
    async with contextlib.AsyncExitStack() as stack:
        with report.step("control plane and GPU nodes"):
            opened = running(STATE, nodes=paths.DEFAULT_NODES)
            cluster = await stack.enter_async_context(opened)
        report.figures["control_plane_start_s"] = round(cluster.start_seconds, 3)
        demo = Demo(cluster, secrets.token_urlsafe(24), report)
        with report.step("helm install avatar-operator"):
            await demo.install()
        with report.step("kubectl apply -f examples/avatarservice.yaml → Ready"):
            await demo.apply()
        with report.step("a session speaks examples/speech.wav"):
            await demo.talk()
        if shutil.which("espeak-ng") is not None:
            endpoint = stack.enter_context(speech_endpoint())
            with report.step("a service in mode speech says a sentence"):
                await demo.say(endpoint)
        else:
            print("  espeak-ng is not installed: no service in mode speech", flush=True)
        with report.step("avatar-runtime prepare: an avatar from a drawn clip"):
            await demo.prepare()
        report.write(RESULTS / "report.json")
        print("\n" + summary(report.document()))
        if stay:
            await stay_up(demo)


async def stay_up(demo: Demo) -> None:
    """Print the addresses, and wait for Ctrl-C."""
    cluster = demo.cluster
    print(f"\nThe page:  {await demo.page(SERVICE)}")
    if shutil.which("espeak-ng") is not None:
        gateway = await demo.gateway()
        say = f"avatar-client say --url ws://{gateway} --model default/{SPEAKER} --out said.mp4"
        print(f"Write to:  {await demo.page(SPEAKER)}")
        program = f"AVATAR_API_KEY={demo.key} {Path(sys.executable).parent}"
        print(f"Or say:    {program}/{say} 'Good day!'")
    print(f"kubectl:   export KUBECONFIG={cluster.kubeconfig} PATH={cluster.bin_dir}:$PATH")
    print("Ctrl-C ends it all.", flush=True)
    await asyncio.Event().wait()


def summary(document: Mapping[str, object], folder: Path = RESULTS) -> str:
    """Return the last lines of a successful run; `folder` has its results."""
    return (
        f"{document['frames']} frames at {document['fps']} fps, first after "
        f"{document['first_frame_ms']} ms, batch {document['batch_size']} on "
        f"{document['gpu_class']} ({document['pod']})\n"
        + "\n".join(
            f"  {(folder / name).relative_to(ROOT)}"
            for name in ("talking.mp4", "contact-sheet.png", "prepared.jpg", "report.json")
            if (folder / name).exists()
        )
    )


def indented(text: str) -> str:
    """Indent the text by four columns."""
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines())


async def _main(started: float, stay: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = Report()
    try:
        await run(report, started, stay=stay)
    except (DemoFailed, errors.LocalClusterError) as error:
        print(f"\nmake demo: {error}", file=sys.stderr)
        print(f"logs are kept in {STATE.relative_to(ROOT)}", file=sys.stderr)
        return 1
    finally:
        report.write(RESULTS / "report.json")
    return 0 if report.document()["ok"] else 1


def main() -> int:
    """Run the demo. On a terminal it stays up, otherwise it stops at the end."""
    parser = argparse.ArgumentParser(prog="localcluster.demo", description=__doc__)
    parser.add_argument("--started", type=float, default=time.time(), help="when make began")
    arguments = parser.parse_args()
    stay = sys.stdout.isatty() and not os.environ.get("CI")
    try:
        return asyncio.run(_main(arguments.started, stay))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
