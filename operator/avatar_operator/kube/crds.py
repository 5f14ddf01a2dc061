"""Compares the installed CustomResourceDefinitions with those of this release, and upgrades them.

Helm installs CRDs once and never updates them. The chart's pre-upgrade hook runs `upgrade`.
An operator that finds older CRDs waits, because the API server would drop fields that the
operator writes, and the operator would write them again and again.
"""

from __future__ import annotations

import asyncio
import logging
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from avatar_contracts.fields import Fault
from avatar_operator.core.resources import crd
from avatar_operator.errors import ClusterError, InvalidResource, TemporaryError
from avatar_operator.fence import Fence
from avatar_operator.kube.client import KubernetesClient

if TYPE_CHECKING:
    from avatar_operator.core.resources.fields import Body

FOLDER: Final = Path(__file__).parents[1] / "crds"
CHECK_S: Final = 2.0  # between two checks of CRDs that are missing or older
ESTABLISHED_S: Final = 0.5  # between two checks whether a CRD is established
ESTABLISHED_CHECKS: Final = 60
KIND: Final = "CustomResourceDefinition"
COMMAND: Final = "helm show crds CHART | kubectl apply --server-side --force-conflicts -f -"

_log = logging.getLogger(__name__)


def bundled() -> tuple[Body, ...]:
    """Return the CRDs of this release."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml")))
    return tuple(yaml.safe_load(text) for text in texts)


async def wait_until_current(api: KubernetesClient) -> None:
    """Wait until the installed CRDs have every field that this operator reads and writes."""
    required = bundled()
    logged = ""
    while True:
        try:
            faults = [fault for body in required if (fault := await _fault(api, body))]
        except ClusterError as error:
            faults = [str(error)]
        if not faults:
            return
        if (text := "; ".join(faults)) != logged:  # once, not at each check
            _log.error("not ready: %s; upgrade with: %s", text, COMMAND)
            logged = text
        await asyncio.sleep(CHECK_S)


async def run() -> tuple[str, ...]:
    """Connect as the pod's ServiceAccount or with the kubeconfig, and `upgrade`."""
    fence = Fence()
    fence.open_until(inf, epoch=0)  # no other process upgrades at the same time
    async with await KubernetesClient.open(fence, "upgrade-crds") as api:
        return await upgrade(api)


async def upgrade(api: KubernetesClient) -> tuple[str, ...]:
    """Upgrade the installed CRDs to this release, and return one sentence for each.

    Newer CRDs stay as they are. All objects are kept.

    Raises:
        InvalidResource: objects are stored in a version that this release does not have.
        ClusterError: the API server refused a request.
    """
    required = {name_of(body): body for body in bundled()}
    found = {name: await api.get_crd(name) for name in required}
    for name, installed in found.items():
        stored = () if installed is None else crd.removed_versions(required[name], installed)
        if stored:
            limit = "among the versions of this release: migrate the stored objects first"
            fault = Fault("status.storedVersions", ", ".join(stored), limit)
            raise InvalidResource(KIND, name, [fault])
    return tuple([await _upgrade(api, body, found[name]) for name, body in required.items()])


async def _upgrade(api: KubernetesClient, body: Body, installed: Body | None) -> str:
    name = name_of(body)
    missing = () if installed is None else crd.missing_fields(body, installed)
    if installed is not None and not missing and crd.missing_fields(installed, body):
        return f"{name} is newer than this release and stays as it is"
    await api.apply_crd(body)
    for _ in range(ESTABLISHED_CHECKS):
        if crd.is_established(await api.get_crd(name) or {}):
            break
        await asyncio.sleep(ESTABLISHED_S)
    else:
        within_s = ESTABLISHED_CHECKS * ESTABLISHED_S
        message = f"not established within {within_s:.0f} s"
        raise TemporaryError(f"{KIND} {name}", 0, message)
    result = "installed" if installed is None else "applied"
    return f"{name} {result}" + (f", new: {', '.join(missing)}" if missing else "")


async def _fault(api: KubernetesClient, required: Body) -> str:
    """Return what is wrong with an installed CRD, an empty string if nothing is."""
    name = name_of(required)
    installed = await api.get_crd(name)
    if installed is None:
        return f"{name} is not installed"
    missing = crd.missing_fields(required, installed)
    return f"{name} is older than this operator and lacks {', '.join(missing)}" if missing else ""


def name_of(body: Body) -> str:
    """Return the name of a CRD of this release."""
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata["name"])
