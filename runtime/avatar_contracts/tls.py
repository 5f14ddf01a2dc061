"""The certificate of a listener, which is read again when its files change.

New connections get the new certificate. Open connections keep theirs: TLS uses a certificate only
in the handshake.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from avatar_contracts.environment import Environment

CHECK_S: Final = 1.0
"""How often the files are looked at; the kubelet updates a mounted Secret within a minute or so."""
MAX_BYTES: Final = 1024 * 1024
"""Size of the largest file that is read."""
HANDSHAKE_S: Final = 10.0
"""How long a caller may take for its handshake."""
SHUTDOWN_S: Final = 5.0
"""How long a caller may take to answer the end of the encrypted stream."""
WRITE_BUFFER_BYTES: Final = 64 * 1024
"""What waits unencrypted for a caller; the default of asyncio hides four times as much."""

_Stamp = tuple[tuple[int, int, int], ...]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the certificate of a listener is, in PEM."""

    certificate: str
    """The certificate, followed by those of its issuers."""
    key: str
    """The private key, without a passphrase."""


def from_env(read: Environment, certificate: str, key: str) -> CertificateFiles | None:
    """Return the files that two variables name, or `None` if neither is set."""
    files = CertificateFiles(read.text(certificate, ""), read.text(key, ""))
    if bool(files.certificate) != bool(files.key):
        missing, given = (key, certificate) if files.certificate else (certificate, key)
        read.note(missing, None, f"set, because {given} is set")
    return files if files.certificate and files.key else None


class CertificateError(Exception):
    """The files do not contain a usable certificate and its key."""


class ServerCertificate:
    """The certificate that a listener presents."""

    def __init__(self, files: CertificateFiles) -> None:
        """Read the files.

        Raises:
            CertificateError: they cannot be used.
        """
        self._files = files
        self._stamp = self._read_stamp()
        self._latest = _load(files)
        self.context = _load(files)
        """The context of the listener. Each handshake uses the certificate that was read last."""
        self.context.sni_callback = self._use_latest

    async def follow(self) -> None:
        """Read the files again whenever they have changed, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            self.reload()

    def reload(self) -> bool:
        """Read the files again if they have changed, and return whether there is a new certificate.

        Files that are missing or cannot be used are reported once, and the certificate stays.
        """
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._latest = _load(self._files)
        except CertificateError as error:
            _log.error("certificate not reloaded, the previous one stays error=%s", error)
            return False
        _log.info("certificate reloaded file=%s", self._files.certificate)
        return True

    def _use_latest(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _: str | None, __: ssl.SSLContext
    ) -> None:
        connection.context = self._latest

    def _read_stamp(self) -> _Stamp:
        """Return what changes with the files; empty if one is missing."""
        try:
            found = [Path(name).stat() for name in (self._files.certificate, self._files.key)]
        except OSError:
            return ()
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)


def _load(files: CertificateFiles) -> ssl.SSLContext:
    for name in (files.certificate, files.key):
        _check_size(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
    except ssl.SSLError as error:
        reason = (error.reason or "the file has no PEM block").replace("_", " ").lower()
        text = f"{files.certificate} and {files.key} are not a certificate and its key: {reason}"
        raise CertificateError(text) from error
    except OSError as error:
        raise CertificateError(f"{error.filename or files.key}: {error.strerror}") from error
    except _PassphraseError as error:
        raise CertificateError(f"{files.key} has a passphrase, must have none") from error
    return context


def _check_size(name: str) -> None:
    try:
        size = Path(name).stat().st_size
    except OSError as error:
        raise CertificateError(f"{name}: {error.strerror}") from error
    if size > MAX_BYTES:
        raise CertificateError(f"{name} has {size} bytes, must have at most {MAX_BYTES}")


class _PassphraseError(Exception):
    pass


def _no_passphrase() -> NoReturn:
    """Refuse: without this, OpenSSL asks for the passphrase on the terminal."""
    raise _PassphraseError
