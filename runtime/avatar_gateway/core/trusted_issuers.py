"""Finds which tenants may trust a token, before any signature is verified."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from avatar_gateway.core.tenant_objects import Issuer

    Values = dict[tuple[object, ...], dict[tuple[str, int], Issuer]]

_MAX_AUDIENCES = 20
"""Of one token; a longer list is not read to its end."""


class TrustedIssuers:
    """The issuers of all tenants, found by issuer, audience and required claims.

    Many tenants can share an issuer and tell their tokens by a claim, so that a search through
    them all would be slow. A lookup costs one step for each audience of the token, and for each set
    of claim names that tenants require of this issuer and audience.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], dict[tuple[str, ...], Values]] = {}

    def add(self, tenant: str, issuers: Sequence[Issuer]) -> None:
        """Add the issuers of a tenant."""
        for index, issuer in enumerate(issuers):
            for values, claims in self._places(issuer):
                values.setdefault(claims, {})[tenant, index] = issuer

    def remove(self, tenant: str, issuers: Sequence[Issuer]) -> None:
        """Remove the issuers of a tenant."""
        for index, issuer in enumerate(issuers):
            names = tuple(name for name, _ in issuer.required_claims)
            for values, claims in self._places(issuer):
                values[claims].pop((tenant, index), None)
                if not values[claims]:
                    del values[claims]
            for audience in issuer.audiences:
                by_names = self._found[issuer.issuer, audience]
                if not by_names[names]:
                    del by_names[names]
                if not by_names:
                    del self._found[issuer.issuer, audience]

    def _places(self, issuer: Issuer) -> Iterator[tuple[Values, tuple[object, ...]]]:
        names = tuple(name for name, _ in issuer.required_claims)
        claims = tuple(value for _, value in issuer.required_claims)
        for audience in issuer.audiences:
            by_names = self._found.setdefault((issuer.issuer, audience), {})
            yield by_names.setdefault(names, {}), claims

    def matching(self, claims: Mapping[str, object]) -> Sequence[tuple[str, Issuer]]:
        """Return the tenants whose issuer, audience and required claims a token has.

        `claims` are not verified yet.
        """
        found: dict[tuple[str, int], Issuer] = {}
        issuer = claims.get("iss")
        for audience in _audiences(claims.get("aud")):
            by_names = self._found.get((issuer, audience), {}) if isinstance(issuer, str) else {}
            for names, values in by_names.items():
                # A claim that is not a string equals none; a list cannot even be looked up.
                wanted = tuple(claims.get(name) for name in names)
                if all(isinstance(value, str) for value in wanted):
                    found.update(values.get(wanted, {}))
        return [(tenant, each) for (tenant, _), each in found.items()]


def _audiences(value: object) -> Sequence[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values[:_MAX_AUDIENCES] if isinstance(each, str)]
