"""Holds the installed CustomResourceDefinitions against those of this release, and upgrades them.

Helm installs CRDs once and never touches them again. The chart's pre-upgrade hook
runs `upgrade`; an operator that finds older ones waits, for the API server would
drop fields that it writes, so that it wrote them again and again.
"""

from __future__ import annotations

import asyncio
import logging
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from avatar_operator.core.resources import crd
from avatar_operator.errors import ClusterError, Fault, InvalidResource, TemporaryError
from avatar_operator.fence import Fence
from avatar_operator.kube.client import Cluster

if TYPE_CHECKING:
    from avatar_operator.core.resources.fields import Body

FOLDER: Final = Path(__file__).parents[1] / "crds"
LOOK_S: Final = 2.0  # from one look at CRDs that are not as they should be to the next
ESTABLISHED_S: Final = 0.5
ESTABLISHED_LOOKS: Final = 60
KIND: Final = "CustomResourceDefinition"
COMMAND: Final = "helm show crds CHART | kubectl apply --server-side --force-conflicts -f -"

_log = logging.getLogger(__name__)


def shipped() -> tuple[Body, ...]:
    """Return the CRDs of this release."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml")))
    return tuple(yaml.safe_load(text) for text in texts)


async def until_current(api: Cluster) -> None:
    """Wait until the installed CRDs have every field that this operator reads and writes."""
    wanted = shipped()
    told = ""
    while True:
        try:
            faults = [fault for body in wanted if (fault := await _fault(api, body))]
        except ClusterError as error:
            faults = [str(error)]
        if not faults:
            return
        if (text := "; ".join(faults)) != told:  # once, not at each look
            _log.error("not ready: %s; upgrade with: %s", text, COMMAND)
            told = text
        await asyncio.sleep(LOOK_S)


async def run() -> tuple[str, ...]:
    """Connect as the pod's ServiceAccount or as KUBECONFIG says, and `upgrade`."""
    fence = Fence()
    fence.open_until(inf, epoch=0)  # nobody else upgrades
    async with await Cluster.open(fence, "upgrade-crds") as api:
        return await upgrade(api)


async def upgrade(api: Cluster) -> tuple[str, ...]:
    """Bring the installed CRDs to this release, and return a sentence about each.

    Newer ones are left alone. Objects are kept in any case.

    Raises:
        InvalidResource: objects are stored in a version that this release does not have.
        ClusterError: the API server refused.
    """
    wanted = {_name(body): body for body in shipped()}
    found = {name: await api.definition(name) for name in wanted}
    for name, installed in found.items():
        stored = () if installed is None else crd.abandoned(wanted[name], installed)
        if stored:
            limit = "among the versions of this release: migrate the objects stored in it first"
            fault = Fault("status.storedVersions", ", ".join(stored), limit)
            raise InvalidResource(KIND, name, [fault])
    return tuple([await _upgrade(api, body, found[name]) for name, body in wanted.items()])


async def _upgrade(api: Cluster, body: Body, installed: Body | None) -> str:
    name = _name(body)
    missing = () if installed is None else crd.lacking(body, installed)
    if installed is not None and not missing and crd.lacking(installed, body):
        return f"{name} is newer than this release, it stays as it is"
    await api.apply_definition(body)
    for _ in range(ESTABLISHED_LOOKS):
        if crd.is_established(await api.definition(name) or {}):
            break
        await asyncio.sleep(ESTABLISHED_S)
    else:
        within_s = ESTABLISHED_LOOKS * ESTABLISHED_S
        message = f"not established within {within_s:.0f} s"
        raise TemporaryError(f"{KIND} {name}", 0, message)
    what = "installed" if installed is None else "applied"
    return f"{name} {what}" + (f", new: {', '.join(missing)}" if missing else "")


async def _fault(api: Cluster, wanted: Body) -> str:
    """Return what is wrong with an installed CRD, "" if it will do."""
    name = _name(wanted)
    installed = await api.definition(name)
    if installed is None:
        return f"{name} is not installed"
    missing = crd.lacking(wanted, installed)
    return f"{name} is older than this operator, it lacks {', '.join(missing)}" if missing else ""


def _name(body: Body) -> str:
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata["name"])
