"""Tenants with API keys and an issuer of tokens, for tests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from functools import cache
from time import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from avatar_gateway.core import api_keys
from avatar_gateway.tenant_registry import ServiceAccess, TenantRegistry

ISSUER = "https://issuer.example"
OPEN = ServiceAccess({}, frozenset())
RSA_KID, EC_KID = "rsa-1", "ec-1"


def key_of(number: int) -> tuple[str, str]:
    """Return the id and the text of an API key."""
    id_bytes = bytes(number >> 5 * place & 31 for place in range(api_keys.ID_BYTES))
    return api_keys.new_key(number.to_bytes(api_keys.KEY_BYTES), id_bytes)


def secret_of(*numbers: int, revoked: tuple[str, ...] = (), **times: Any) -> dict[str, Any]:
    """Return a Secret with API keys, and with client secrets that it revokes."""
    entries = {name: api_keys.revocation_entry(0) for name in revoked}
    for number in numbers:
        key_id, key = key_of(number)
        entries[key_id] = api_keys.entry_of(key, number.to_bytes(16), **times)
    data = {name: base64.b64encode(text.encode()).decode() for name, text in entries.items()}
    return {"metadata": {"name": "s"}, "data": data}


def tenant_of(name: str, *secrets: str, created: str = "", **spec: Any) -> dict[str, Any]:
    """Return an AvatarTenant that may use the services of the namespace with its name."""
    keys = {"secretRefs": [{"name": each} for each in secrets]} | spec.pop("apiKeys", {})
    metadata = {"name": name, "creationTimestamp": created}
    return {
        "metadata": metadata,
        "spec": {"access": {"namespaces": [name]}, "apiKeys": keys, **spec},
    }


@cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:
    """Return a private key; another number is another key."""
    del number
    return rsa.generate_private_key(65537, 2048)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    """Return a private key."""
    return ec.generate_private_key(ec.SECP256R1())


def rsa_pem() -> bytes:
    """Return the public key as PEM."""
    return rsa_key(0).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def rsa_jwk(number: int = 0, **more: Any) -> dict[str, Any]:
    """Return a public key as JWK."""
    return RSAAlgorithm.to_jwk(rsa_key(number).public_key(), as_dict=True) | more


def key_set() -> str:
    """Return the key set of the issuer."""
    own = ECAlgorithm.to_jwk(ec_key().public_key(), as_dict=True) | {"kid": EC_KID}
    return json.dumps({"keys": [rsa_jwk(kid=RSA_KID, use="sig"), own]})


def claims_of(**changes: Any) -> dict[str, Any]:
    """Return the claims of a token of the tenant acme; a change to None removes a claim."""
    now = int(time())
    claims = {"iss": ISSUER, "aud": "avatar", "sub": "u", "tenant": "acme", "exp": now + 300}
    return {name: value for name, value in (claims | changes).items() if value is not None}


def token(headers: dict[str, Any] | None = None, algorithm: str = "RS256", **claims: Any) -> str:
    """Return a token that is signed with the RSA key."""
    headers = {"kid": RSA_KID} | (headers or {})
    headers = {name: value for name, value in headers.items() if value is not None}
    return jwt.encode(claims_of(**claims), rsa_key(0), algorithm=algorithm, headers=headers)


def unsigned(header: dict[str, Any], claims: dict[str, Any], key: bytes | None = None) -> str:
    """Return a token with any header, signed by a shared secret or not at all."""
    parts = [json.dumps(part).encode() for part in (header, claims)]
    text = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    if key is None:
        return f"{text}."
    signature = hmac.new(key, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


@dataclass
class Tenants:
    """The tenants acme, with key 1 and the issuer, and globex, with key 2, in a registry."""

    registry: TenantRegistry
    acme: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fill the registry."""
        issuer = {
            "issuer": ISSUER,
            "audiences": ["avatar"],
            "jwks": key_set(),
            "requiredClaims": {"tenant": "acme"},
            "clockSkewSeconds": 0,
        }
        self.acme = tenant_of("acme", "acme-keys", jwt=[issuer])
        self.change_acme()
        self.registry.set_tenant(tenant_of("globex", "globex-keys"))
        self.registry.set_secret("acme-keys", secret_of(1))
        self.registry.set_secret("globex-keys", secret_of(2))
        self.registry.set_service("acme/concierge", OPEN)
        self.registry.set_service("acme/second", OPEN)
        self.registry.set_service("globex/desk", OPEN)

    def change_acme(self, **spec: Any) -> None:
        """Change fields of the spec of acme."""
        keys = self.acme["spec"]["apiKeys"] | spec.pop("apiKeys", {})
        self.acme["spec"] |= {"apiKeys": keys, **spec}
        self.registry.set_tenant(self.acme)
