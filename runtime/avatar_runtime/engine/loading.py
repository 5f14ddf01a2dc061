"""Reads the avatars that a model can serve, and reads them again when their folders change."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from avatar_runtime import errors
from avatar_runtime.avatars import cache, tensor_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from avatar_runtime.engine.device import ModelInfo

_log: Final = logging.getLogger(__name__)


class AvatarFolder:
    """The folder of avatars, and what was read from it last. One thread at a time may use it."""

    def __init__(self, folder: Path, names: Sequence[str] | None, model: ModelInfo) -> None:
        """`names` selects avatars; `None` selects every avatar of the folder."""
        self._folder = folder
        self._names = names
        self._model = model
        self._avatars: dict[str, cache.Avatar] = {}
        self._signatures: dict[str, tensor_files.Signature | None] = {}
        self._missing: set[str] = set()
        self.faults: dict[str, errors.AssetError] = {}
        """Why the newest files of an avatar are not served, by its name."""

    def start(self) -> Mapping[str, cache.Avatar]:
        """Return the usable avatars by name, and log why the others are skipped.

        Raises:
            AssetError: no avatar is usable.
        """
        avatars = self.refresh()
        if not avatars:
            reasons = "; ".join(map(str, self.faults.values())) or "the folder has none"
            raise errors.AssetError(str(self._folder), f"no avatar can be served: {reasons}")
        return avatars

    def refresh(self) -> Mapping[str, cache.Avatar]:
        """Return the usable avatars by name; only files that have changed are read.

        An avatar whose new files are unusable stays as it was, and one that two calls in a row
        do not find is removed: a folder that is replaced is missing for a moment.
        """
        found = cache.names(self._folder) if self._names is None else self._names
        for name in sorted({*found, *self._avatars}):
            signature = tensor_files.signature(self._folder / name)
            if signature is None and name in self._avatars:
                self._forget_missing(name)
                continue
            self._missing.discard(name)
            if name not in self._signatures or signature != self._signatures[name]:
                # The signature of before the read: files that change meanwhile are read again.
                self._signatures[name] = signature
                self._update(name)
        for name in self.faults.keys() - set(found):
            del self.faults[name], self._signatures[name]
        return dict(self._avatars)

    def _update(self, name: str) -> None:
        known = self._avatars.get(name)
        try:
            avatar = self._read(name)
        except errors.AssetError as fault:
            self.faults[name] = fault
            state = "skipped" if known is None else "not replaced"
            _log.warning("avatar %s: %s", state, fault)
            return
        self.faults.pop(name, None)
        self._avatars[name] = avatar
        if known is not None and known.info != avatar.info:
            _log.info("avatar replaced old=%s new=%s", known.info.key, avatar.info.key)

    def _read(self, name: str) -> cache.Avatar:
        avatar, model = cache.read(self._folder / name), self._model
        cache.check_model(
            avatar,
            self._folder / name,
            model_version=model.version,
            vae_hash=model.vae_hash,
            latent_size=model.latent_size,
        )
        return avatar

    def _forget_missing(self, name: str) -> None:
        if name not in self._missing:
            self._missing.add(name)
            return
        self._missing.discard(name)
        del self._avatars[name], self._signatures[name]
        self.faults.pop(name, None)
        _log.info("avatar removed name=%s", name)
