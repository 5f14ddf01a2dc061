"""Reads the avatars that a model can serve."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from avatar_runtime import errors
from avatar_runtime.avatars import cache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from avatar_runtime.engine.device import ModelInfo

_log: Final = logging.getLogger(__name__)


def read_avatars(
    folder: Path, names: Sequence[str] | None, model: ModelInfo
) -> Mapping[str, cache.Avatar]:
    """Return the usable avatars of a folder by name, and log why the others are skipped.

    `names` selects avatars; `None` selects every avatar of the folder.

    Raises:
        AssetError: no avatar is usable.
    """
    avatars, faults = cache.read_all(folder, names)
    for name, avatar in list(avatars.items()):
        try:
            cache.check_model(
                avatar, folder / name, model_version=model.version, vae_hash=model.vae_hash
            )
        except errors.AssetError as fault:
            faults[name] = fault
            del avatars[name]
    for problem in faults.values():
        _log.warning("avatar skipped: %s", problem)
    if not avatars:
        reasons = "; ".join(str(problem) for problem in faults.values()) or "the folder has none"
        raise errors.AssetError(str(folder), f"no avatar can be served: {reasons}")
    return avatars
