"""Builds one image into an OCI archive, and nothing when its inputs are unchanged."""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localcluster.images import archive, errors, recipes, sbom
from localcluster.images import store as stores

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcluster.images.recipes import Recipe, Release
    from localcluster.images.store import Store


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds the images of one checkout into a folder."""

    store: Store
    root: Path
    out: Path
    release: Release
    say: Callable[[str], None]

    def build(self, recipe: Recipe, *, check: bool = False) -> Path:
        """Return the archive of an image; `check` builds it twice and compares the layers.

        Raises:
            CommandFailed: a program fails.
            NotReproducible: the two builds differ.
        """
        started = time.monotonic()
        target, record = self.out / f"{recipe.name}.tar", self.out / f"{recipe.name}.json"
        labels = self._labels(recipe)
        key = recipes.input_key(self.root, recipe, (self.store.base_digest(), *labels))
        if not check and target.exists() and _read(record).get("inputs") == key:
            self.say(f"{recipe.name}: unchanged")
            return target
        self.out.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        self._build_once(recipe, labels, target, use_cache=True)
        if check:
            self._check(recipe, labels, target)
        sbom.write(self.store, self.root, target, target.with_suffix(".sbom.json"), epoch_s())
        facts = self._facts(recipe, target, key)
        record.write_text(json.dumps(facts, indent=1) + "\n")
        took_s, mib = time.monotonic() - started, facts["unpacked_mib_above_base"]
        self.say(f"{recipe.name}: {mib} MiB above the base, built in {took_s:.0f} s")
        return target

    def _labels(self, recipe: Recipe) -> tuple[str, ...]:
        release = {"VERSION": self.release.version, "SOURCE": self.release.source}
        facts = release | {"REVISION": self._revision(recipe)}
        return tuple(f"{name}={value}" for name, value in facts.items() if value)

    def _revision(self, recipe: Recipe) -> str:
        """Return the last commit that changed what the image is built from."""
        copied = recipes.copied_paths((self.root / recipe.containerfile).read_text())
        paths = (recipe.containerfile, *copied)
        log = stores.execute("git", "log", "-1", "--format=%H", "--", *paths, cwd=self.root)
        changed = stores.execute("git", "status", "--porcelain", "--", *paths, cwd=self.root)
        return log.strip() + ("-dirty" if changed else "")

    def _build_once(
        self, recipe: Recipe, labels: tuple[str, ...], target: Path, *, use_cache: bool
    ) -> None:
        reference = self.release.references[recipe.name]
        arguments: list[str | Path] = ["--build-arg", f"PYTHON={stores.BASE_NAME}"]
        arguments += ["--build-arg", "PIP_NO_INDEX=1", "--build-arg", "PIP_FIND_LINKS=/mnt"]
        for argument in (*labels, *(f"{k}={v}" for k, v in recipe.arguments)):
            arguments += ["--build-arg", argument]
        with tempfile.TemporaryDirectory(dir=self.store.folder, prefix="build-") as place:
            wheels = Path(place, "wheels")
            wheels.mkdir()
            for lock in recipe.locks:
                for wheel in self.store.ensure_wheels(self.root, lock).iterdir():
                    if not (wheels / wheel.name).exists():
                        os.link(wheel, wheels / wheel.name)
            self.store.buildah(
                "build", "--isolation", "chroot", "--pull-never", "--format", "oci",
                "--layers", *(() if use_cache else ("--no-cache",)), "--timestamp", str(epoch_s()),
                "--volume", f"{wheels}:/mnt:ro", *arguments,
                "--file", self.root / recipe.containerfile,
                "--tag", f"localhost/{reference}", self.root,
            )  # fmt: skip
            layout = Path(place, "layout")
            self.store.buildah(
                "push", "--disable-compression", f"localhost/{reference}", f"oci:{layout}:latest"
            )
            archive.write(layout, target, reference, epoch_s())

    def _check(self, recipe: Recipe, labels: tuple[str, ...], target: Path) -> None:
        second = target.with_name(f"{target.stem}.second.tar")
        self._build_once(recipe, labels, second, use_cache=False)
        digests = [[layer.digest for layer in archive.layers(file)] for file in (target, second)]
        if digests[0] != digests[1]:
            raise errors.NotReproducible(recipe.name, *digests)
        second.unlink()
        self.say(f"{recipe.name}: two builds have equal layers")

    def _facts(self, recipe: Recipe, target: Path, key: str) -> dict[str, Any]:
        layers = archive.layers(target)
        above = sum(layer.unpacked_bytes for layer in layers[1:])
        return {
            "reference": archive.full_name(self.release.references[recipe.name]),
            "inputs": key,
            "unpacked_mib_above_base": round(above / 2**20, 1),
            "layers": [{"digest": x.digest, "unpacked_bytes": x.unpacked_bytes} for x in layers],
        }


def epoch_s() -> int:
    """Return the time of every file in the layers, in seconds since 1970."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", recipes.EPOCH_S))


def _read(record: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(record.read_text())
    except (OSError, ValueError):
        return {}
    return found
