"""`avatar-gateway keys`: creates, lists and revokes the API keys of tenants."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import secrets
import sys
from time import time
from typing import TYPE_CHECKING, Any, Final

import yaml

from avatar_gateway import errors
from avatar_gateway.core import api_keys
from avatar_gateway.kube import informers, key_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_gateway.kube.key_secrets import KeySecrets

_DURATION: Final = re.compile(r"(?P<number>[0-9]{1,6})(?P<unit>[smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SALT_BYTES: Final = 16
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SECRET: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to those of the gateway."""
    keys = commands.add_parser("keys", help="create, list and revoke API keys of tenants")
    actions = keys.add_subparsers(dest="action", required=True)
    new = actions.add_parser("new", help="create a key, write its hash and print the key once")
    _add_place(new, required=True)
    new.add_argument("--comment", default="", help="what the key is for, at most 200 characters")
    new.add_argument("--not-before", type=_time, metavar="TIME", help="RFC 3339 time of its start")
    new.add_argument("--expires-after", type=_duration, metavar="DURATION", help="90d, 12h, 30m")
    new.add_argument(
        "--dry-run", action="store_true", help="print the Secret and do not connect to a cluster"
    )
    new.add_argument("-o", "--output", choices=("text", "yaml"), default="text")
    listing = actions.add_parser("list", help="show the keys of one Secret or of all")
    _add_place(listing, required=False)
    listing.add_argument("-o", "--output", choices=("table", "json"), default="table")
    revoke = actions.add_parser("revoke", help="end a key or a client secret")
    revoke.add_argument("id", help="the id of the key, or of a client secret")
    _add_place(revoke, required=True)
    revoke.add_argument(
        "--after", type=_duration, metavar="DURATION", help="end it later, for example after 24h"
    )
    revoke.add_argument(
        "--client-secret", action="store_true", help="the id is that of a client secret"
    )


def run(options: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> int:
    """Run a command and return its exit status: 0 when it was done, 1 when it was not."""
    try:
        # A name becomes a part of the address of a request, and of a manifest.
        _check_name("--namespace", options.namespace, _NAMESPACE)
        if options.secret is not None:
            _check_name("--secret", options.secret, _SECRET)
        if options.action == "new" and options.dry_run:
            _dry_run(options)
        else:
            asyncio.run(_in_cluster(options, environment))
    except errors.AvatarGatewayError as error:
        print(f"avatar-gateway: {error}", file=sys.stderr)
        return 1
    return 0


def _add_place(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--namespace", required=True, help="the namespace for keys (gateway.tenants.keysNamespace)"
    )
    parser.add_argument("--secret", required=required, help="the Secret of the tenant")
    parser.add_argument("--kubeconfig", help="kubeconfig file; KUBECONFIG or ~/.kube/config")


def _duration(text: str) -> int:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90d, 12h or 30m")
    return int(found["number"]) * _SECONDS[found["unit"]]


def _time(text: str) -> float:
    try:
        return api_keys.parse_time(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in RFC 3339") from None


def _check_name(option: str, name: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(name):
        raise errors.CommandError(
            f"{option} is {name[:64]!r}, must have lowercase letters, digits and '-', "
            "and start and end with a letter or digit"
        )


def _new(options: argparse.Namespace) -> tuple[str, str, str]:
    """Return the id, the text and the entry of a new key."""
    if len(options.comment) > api_keys.MAX_COMMENT:
        raise errors.CommandError(
            f"--comment has {len(options.comment)} characters, "
            f"must have at most {api_keys.MAX_COMMENT}"
        )
    not_after = None if options.expires_after is None else time() + options.expires_after
    if not_after is not None and not_after <= (options.not_before or 0):
        raise errors.CommandError("--expires-after ends the key before --not-before")
    random = secrets.token_bytes(api_keys.KEY_BYTES), secrets.token_bytes(api_keys.ID_BYTES)
    key_id, key = api_keys.new_key(*random)
    salt = secrets.token_bytes(_SALT_BYTES)
    entry = api_keys.entry_of(key, salt, options.comment, options.not_before, not_after)
    return key_id, key, entry


def _dry_run(options: argparse.Namespace) -> None:
    key_id, key, entry = _new(options)
    body = key_secrets.manifest(options.namespace, options.secret, key_id, entry)
    # The key goes to stderr, so that stdout can be piped to kubectl.
    print(key, file=sys.stderr)
    manager = key_secrets.manager_of(key_id)
    print(f"# kubectl apply --server-side --field-manager={manager} --filename -")
    print(yaml.safe_dump(body, sort_keys=False), end="")


async def _in_cluster(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    kubeconfig = options.kubeconfig or environment.get("KUBECONFIG", "~/.kube/config")
    is_in_cluster = not options.kubeconfig and "KUBERNETES_SERVICE_HOST" in environment
    async with informers.connected(None if is_in_cluster else kubeconfig) as api:
        cluster = key_secrets.KeySecrets(api, options.namespace)
        match options.action:
            case "new":
                await _add(options, cluster)
            case "list":
                await _list(options, cluster)
            case "revoke":
                await _revoke(options, cluster)


async def _add(options: argparse.Namespace, cluster: KeySecrets) -> None:
    key_id, key, entry = _new(options)
    await cluster.add(options.secret, key_id, entry)
    if options.output == "yaml":
        print(yaml.safe_dump({"id": key_id, "key": key}, sort_keys=False), end="")
    else:
        print(f"key {key_id} was written to Secret {options.namespace}/{options.secret}; its text,")
        print("which nobody can show again:")
        print(key)


async def _list(options: argparse.Namespace, cluster: KeySecrets) -> None:
    bodies = [await cluster.get(options.secret)] if options.secret else await cluster.list()
    rows = [row for body in bodies for row in _rows(body, time())]
    if options.output == "json":
        print(json.dumps(rows, indent=2))
        return
    names = ("secret", "id", "state", "notBefore", "notAfter", "comment")
    table = [names, *([str(row[name] or "-") for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(names))]
    for number, line in enumerate(table):
        cells = [text.upper() if not number else text for text in line]
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        print("  ".join(padded).rstrip())


def _rows(body: Mapping[str, Any], now: float) -> Sequence[Mapping[str, Any]]:
    """Return what is public of the entries of a Secret."""
    name = str((body.get("metadata") or {}).get("name", ""))
    keys, revoked, problems = api_keys.parse_secret(body)
    rows: list[dict[str, Any]] = []
    for key_id, key in keys.items():
        is_early = key.not_before is not None and now < key.not_before
        state = "valid" if key.is_current(now) else "not yet valid" if is_early else "expired"
        rows.append(_row(name, key_id, state, key))
    rows += [_row(name, secret_id, "client secret revoked") for secret_id in sorted(revoked)]
    # Other Secrets of the namespace, for example of Helm, have nothing in common with keys.
    rows += [_row(name, "", "unusable", comment=problem) for problem in problems if keys]
    return rows


def _row(
    secret: str,
    key_id: str,
    state: str,
    key: api_keys.StoredKey | None = None,
    comment: str = "",
) -> dict[str, Any]:
    return {
        "secret": secret,
        "id": key_id,
        "state": state,
        "notBefore": None if key is None else api_keys.format_time(key.not_before),
        "notAfter": None if key is None else api_keys.format_time(key.not_after),
        "comment": comment if key is None else key.comment,
    }


async def _revoke(options: argparse.Namespace, cluster: KeySecrets) -> None:
    place = f"{options.namespace}/{options.secret}"
    if options.client_secret:
        if not api_keys.is_id(options.id):
            raise errors.CommandError("the id must have 8 to 32 lowercase letters and digits")
        await cluster.add(options.secret, options.id, api_keys.revocation_entry(time()))
        print(f"client secret {options.id} is revoked")
        return
    for _ in range(key_secrets.TRIES):
        body = await cluster.get(options.secret)
        data = body.get("data")
        if not isinstance(data, dict) or options.id not in data:
            raise errors.CommandError(f"Secret {place} has no key {options.id}")
        entry = _ending(body, options.id, options.after)
        version = str((body.get("metadata") or {}).get("resourceVersion", ""))
        if await cluster.change(options.secret, version, options.id, entry):
            when = "" if options.after is None else f" in {options.after} s"
            print(f"key {options.id} of Secret {place} ends{when or ' now'}")
            return
    raise errors.CommandError(f"Secret {place} changes all the time; the key was not revoked")


def _ending(body: Mapping[str, Any], key_id: str, after_s: int | None) -> str | None:
    """Return the entry of a key that ends later, None for one that ends now."""
    if after_s is None:
        return None
    keys, _, _ = api_keys.parse_secret(body)
    if key_id not in keys:
        raise errors.CommandError(f"the entry {key_id} is not usable; revoke it without --after")
    ends_at = time() + after_s
    known = keys[key_id].not_after
    return api_keys.with_end(keys[key_id], ends_at if known is None else min(known, ends_at))
