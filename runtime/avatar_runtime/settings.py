"""What the runtime is told by its environment and its arguments; the only reader of both.

The variables carry the names that the operator writes into the pod. Unknown variables are left
alone: Kubernetes itself puts `AVATAR_…_SERVICE_HOST` into pods beside a Service of such a name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_contracts import labels
from avatar_contracts.environment import Address as Address
from avatar_contracts.environment import Environment, whole
from avatar_runtime.engine.device import DECODERS, PRECISIONS, VERSIONS
from avatar_runtime.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

FRAME_RATES: Final = (10, 16, 20, 25)
LOOKAHEADS_MS: Final = tuple(str(ms) for ms in range(0, 401, 40))
_DAY_S: Final = 86_400
_USUAL_DBFS: Final[int | None] = -50


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this runtime is in the cluster."""

    service: str
    """`NAMESPACE/NAME` of the AvatarService; empty outside a cluster."""
    pod: str
    """Name of the pod."""
    pod_ip: str
    """Where the pod's own commands reach its listeners."""
    gpu_class: str
    """Name of the GPUProfile; `none` outside a cluster."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What every session of this pod is granted."""

    capacity: int
    """Sessions at once; the next one is refused at the door."""
    avatars: tuple[str, ...]
    """Avatars on offer, the first is the default; empty offers all that are there."""
    fps: int
    """Frames a second; divides every served sample rate."""
    max_duration_s: int
    """Longest session in seconds."""
    idle_timeout_s: int
    """Seconds without a message or a frame after which a session ends."""
    drain_timeout_s: int
    """Seconds that SIGTERM waits for sessions to end."""


@dataclass(frozen=True, slots=True)
class HearingSettings:
    """How the sound of every session is heard."""

    silence_dbfs: int | None
    """Level of 20 ms of sound, dBFS, that counts as speech. Around it the mouth is drawn; in longer
    silence the avatar's own picture shows, which costs the device nothing. -50 is under quiet
    speech (a voice 30 dB too low is still drawn) and over the noise of a fair microphone; louder
    noise is drawn like speech. `None` draws every frame."""
    lookahead_ms: int
    """Sound past the trained window that the audio encoder hears before a frame is drawn; all
    frames come as much later. 0: the window alone (docs/engine.md has the distances)."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the engine loads, and onto what."""

    model: str
    """Folder with the upstream layout."""
    avatars: str
    """Folder with one sub-folder for each avatar."""
    device: str
    """`cuda`, `cpu`, `simulated:CLASS`, or `auto`: `cuda` where there is one, else `cpu`."""
    batch_size: int
    """Frames in the largest batch."""
    gpu_profile: str | None
    """The operator's profile of the GPU, a JSON object; `None` takes the packaged one."""
    simulated_neighbour: str
    """File with the MiB that another process holds on a simulated GPU; empty: nobody is there."""
    precision: str | None
    """`fp32`, `bf16` or `fp16`; `None` is the device's own: fp16 on CUDA, fp32 on the CPU."""
    decoder: str
    """`sd-vae`, or `taesd`: a fraction of the work, and another picture."""
    verify: bool
    """Whether a converted model is held against its hashes at the start; on by default."""
    version: str | None
    """Of the model, where the folder has several; `None`: the newest that is there."""


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """Who may ask the administration listener what."""

    token: str = field(repr=False)
    """Bearer token; empty leaves the controls open on a loopback listener, else closed."""
    metrics_open: bool
    """Whether `/metrics` needs no token."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that `avatar-runtime serve` is told."""

    identity: Identity
    sessions: SessionSettings
    hearing: HearingSettings
    engine: EngineSettings
    admin: AdminSettings
    sessions_listen: Address
    admin_listen: Address
    log_format: labels.LogFormat


def from_env(variables: Mapping[str, str]) -> Settings:
    """Return the settings; the command line puts its arguments over the variables before.

    Raises:
        SettingsError: variables are missing or wrong; with all of them.
    """
    read = Environment(variables)
    settings = Settings(
        identity=Identity(
            service=read.text(labels.ENV_SERVICE, ""),
            pod=read.text(labels.ENV_POD, "local"),
            pod_ip=read.text(labels.ENV_POD_IP, "127.0.0.1"),
            gpu_class=read.text(labels.ENV_GPU_CLASS, "none"),
        ),
        sessions=_sessions(read),
        hearing=_hearing(read),
        engine=EngineSettings(
            model=read.required("AVATAR_MODEL"),
            avatars=read.required("AVATAR_AVATAR_FOLDER"),
            device=device(variables),
            batch_size=read.integer("AVATAR_BATCH_SIZE", 4, 1, 1024),
            gpu_profile=read.parsed(labels.ENV_GPU_PROFILE, None, _json_object, "a JSON object"),
            simulated_neighbour=read.text("AVATAR_SIMULATED_NEIGHBOUR", ""),
            precision=_unless_auto(read, labels.ENV_PRECISION, PRECISIONS),
            decoder=read.choice(labels.ENV_DECODER, "sd-vae", DECODERS),
            verify=read.boolean("AVATAR_VERIFY_MODEL", default=True),
            version=_unless_auto(read, labels.ENV_MODEL_VERSION, VERSIONS),
        ),
        admin=AdminSettings(
            token=read.secret(labels.ENV_ADMIN_TOKEN),
            metrics_open=read.boolean(labels.ENV_METRICS_OPEN),
        ),
        sessions_listen=read.address("AVATAR_LISTEN", Address("127.0.0.1", labels.SESSIONS_PORT)),
        admin_listen=read.address("AVATAR_ADMIN", Address("127.0.0.1", labels.ADMIN_PORT)),
        log_format=labels.LogFormat(read.choice(labels.ENV_LOG_FORMAT, "text", ("json", "text"))),
    )
    read.check(SettingsError)
    return settings


@dataclass(frozen=True, slots=True)
class DrainSettings:
    """What `avatar-runtime drain` is told."""

    url: str
    """The pod's own administration listener."""
    token: str = field(repr=False)
    timeout_s: int
    """How long `--wait` waits for sessions to end."""


def drain_from_env(variables: Mapping[str, str]) -> DrainSettings:
    """Return the settings of `drain`; a preStop hook has the environment of its container."""
    read = Environment(variables)
    host = read.text(labels.ENV_POD_IP, "127.0.0.1")
    settings = DrainSettings(
        url=f"http://[{host}]:{labels.ADMIN_PORT}"
        if ":" in host
        else f"http://{host}:{labels.ADMIN_PORT}",
        token=read.secret(labels.ENV_ADMIN_TOKEN),
        timeout_s=_drain_timeout_s(read),
    )
    read.check(SettingsError)
    return settings


def hearing(variables: Mapping[str, str]) -> HearingSettings:
    """Return how a command hears a file: as a session would hear it.

    Raises:
        SettingsError: variables are wrong; with all of them.
    """
    read = Environment(variables)
    settings = _hearing(read)
    read.check(SettingsError)
    return settings


def device(variables: Mapping[str, str]) -> str:
    """Return the device that the machine names.

    Else a pod of a service gets `cuda`, so that a broken driver shows at once and no pod serves
    from the CPU unseen; who starts a runtime by hand gets `auto`.
    """
    read = Environment(variables)
    in_pod = bool(read.text(labels.ENV_SERVICE, ""))
    return read.text("AVATAR_DEVICE", "cuda" if in_pod else "auto")


def _unless_auto(read: Environment, name: str, known: tuple[str, ...]) -> str | None:
    chosen = read.choice(name, "auto", ("auto", *known))
    return None if chosen == "auto" else chosen


def _drain_timeout_s(read: Environment) -> int:
    return read.integer(labels.ENV_DRAIN_TIMEOUT_S, 3600, 0, _DAY_S)


def _sessions(read: Environment) -> SessionSettings:
    rates = tuple(str(rate) for rate in FRAME_RATES)
    return SessionSettings(
        capacity=read.integer(labels.ENV_CAPACITY, 4, 1, 1024),
        avatars=read.names(labels.ENV_AVATARS),
        fps=int(read.choice(labels.ENV_FPS, "25", rates)),
        max_duration_s=read.integer(labels.ENV_MAX_DURATION_S, 7200, 1, _DAY_S),
        idle_timeout_s=read.integer(labels.ENV_IDLE_TIMEOUT_S, 300, 1, _DAY_S),
        drain_timeout_s=_drain_timeout_s(read),
    )


def _hearing(read: Environment) -> HearingSettings:
    return HearingSettings(
        silence_dbfs=read.parsed(
            "AVATAR_SILENCE_DBFS", _USUAL_DBFS, _level, "off or a whole number from -90 to -20"
        ),
        lookahead_ms=int(read.choice("AVATAR_LOOKAHEAD_MS", "0", LOOKAHEADS_MS)),
    )


def _level(text: str) -> int | None:
    """Return a level from -90 to -20 dBFS, or `None` for `off`."""
    if text == "off":
        return None
    level = whole(text)
    if not -90 <= level <= -20:
        raise ValueError(text)
    return level


def _json_object(text: str) -> str | None:
    """Return the text of a JSON object as it is."""
    if not isinstance(json.loads(text), dict):
        raise ValueError(text)
    return text
