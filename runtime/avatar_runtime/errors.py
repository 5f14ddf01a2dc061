"""Every error that the runtime raises on purpose.

AvatarRuntimeError
├── SettingsError        variables or arguments that stop the process
├── ClientError          a fault of the client; it has no effect on other sessions
│   ├── ProtocolError    one event of a session, answered with an `error` event
│   ├── Rejection        a connection rejected before the upgrade, answered with an HTTP status
│   └── IllegalEvent     an event that the state of a turn does not allow
├── AssetError           a model or an avatar on disk that cannot be used
├── SourceError          a video, photo or folder of pictures that cannot become an avatar
├── EngineError          a failed batch; every response that waits for it fails
│   └── DeviceMemoryError  the device has not enough memory for the batch
├── EncoderError         a frame that the video encoder could not encode
├── FetchError           a file of a URL that is not allowed, or that is another file
│   └── FetchFailed      a server that did not deliver the file; it may do so later
└── DeliveryError        the admin listener did not answer a command
"""

from __future__ import annotations

import errno
import json
from itertools import islice
from math import isfinite
from typing import TYPE_CHECKING, Final

from avatar_contracts.environment import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN_CHARACTERS: Final = 64  # docs/wire-protocol.md, "Errors": longer values are cut
_SHOWN_URL: Final = 200
_SAFE_BITS: Final = 53  # RFC 8259 §6: integers that every JSON reader accepts
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)
# Errors of a path that is wrong; those of a disk, a network volume or the machine may pass.
_WRONG_PATH: Final = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EROFS,
        errno.ENXIO,
        errno.EINVAL,
    }
)


class AvatarRuntimeError(Exception):
    """Base of all errors this package raises on purpose."""

    permanent: bool | None = False
    """Whether another attempt with the same inputs fails as well; `None`: it depends on the cause,
    as `is_permanent` finds it."""


class SettingsError(AvatarRuntimeError, InvalidSettings):
    """Variables or arguments that are missing or wrong."""

    permanent = True


class ClientError(AvatarRuntimeError):
    """A fault of the client. It is reported to the client and has no effect on other sessions."""


class ProtocolError(ClientError):
    """An event that the session rejects; the event changes nothing.

    `close` is the WebSocket code to close the connection with, or `None` to keep it open.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        value: object = None,
        limit: object = None,
        close: int | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.param = param
        self.value = value
        self.limit = limit
        self.close = close

    def __str__(self) -> str:
        return self.message


class Rejection(ClientError):
    """A rejected connection: an HTTP status, and the close code for browsers."""

    def __init__(
        self,
        status: int,
        close: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        value: object = None,
        limit: object = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.close = close
        self.code = code
        self.message = message
        self.param = param
        self.value = value
        self.limit = limit
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


class IllegalEvent(ClientError):
    """An event that the state of a turn does not allow."""

    def __init__(self, state: str, event: str) -> None:
        super().__init__(state, event)
        self.state = state
        self.event = event

    def __str__(self) -> str:
        return f"event {self.event!r} is not allowed while the turn is {self.state}"


class AssetError(AvatarRuntimeError):
    """A file of a model or an avatar that is missing or wrong."""

    def __init__(self, path: str, problem: str, *, permanent: bool | None = None) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem
        self.permanent = permanent

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class SourceError(AvatarRuntimeError):
    """A video, a photo or a folder of pictures that cannot become an avatar.

    `fault` completes a sentence that starts with the path, such as "is empty".
    """

    def __init__(self, path: str, fault: str, *, permanent: bool | None = None) -> None:
        super().__init__(path, fault)
        self.path = path
        self.fault = fault
        self.permanent = permanent

    def __str__(self) -> str:
        return f"{self.path}: {self.fault}"


class EngineError(AvatarRuntimeError):
    """A batch that failed as a whole, or an engine that cannot run."""


class DeviceMemoryError(EngineError):
    """The device has not enough memory; `wanted_bytes` is `None` if the size is unknown."""

    def __init__(self, wanted_bytes: int | None, free_bytes: int) -> None:
        super().__init__(wanted_bytes, free_bytes)
        self.wanted_bytes = wanted_bytes
        self.free_bytes = free_bytes

    def __str__(self) -> str:
        wanted = "more" if self.wanted_bytes is None else f"{self.wanted_bytes}"
        return f"{wanted} bytes wanted on the device, {self.free_bytes} are free"


class EncoderError(AvatarRuntimeError):
    """A frame that the video encoder could not encode."""


class DeliveryError(AvatarRuntimeError):
    """A command that the admin listener did not accept."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(url, problem)
        self.url = url
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.url}: {self.problem}"


def is_permanent(error: BaseException) -> bool:
    """Return whether another attempt with the same inputs fails with this error as well.

    An error that does not know it is permanent, unless the disk, the memory or the machine is its
    cause.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, AvatarRuntimeError) and seen.permanent is not None:
            return seen.permanent
        if isinstance(seen, MemoryError):
            return False
        if isinstance(seen, OSError) and seen.errno is not None and seen.errno not in _WRONG_PATH:
            return False
        seen = seen.__cause__ or seen.__context__
    return True


def shown(value: object) -> object:
    """Return `value` as errors show it: a scalar, with text cut to 64 characters."""
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > _SAFE_BITS:
        return "a huge number"
    return value


def quoted(value: object) -> str:
    """Return `value` as messages of errors write it: as JSON, cut to about 64 characters.

    Quotation marks tell the text "64" from the number, and make an empty text visible.
    """
    if isinstance(value, str):
        return json.dumps(_cut(value), ensure_ascii=False)
    if not isinstance(value, (dict, list)):
        plain = shown(value)
        return plain if isinstance(plain, str) else json.dumps(plain)
    # A large value is written only as far as it is shown.
    parts = islice(_ENCODER.iterencode(value), _SHOWN_CHARACTERS + 1)
    text = "".join(part[: _SHOWN_CHARACTERS + 1] for part in parts)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def supported(values: Iterable[object]) -> str:
    """Return the supported values as the end of an error message."""
    return "supported: " + ", ".join(str(value) for value in values)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS]


class FetchError(AvatarRuntimeError):
    """A file of a URL that is not allowed, or that is not the wanted file."""

    permanent = True

    def __init__(self, url: str, fault: str) -> None:
        super().__init__(url, fault)
        self.url = url
        self.fault = fault

    def __str__(self) -> str:
        return f"{self.url[:_SHOWN_URL]}: {self.fault}"


class FetchFailed(FetchError):
    """A server did not deliver the file of a URL; another attempt may succeed."""

    permanent = False


class CacheError(AvatarRuntimeError):
    """The cache of downloaded models cannot hold what is downloaded; space may become free."""

    permanent = False

    def __init__(self, path: str, fault: str) -> None:
        super().__init__(path, fault)
        self.path = path
        self.fault = fault

    def __str__(self) -> str:
        return f"model cache {self.path}: {self.fault}"
