"""Creates the keys and certificates of the cluster, new for every start."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LIFETIME: Final = datetime.timedelta(days=30)
LEEWAY: Final = datetime.timedelta(minutes=5)  # for clocks that are set back

SERVER_NAMES: Final = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
SERVER_ADDRESSES: Final = ("127.0.0.1", "10.96.0.1")  # the second address is Service `kubernetes`

CLIENTS: Final[Mapping[str, tuple[str, str | None]]] = {
    # file name: user, group
    "admin": ("kubernetes-admin", "system:masters"),
    "process-node": ("process-node", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", None),
    "kube-scheduler": ("system:kube-scheduler", None),
    "kubelet-client": ("kube-apiserver-kubelet-client", "system:masters"),
    "etcd-client": ("kube-apiserver-etcd-client", None),
}


@dataclass(frozen=True, slots=True)
class Pki:
    """The files of the certificates, by the name of the component."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.certificate("ca")

    @property
    def service_account_key(self) -> Path:
        return self.key("service-account")

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"


@dataclass(frozen=True, slots=True)
class _Pair:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def write(pki: Pki, now: datetime.datetime, addresses: Sequence[str] = ()) -> None:
    """Write the authority, a serving certificate, client certificates and the token key.

    `addresses` are IP addresses of the API server beside those of every cluster.

    The front proxy, which authenticates users to aggregated APIs, has its own authority, as the API
    server requires.
    """
    pki.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = _authority("localcluster", now)
    front_proxy = _authority("localcluster-front-proxy", now)
    _store(pki, "ca", authority)
    _store(pki, "front-proxy-ca", front_proxy)
    _store(pki, "server", _server(authority, now, addresses))
    for name, (user, group) in CLIENTS.items():
        _store(pki, name, _client(authority, user, group, now))
    _store(pki, "front-proxy", _client(front_proxy, "front-proxy-client", None, now))
    _store_key(pki.service_account_key, ec.generate_private_key(ec.SECP256R1()))


def issue_server(
    pki: Pki,
    name: str,
    names: Sequence[str],
    now: datetime.datetime,
    addresses: Sequence[str] = (),
) -> None:
    """Write a serving certificate of the cluster's authority for other names, and its key."""
    authority = _stored_authority(pki)
    alternative = x509.SubjectAlternativeName(
        [
            *(x509.DNSName(each) for each in names),
            *(x509.IPAddress(ipaddress.ip_address(each)) for each in addresses),
        ]
    )
    uses = [ExtendedKeyUsageOID.SERVER_AUTH]
    _store(pki, name, _leaf(authority, _name(name, None), uses, alternative, now))


def issue_client(pki: Pki, name: str, user: str, group: str | None, now: datetime.datetime) -> None:
    """Write a client certificate of the cluster's authority, and its key."""
    _store(pki, name, _client(_stored_authority(pki), user, group, now))


def _stored_authority(pki: Pki) -> _Pair:
    key = serialization.load_pem_private_key(pki.key("ca").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return _Pair(key, x509.load_pem_x509_certificate(pki.ca.read_bytes()))


def _authority(name: str, now: datetime.datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name, None)
    builder = (
        _builder(subject, subject, key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return _Pair(key, builder.sign(key, hashes.SHA256()))


def _server(authority: _Pair, now: datetime.datetime, more: Sequence[str]) -> _Pair:
    names = [x509.DNSName(name) for name in SERVER_NAMES]
    texts = dict.fromkeys((*SERVER_ADDRESSES, *more))
    addresses = [x509.IPAddress(ipaddress.ip_address(text)) for text in texts]
    # etcd uses its serving certificate also as a client of itself.
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    alternative = x509.SubjectAlternativeName([*names, *addresses])
    return _leaf(authority, _name("localcluster-server", None), uses, alternative, now)


def _client(authority: _Pair, user: str, group: str | None, now: datetime.datetime) -> _Pair:
    return _leaf(authority, _name(user, group), [ExtendedKeyUsageOID.CLIENT_AUTH], None, now)


def _leaf(
    authority: _Pair,
    subject: x509.Name,
    uses: list[x509.ObjectIdentifier],
    alternative: x509.SubjectAlternativeName | None,
    now: datetime.datetime,
) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(subject, authority.certificate.subject, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    if alternative is not None:
        builder = builder.add_extension(alternative, critical=False)
    return _Pair(key, builder.sign(authority.key, hashes.SHA256()))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LEEWAY)
        .not_valid_after(now + LIFETIME)
        # Python's TLS is strict since 3.13 and rejects an authority without this extension.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(user: str, group: str | None) -> x509.Name:
    """Return the subject that Kubernetes reads as a user (CN) in a group (O)."""
    organization = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*organization, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _store(pki: Pki, name: str, pair: _Pair) -> None:
    pki.certificate(name).write_bytes(pair.certificate.public_bytes(serialization.Encoding.PEM))
    _store_key(pki.key(name), pair.key)


def _store_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,  # not PKCS 8: Kubernetes cannot read it
            serialization.NoEncryption(),
        )
    )
