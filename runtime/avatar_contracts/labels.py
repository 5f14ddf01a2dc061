"""The names that the operator, the gateway and the runtime share."""

from __future__ import annotations

from enum import Enum
from typing import Final

GROUP: Final = "avatar.musetalk.io"
VERSION: Final = "v1alpha1"
SERVICES: Final = "avatarservices"
SERVICE_KIND: Final = "AvatarService"
TENANTS: Final = "avatartenants"

LABEL_NAME: Final = "app.kubernetes.io/name"
RUNTIME_NAME: Final = "avatar-runtime"
"""The value of `LABEL_NAME` on each runtime pod."""
LABEL_SERVICE: Final = f"{GROUP}/service"
"""The name of the AvatarService that a runtime pod serves."""
LABEL_RESERVE: Final = f"{GROUP}/reserve"
"""Marks a pod of the warm pool, which gateways give sessions last."""
RESERVED: Final = "true"
LABEL_GPU_CLASS: Final = f"{GROUP}/gpu-class"
"""The GPU class that a runtime pod was created for."""
ANNOTATION_COST_PER_HOUR: Final = f"{GROUP}/cost-per-hour"
"""The cost of the GPU class of a runtime pod when the pod was created, a decimal number."""
LABEL_MADE_FOR: Final = f"{GROUP}/made-for"
"""On an adopted pod: the name of the service that it was created for, whose token it has."""

SESSIONS_PORT: Final = 8080
SESSIONS_PORT_NAME: Final = "sessions"
ADMIN_PORT: Final = 9090
ADMIN_PORT_NAME: Final = "admin"

STATE_PATH: Final = "/control/v1/state"
"""The state document on the administration port; `?watch=1` streams it (see `state`)."""
USAGE_PATH: Final = "/control/v1/usage"
"""What the sessions of a pod have used; `?watch=1` streams it (see `usage`)."""
SESSIONS_PATH: Final = "/control/v1/sessions"
"""Control path that takes a session over; below it are the sessions of the pod by their ids."""
SNAPSHOTS_PATH: Final = "/control/v1/snapshots"
"""Path of a pod with the snapshots of the sessions that one gateway carries, as a stream."""
DRAIN_PATH: Final = "/control/v1/drain"

SERVICE_HEADER: Final = "Avatar-Service"
"""The header by which a gateway gives a pod the name that its caller asked for."""
CONNECTION_HEADER: Final = "Avatar-Connection"
"""What the gateway calls the connection to a pod: `GATEWAY/NUMBER`."""
MAX_CONNECTION_NAME: Final = 96
USAGE_HEADER: Final = "Avatar-Usage"
"""The header with the text by which gateways know whom a connection counts for.

A pod cannot read it, and returns it in its usage stream (`usage.ConnectionUsageDocument`).
"""
CALLER_HEADER: Final = "Avatar-Caller"
"""The header by which a gateway tells a pod which connections come from one caller.

It is a code for the caller's address (`tokens.caller_code`), which a pod cannot read.
"""
RESUME_HEADER: Final = "Avatar-Resume-Seconds"
"""In the answer of a pod to a handshake: how long it holds a session whose connection is lost."""
SESSION_HEADER: Final = "Avatar-Session"
"""The header by which a pod tells a gateway the id of the session that a connection is for.

A gateway does not pass it on.
"""
MAX_DURATION_HEADER: Final = "Avatar-Max-Duration"
"""The header by which a gateway shortens a session to the limit of its tenant, in seconds."""
SESSION_TOKEN_HEADER: Final = "Avatar-Session-Token"
"""The header by which a gateway proves to a pod that it may open sessions.

It has one token for each key that the gateway holds, with commas between them.
"""

LABEL_KEY_GENERATION: Final = f"{GROUP}/key-generation"
"""The generation of the master key that the tokens of a runtime pod come from."""

TOKEN_FILE: Final = "token"
"""The control token in the control Secret of a service, and in the folder `ENV_TOKEN_FOLDER`."""
STATE_TOKEN_FILE: Final = "state-token"
SESSION_TOKEN_FILE: Final = "session-token"
GATEWAY_KEY_FILE: Final = "key"
"""The gateway key in the Secret of the gateways, and in the folder in which it is mounted."""
PREVIOUS_PREFIX: Final = "previous-"
"""Before the names of what is derived from the previous master key, which is valid as well."""

# Variables that the operator sets in the container of a runtime pod, and the runtime reads.
ENV_ADMIN_TOKEN: Final = "AVATAR_ADMIN_TOKEN"
"""The control token outside a cluster, and in pods of earlier releases."""
ENV_STATE_TOKEN: Final = "AVATAR_STATE_TOKEN"
ENV_SESSION_TOKEN: Final = "AVATAR_SESSION_TOKEN"
ENV_TOKEN_FOLDER: Final = "AVATAR_TOKEN_FOLDER"
"""The folder in which the control Secret is mounted; the kubelet updates its files."""
ENV_AVATARS: Final = "AVATAR_AVATARS"
ENV_CAPACITY: Final = "AVATAR_CAPACITY"
ENV_DECODER: Final = "AVATAR_DECODER"
ENV_DISCLOSURE: Final = "AVATAR_DISCLOSURE"
ENV_DOWNLOAD_AUTHORIZATION: Final = "AVATAR_DOWNLOAD_AUTHORIZATION"
"""The value of the header Authorization with which models are downloaded."""
ENV_DRAIN_TIMEOUT_S: Final = "AVATAR_DRAIN_TIMEOUT_S"
ENV_FPS: Final = "AVATAR_FPS"
ENV_GPU_CLASS: Final = "AVATAR_GPU_CLASS"
ENV_GPU_PROFILE: Final = "AVATAR_GPU_PROFILE"
ENV_IDLE_TIMEOUT_S: Final = "AVATAR_IDLE_TIMEOUT_S"
ENV_LOG_FORMAT: Final = "AVATAR_LOG_FORMAT"
ENV_MAX_DURATION_S: Final = "AVATAR_MAX_DURATION_S"
ENV_METRICS_OPEN: Final = "AVATAR_METRICS_OPEN"
ENV_MODEL_VERSION: Final = "AVATAR_MODEL_VERSION"
ENV_POD: Final = "AVATAR_POD"
ENV_POD_IP: Final = "AVATAR_POD_IP"
ENV_PRECISION: Final = "AVATAR_PRECISION"
ENV_RESUME_TTL_S: Final = "AVATAR_RESUME_TTL_S"
ENV_SERVICE: Final = "AVATAR_SERVICE"
ENV_TURN_DETECTION: Final = "AVATAR_TURN_DETECTION"
"""How turns are detected in sessions that do not say it; the next two are its values."""
SERVER_VAD: Final = "server_vad"
NO_TURN_DETECTION: Final = "none"
ENV_UPSTREAM: Final = "AVATAR_UPSTREAM"
"""The source of the speech as JSON, without its keys; empty in mode drive (see `upstream`)."""
ENV_UPSTREAM_KEYS: Final = {
    "bridge": "AVATAR_UPSTREAM_KEY",
    "speech": "AVATAR_SPEECH_KEY",
    "chat": "AVATAR_CHAT_KEY",
    "transcription": "AVATAR_TRANSCRIPTION_KEY",
}
"""The variables with the API keys of the legs."""

MAX_DISCLOSURE: Final = 100
"""Characters of the label that says that a video is generated, at most: one line of a picture."""


class LogFormat(Enum):
    """The values of `ENV_LOG_FORMAT`, which all three read."""

    JSON = "json"
    """One JSON object for each record, for programs that collect logs."""
    TEXT = "text"
    """One line of text for each record, for people."""


THE_REST: Final = "(other)"
"""What stands for names beyond a limit in series and figures; no object can have this name."""
