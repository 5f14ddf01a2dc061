"""The settings of the runtime, from its environment and its arguments; the only reader of both.

The variables have the names that the operator sets in the pod. Unknown variables are ignored:
Kubernetes sets `AVATAR_…_SERVICE_HOST` in pods next to a Service with such a name.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_contracts import labels, tls
from avatar_contracts.environment import Address as Address
from avatar_contracts.environment import Environment, whole
from avatar_runtime.engine.device import DECODERS, PRECISIONS, VERSIONS
from avatar_runtime.errors import SettingsError
from avatar_runtime.protocol.turn_detection import TurnDetection
from avatar_runtime.upstream.settings import UpstreamSettings, read_upstream

if TYPE_CHECKING:
    from collections.abc import Mapping

FRAME_RATES: Final = (10, 16, 20, 25)
LOOKAHEADS_MS: Final = tuple(str(ms) for ms in range(0, 401, 40))
_DAY_S: Final = 86_400
_LABEL: Final = f"at most {labels.MAX_DISCLOSURE} printable characters in one line"
_DEFAULT_DBFS: Final[int | None] = -50


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of this runtime in the cluster."""

    service: str
    """`NAMESPACE/NAME` of the AvatarService; empty outside a cluster."""
    pod: str
    """Name of the pod."""
    pod_ip: str
    """Address of the listeners for commands that run in the pod."""
    gpu_class: str
    """Name of the GPUProfile; `none` outside a cluster."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The limits of the sessions of this pod."""

    capacity: int | None
    """Maximum number of sessions; further connections are refused. `None` uses the number that
    the device carries by its own calibration."""
    avatars: tuple[str, ...]
    """Avatars that clients can select, the default first; empty for all in the folder."""
    fps: int
    """Frames per second; divides every supported sample rate."""
    max_duration_s: int
    """Maximum duration of a session in seconds."""
    idle_timeout_s: int
    """Seconds without a message or a frame after which a session ends."""
    drain_timeout_s: int
    """Seconds that SIGTERM waits for sessions to end."""
    turn_detection: TurnDetection | None
    """How turns are detected in a session that does not say it; `None` leaves it to commits."""
    resume_ttl_s: int = 30
    """Seconds for which a session waits for a client that has lost its connection; 0 ends it."""
    disclosure: str = ""
    """Text that sessions report as `avatar.disclosure`; empty uses that of each avatar."""


@dataclass(frozen=True, slots=True)
class AudioSettings:
    """How the audio of every session is processed."""

    silence_dbfs: int | None
    """Threshold of the voice activity gate: level of 20 ms of audio, dBFS, that counts as speech.
    The model draws the frames around speech. In longer silence the avatar's source frame is sent,
    which needs no device. -50 is below quiet speech (a voice that is 30 dB too low still counts)
    and above the noise of a fair microphone. `None` draws every frame."""
    lookahead_ms: int
    """Audio after the trained window that the audio encoder uses for a frame, milliseconds. All
    frames are delayed by it. 0 uses the window only; docs/engine.md shows the effect."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the engine loads, and on which device."""

    model: str
    """Folder with the upstream layout."""
    avatars: str
    """Folder with one sub-folder for each avatar."""
    device: str
    """`cuda`, `cpu`, `simulated:CLASS`, or `auto`: `cuda` if available, otherwise `cpu`."""
    batch_size: int
    """Frames in the largest batch."""
    gpu_profile: str | None
    """The operator's profile of the GPU, a JSON object; `None` uses the packaged profile."""
    simulated_neighbour: str
    """File with the MiB that another process uses on a simulated GPU; empty for no such process."""
    precision: str | None
    """`fp32`, `bf16` or `fp16`; `None` uses fp16 on CUDA and fp32 on the CPU."""
    decoder: str
    """`sd-vae`, or `taesd`, which is faster and gives other images."""
    verify: bool
    """Whether the hashes of a converted model are verified at the start; true by default."""
    version: str | None
    """Version of the model, if the folder has several; `None` uses the newest."""


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """Who can use the admin listener, and who can open sessions."""

    token: str = field(repr=False)
    """Bearer token of the operator. Without any token, a loopback listener is open and any other
    is closed."""
    metrics_open: bool
    """Whether `/metrics` needs no token."""
    state_token: str = field(default="", repr=False)
    """Bearer token that only reads the state and the metrics."""
    session_token: str = field(default="", repr=False)
    """Token that opens sessions; empty if sessions need no token."""
    token_folder: str = ""
    """Folder with one file for each token, which is read at each use; empty outside a cluster."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of `avatar-runtime serve`."""

    identity: Identity
    sessions: SessionSettings
    audio: AudioSettings
    engine: EngineSettings
    admin: AdminSettings
    sessions_listen: Address
    admin_listen: Address
    log_format: labels.LogFormat
    prepare: bool = False
    """Whether the page may prepare avatars; the listener is then a loopback address."""
    certificate: tls.CertificateFiles | None = None
    """The certificate of the sessions listener; `None` serves without encryption."""
    upstream: UpstreamSettings = field(default_factory=UpstreamSettings)
    """The source of the speech."""


def from_env(variables: Mapping[str, str]) -> Settings:
    """Return the settings. The command line has replaced variables by its arguments.

    Raises:
        SettingsError: variables are missing or wrong; it names all of them.
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
        audio=_audio(read),
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
        admin=_admin(read),
        sessions_listen=read.address("AVATAR_LISTEN", Address("127.0.0.1", labels.SESSIONS_PORT)),
        admin_listen=read.address("AVATAR_ADMIN", Address("127.0.0.1", labels.ADMIN_PORT)),
        log_format=_log_format(read),
        prepare=read.boolean("AVATAR_PREPARE"),
        certificate=tls.from_env(read, "AVATAR_TLS_CERTIFICATE", "AVATAR_TLS_KEY"),
        upstream=read_upstream(read),
    )
    if settings.prepare:
        _check_preparation(read, settings)
    read.check(SettingsError)
    return settings


@dataclass(frozen=True, slots=True)
class DrainSettings:
    """The settings of `avatar-runtime drain`."""

    url: str
    """URL of the admin listener of the pod."""
    admin: AdminSettings
    timeout_s: int
    """How long `--wait` waits for sessions to end, seconds."""


def drain_from_env(variables: Mapping[str, str]) -> DrainSettings:
    """Return the settings of `drain`.

    Raises:
        SettingsError: a variable is wrong.
    """
    read = Environment(variables)
    host = read.text(labels.ENV_POD_IP, "127.0.0.1")
    settings = DrainSettings(
        url=f"http://[{host}]:{labels.ADMIN_PORT}"
        if ":" in host
        else f"http://{host}:{labels.ADMIN_PORT}",
        admin=_admin(read),
        timeout_s=_drain_timeout_s(read),
    )
    read.check(SettingsError)
    return settings


def audio(variables: Mapping[str, str]) -> AudioSettings:
    """Return the audio settings for a command; they are the same for sessions.

    Raises:
        SettingsError: variables are wrong; it names all of them.
    """
    read = Environment(variables)
    settings = _audio(read)
    read.check(SettingsError)
    return settings


def job_device(variables: Mapping[str, str]) -> str:
    """Return the device of a Job that prepares an avatar on a GPU.

    A GPU that does not work is an error, and not a slow success on the CPU. The command knows no
    simulated devices.
    """
    name = Environment(variables).text("AVATAR_DEVICE", "cuda")
    return "cpu" if name.startswith("simulated") else name


def device(variables: Mapping[str, str]) -> str:
    """Return the device that `AVATAR_DEVICE` names.

    The default in a pod of a service is `cuda`: a broken driver stops the pod, which would
    otherwise serve from the CPU. Elsewhere the default is `auto`.
    """
    read = Environment(variables)
    in_pod = bool(read.text(labels.ENV_SERVICE, ""))
    return read.text("AVATAR_DEVICE", "cuda" if in_pod else "auto")


def _admin(read: Environment) -> AdminSettings:
    return AdminSettings(
        token=read.secret(labels.ENV_ADMIN_TOKEN),
        metrics_open=read.boolean(labels.ENV_METRICS_OPEN),
        state_token=read.secret(labels.ENV_STATE_TOKEN),
        session_token=read.secret(labels.ENV_SESSION_TOKEN),
        token_folder=read.text(labels.ENV_TOKEN_FOLDER, ""),
    )


def _check_preparation(read: Environment, settings: Settings) -> None:
    """Note what is wrong for a runtime that prepares avatars for its page."""
    listen, avatars = settings.sessions_listen, settings.engine.avatars
    if not listen.is_loopback:
        limit = "a loopback address such as 127.0.0.1:8080, because --prepare is set"
        read.note("AVATAR_LISTEN", str(listen), limit)
    if avatars and not (os.path.isdir(avatars) and os.access(avatars, os.W_OK | os.X_OK)):
        read.note("AVATAR_AVATAR_FOLDER", avatars, "a writable folder, because --prepare is set")
    if settings.sessions.avatars:
        limit = "unset, because --prepare is set: a new avatar would not be offered"
        read.note(labels.ENV_AVATARS, ",".join(settings.sessions.avatars), limit)


def _unless_auto(read: Environment, name: str, known: tuple[str, ...]) -> str | None:
    chosen = read.choice(name, "auto", ("auto", *known))
    return None if chosen == "auto" else chosen


def _drain_timeout_s(read: Environment) -> int:
    return read.integer(labels.ENV_DRAIN_TIMEOUT_S, 3600, 0, _DAY_S)


def _sessions(read: Environment) -> SessionSettings:
    rates = tuple(str(rate) for rate in FRAME_RATES)
    known = (labels.SERVER_VAD, labels.NO_TURN_DETECTION)
    detection = read.choice(labels.ENV_TURN_DETECTION, labels.SERVER_VAD, known)
    return SessionSettings(
        capacity=read.optional_integer(labels.ENV_CAPACITY, 1, 1024),
        avatars=read.names(labels.ENV_AVATARS),
        fps=int(read.choice(labels.ENV_FPS, "25", rates)),
        max_duration_s=read.integer(labels.ENV_MAX_DURATION_S, 7200, 1, _DAY_S),
        idle_timeout_s=read.integer(labels.ENV_IDLE_TIMEOUT_S, 300, 1, _DAY_S),
        drain_timeout_s=_drain_timeout_s(read),
        turn_detection=TurnDetection() if detection == labels.SERVER_VAD else None,
        resume_ttl_s=read.integer(labels.ENV_RESUME_TTL_S, 30, 0, 300),
        disclosure=read.parsed(labels.ENV_DISCLOSURE, "", _label, _LABEL),
    )


def _label(text: str) -> str:
    if len(text) > labels.MAX_DISCLOSURE or not text.isprintable():
        raise ValueError(text)
    return text


def _audio(read: Environment) -> AudioSettings:
    return AudioSettings(
        silence_dbfs=read.parsed(
            "AVATAR_SILENCE_DBFS", _DEFAULT_DBFS, _level, "off or a whole number from -90 to -20"
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


def log_format(environment: Mapping[str, str]) -> labels.LogFormat:
    """Return the format of the log alone, for commands without other settings.

    Raises:
        SettingsError: the variable has another value.
    """
    read = Environment(environment)
    found = _log_format(read)
    read.check(SettingsError)
    return found


def _log_format(read: Environment) -> labels.LogFormat:
    return labels.LogFormat(read.choice(labels.ENV_LOG_FORMAT, "text", ("json", "text")))
