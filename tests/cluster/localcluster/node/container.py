"""Runs one container as a kubelet does: start, hooks, probes, end and restart."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from .clock import rfc3339
from .errors import ConfigError, StartError
from .probes import Kind, Probe, Verdict, fresh, port_number, probe
from .restarts import restarts
from .setting import message_file, message_path
from .status import Record, Running, State, Terminated, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .nodes_file import Image
    from .process import Outcome, Process
    from .setting import Setting
    from .view import Command

RETRY_S: Final = 1.0  # interval of the checks for a missing image or file
CANNOT_START: Final = 128  # exit code of container runtimes for a missing command
MESSAGE_BYTES: Final = 2048
WRITTEN_BYTES: Final = 4096  # of a message that the container writes itself
MESSAGE_LINES: Final = 80
LOGS_KEPT: Final = 2  # of the current and the previous run


def log_tail(log: bytes) -> str:
    """Return the part of a log that a kubelet uses for FallbackToLogsOnError."""
    lines = log[-MESSAGE_BYTES:].decode(errors="replace").splitlines(keepends=True)
    return "".join(lines[-MESSAGE_LINES:])


class Container:
    """One container of a pod with its process and its record."""

    def __init__(
        self,
        setting: Setting,
        manifest: Mapping[str, Any],
        record: Record,
        *,
        init: bool,
        changed: Callable[[], None],
    ) -> None:
        self.manifest = manifest
        self.record = record
        self._setting = setting
        self._init = init
        self._changed = changed
        self._process: Process | None = None
        self._command: Command | None = None
        self._image: Image | None = None
        self._said = ""  # the last problem, so that it is reported in one Event
        self._started_at = ""
        self._note = ""  # why the node ended the process
        field = "initContainers" if init else "containers"
        self._field = f"spec.{field}{{{record.name}}}"

    @property
    def running(self) -> bool:
        """Return whether its process runs."""
        return self._process is not None and self._process.running

    async def run(self) -> None:
        """Run the container until it ends for good; with restarts without a limit it never returns.

        On cancellation the process continues; `stop` ends it.
        """
        crashes = 0
        back_off = self._setting.host.file.back_off
        policy = self._setting.pod["spec"].get("restartPolicy", "Always")
        await self._wait_for_image()
        while True:
            begin = time.monotonic()
            ended = await self._run_once(await self._wait_for_command())
            self._set(ended)
            if not restarts(policy, ended.code, init=self._init):
                return
            crashes = back_off.crashes(crashes, time.monotonic() - begin)
            if delay_s := back_off.delay_s(crashes):
                self._say_back_off(delay_s)
                await asyncio.sleep(delay_s)
            self.record = replace(self.record, restarts=self.record.restarts + 1)

    async def stop(self, grace_s: float) -> None:
        """End the process: preStop hook, SIGTERM, and SIGKILL after the grace period."""
        process = self._process
        if process is None or not process.running:
            return
        if process.killed:
            grace_s = 0.0
        else:
            self._event("Killing", f"Stopping container {self.record.name}")
        try:
            async with asyncio.timeout(grace_s):
                hook = (self.manifest.get("lifecycle") or {}).get("preStop")
                if hook and (wrong := await self._hook(hook)):
                    self._event("FailedPreStopHook", f"PreStopHook failed: {wrong}", "Warning")
                process.terminate()
                await process.wait()
        except TimeoutError:
            process.kill()
        code = await process.wait()
        if not isinstance(self.record.state, Terminated):
            self._set(self._terminated(code))

    def kill(self) -> None:
        """Kill the process without a hook or a signal before, as a power failure does."""
        if self._process is not None:
            self._process.kill()

    async def _wait_for_image(self) -> None:
        name = self.manifest["image"]
        delay_s = self._setting.host.file.back_off.base_s
        while (image := self._setting.image(self.manifest)) is None:
            text = f'Failed to pull image "{name}": it is not in the image table of the nodes file'
            self._event("Failed", text, "Warning")
            self._event("Failed", "Error: ErrImagePull", "Warning")
            self._set(Waiting("ErrImagePull", text))
            await asyncio.sleep(RETRY_S)
            text = f'Back-off pulling image "{name}"'
            self._event("BackOff", text)
            self._set(Waiting("ImagePullBackOff", text))
            await asyncio.sleep(delay_s)
        self._image = image
        self._event("Pulled", f'Container image "{name}" already present on machine')

    async def _wait_for_command(self) -> Command:
        assert self._image is not None, "the image comes first"
        while True:
            try:
                return await self._setting.command(self.manifest, self._image)
            except ConfigError as error:
                if str(error) != self._said:
                    self._said = str(error)
                    self._event("Failed", f"Error: {error}", "Warning")
                self._set(Waiting("CreateContainerConfigError", str(error)))
            await asyncio.sleep(RETRY_S)

    async def _run_once(self, command: Command) -> Terminated:
        assert self._image is not None, "the image comes first"
        self._started_at, self._note, self._command = rfc3339(), "", command
        self.record = replace(self.record, container_id=f"process://{uuid.uuid4().hex}")
        log = self._setting.log_file(self.record.name, self.record.restarts)
        log.parent.mkdir(parents=True, exist_ok=True)
        for old in sorted(log.parent.iterdir(), key=lambda path: path.stat().st_mtime)[
            : -LOGS_KEPT + 1
        ]:
            old.unlink()
        self._event("Created", f"Created container: {self.record.name}")
        try:
            mounts = self._setting.mounts(self.manifest, self._image)
            process = self._setting.host.runner.start(command, mounts, log)
        except (StartError, ConfigError) as error:
            self._event("Failed", f"Error: {error}", "Warning")
            now = rfc3339()
            name = self.record.container_id
            return Terminated(CANNOT_START, "StartError", now, now, name, str(error))
        self._process = process
        self._event("Started", f"Started container {self.record.name}")
        self._set(Running(self._started_at))
        async with asyncio.TaskGroup() as group:
            care = group.create_task(self._care(), name=f"care for {self.record.name}")
            code = await process.wait()
            care.cancel()
        return self._terminated(code)

    async def _care(self) -> None:
        """Run the postStart hook and the probes of a running container."""
        hook = (self.manifest.get("lifecycle") or {}).get("postStart")
        if hook and (wrong := await self._hook(hook)):
            self._event("FailedPostStartHook", f"PostStartHook failed: {wrong}", "Warning")
            await self._end("FailedPostStartHook", self._grace_s())
            return
        if found := probe(Kind.STARTUP, self.manifest):
            await self._probe(found)
        ready = None if self._init or probe(Kind.READINESS, self.manifest) else True
        self._set(self.record.state, started=True, ready=ready)
        async with asyncio.TaskGroup() as group:
            for kind in (Kind.READINESS, Kind.LIVENESS):
                if found := probe(kind, self.manifest):
                    group.create_task(self._probe(found), name=f"{kind.value} {self._field}")

    async def _probe(self, probe: Probe) -> None:
        """Run a probe periodically; a startup probe returns when it succeeds."""
        streak = fresh(probe.kind)
        await asyncio.sleep(probe.initial_delay_s)
        while True:
            begin = time.monotonic()
            wrong = await self._ask(probe)
            if wrong:
                self._event("Unhealthy", f"{probe.kind.word} probe failed: {wrong}", "Warning")
            streak = streak.with_result(not wrong, probe)
            if probe.kind is Kind.READINESS:
                self._set(self.record.state, ready=streak.verdict is Verdict.PASSING)
            elif streak.verdict is Verdict.FAILING:
                word = probe.kind.word.lower()
                text = f"Container {self.record.name} failed {word} probe, will be restarted"
                await self._end(text, self._grace_s() if probe.grace_s is None else probe.grace_s)
            elif probe.kind is Kind.STARTUP and streak.verdict is Verdict.PASSING:
                return
            await asyncio.sleep(max(0.0, probe.period_s - (time.monotonic() - begin)))

    async def _end(self, why: str, grace_s: float) -> None:
        self._event("Killing", why)
        self._note = why
        await self.stop(grace_s)

    async def _ask(self, probe: Probe) -> str:
        """Return the failure of the probe, or an empty text if it succeeds."""
        match probe.action:
            case {"exec": {"command": line}}:
                outcome = await self._execute(list(line), probe.timeout_s)
                return "" if outcome.code == 0 else outcome.output or f"exit code {outcome.code}"
            case {"httpGet": action}:
                return await self._get(action, probe.timeout_s)
            case {"tcpSocket": action}:
                return await self._connect(action, probe.timeout_s)
        return "this kind of probe is not supported by process nodes"

    async def _hook(self, hook: Mapping[str, Any]) -> str:
        match hook:
            case {"exec": {"command": line}}:
                outcome = await self._execute(list(line), None)
                return "" if outcome.code == 0 else outcome.output or f"exit code {outcome.code}"
            case {"httpGet": action}:
                return await self._get(action, None)
            case {"sleep": {"seconds": seconds}}:
                await asyncio.sleep(seconds)
                return ""
        return "this kind of hook is not supported by process nodes"

    async def _execute(self, line: list[str], timeout_s: float | None) -> Outcome:
        assert self._command is not None, "hooks and probes follow the start"
        assert self._image is not None, "the image comes first"
        setting = self._setting
        command = setting.hook(self._command, line)
        mounts = setting.mounts(self.manifest, self._image)
        return await setting.host.runner.run(command, mounts, timeout_s)

    async def _get(self, action: Mapping[str, Any], timeout_s: float | None) -> str:
        scheme = str(action.get("scheme", "HTTP")).lower()
        host = action.get("host") or self._setting.place.pod_ip
        headers = {item["name"]: item["value"] for item in action.get("httpHeaders") or ()}
        try:
            port = port_number(action["port"], self.manifest)
            path = "/" + str(action.get("path") or "/").removeprefix("/")
            url = f"{scheme}://{host}:{port}{path}"
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, headers=headers, ssl=False, allow_redirects=False) as response,
            ):
                good = 200 <= response.status < 400
                return "" if good else f"HTTP probe failed with statuscode: {response.status}"
        except TimeoutError:
            return f'Get "{url}": no answer within {timeout_s} s'
        except (aiohttp.ClientError, ValueError) as error:
            return str(error)

    async def _connect(self, action: Mapping[str, Any], timeout_s: float) -> str:
        host = action.get("host") or self._setting.place.pod_ip
        try:
            port = port_number(action["port"], self.manifest)
            async with asyncio.timeout(timeout_s):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
        except TimeoutError:
            return f"dial tcp {host}:{action['port']}: i/o timeout"
        except (OSError, ValueError) as error:
            return str(error)
        return ""

    def _grace_s(self) -> float:
        return float(self._setting.pod["spec"].get("terminationGracePeriodSeconds", 30))

    def _terminated(self, code: int) -> Terminated:
        return Terminated(
            code=code,
            reason="Completed" if code == 0 else "Error",
            since=self._started_at,
            until=rfc3339(),
            container_id=self.record.container_id,
            message=self._note or self._message() or self._log_tail(code),
        )

    def _message(self) -> str:
        """Return the termination message that the container has written."""
        if message_path(self.manifest) is None:
            return ""
        path = message_file(self._setting.folder, self.record.name)
        return path.read_bytes()[:WRITTEN_BYTES].decode(errors="replace")

    def _log_tail(self, code: int) -> str:
        """Return the end of a failed run's log, if the container requests it."""
        wanted = self.manifest.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        if code == 0 or not wanted:
            return ""
        log = self._setting.log_file(self.record.name, self.record.restarts)
        return log_tail(log.read_bytes())

    def _say_back_off(self, delay_s: float) -> None:
        meta = self._setting.pod["metadata"]
        pod = f"{meta['name']}_{meta['namespace']}({meta['uid']})"
        name = self.record.name
        self._event(
            "BackOff", f"Back-off restarting failed container {name} in pod {pod}", "Warning"
        )
        text = f"back-off {delay_s:g}s restarting failed container={name} pod={pod}"
        self._set(Waiting("CrashLoopBackOff", text))

    def _set(self, state: State, *, started: bool | None = None, ready: bool | None = None) -> None:
        record = self.record.with_state(state) if state is not self.record.state else self.record
        if started is not None:
            record = replace(record, started=started)
        if ready is not None:
            record = replace(record, ready=ready)
        if record != self.record:
            self.record = record
            self._changed()

    def _event(self, reason: str, message: str, kind: str = "Normal") -> None:
        self._setting.event(self._field, reason, message, kind)
