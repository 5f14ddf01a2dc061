"""Makes certificates with the openssl program, as a user would."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """A certificate for localhost and 127.0.0.1 that vouches for itself."""

    certificate: Path
    key: Path

    def client(self) -> ssl.SSLContext:
        """Return the context of a client that trusts this certificate only."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def replace(self, other: Certificate) -> None:
        """Put another certificate into the files of this one, the key first."""
        self.key.write_bytes(other.key.read_bytes())
        self.certificate.write_bytes(other.certificate.read_bytes())

    @property
    def der(self) -> bytes:
        """The certificate as a peer shows it."""
        return ssl.PEM_cert_to_DER_cert(self.certificate.read_text())


def make(folder: Path, name: str = "tls") -> Certificate:
    """Make a key and a certificate in a folder."""
    made = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-nodes", "-days", "2", "-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return made


def trusting_anyone() -> ssl.SSLContext:
    """Return the context of a client that looks at a certificate and does not check it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
