"""The images as they are built: small, without tools, reproducible, with a bill of materials."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest

from localcluster import paths
from localcluster.images import archive, builder, errors, recipes, store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from localcluster.images.builder import Builder

pytestmark = [pytest.mark.images, pytest.mark.slow, pytest.mark.timeout(1200)]
SMALL = ("operator", "gateway")
MAX_MIB = 150
RECIPES = {recipe.name: recipe for recipe in recipes.RECIPES}
UNWANTED = re.compile(
    r"/(pip|ensurepip|setuptools)/|/bin/(pip|gcc|cc|c\+\+|ld|make|cpp)[\d.-]*$"
    r"|/\.cache/|^(var/cache/apt|var/lib/apt/lists)/.+/|^(wheels|src|own|wheel)(/|$)|^mnt/."
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """Give the builder of this checkout; what it has built before is not built again."""
    try:
        store.check_machine()
    except errors.MachineUnfit as error:
        pytest.skip(str(error))
    with store.opened(os.environ) as opened:
        opened.ensure_base()
        release = recipes.read_release(paths.REPOSITORY)
        out = paths.REPOSITORY / "build" / "images"
        yield builder.Builder(opened, paths.REPOSITORY, out, release, print)


@pytest.fixture(params=SMALL)
def image(images: Builder, request: pytest.FixtureRequest) -> Path:
    return images.build(RECIPES[request.param])


def visible(image: Path) -> set[str]:
    """Return the paths that a container sees: each layer's whiteouts hide what is below it."""
    found: set[str] = set()
    for number in range(len(archive.layers(image))):
        names = [member.name for member in archive.members(image, number)]
        for name in names:
            folder, _, last = name.rpartition("/")
            if last.startswith(".wh."):
                gone = f"{folder}/{last.removeprefix('.wh.')}"
                found = {x for x in found if x != gone and not x.startswith(f"{gone}/")}
        found |= {name for name in names if "/.wh." not in name}
    return found


def test_image_is_small_above_its_base(image: Path) -> None:
    above = sum(layer.unpacked_bytes for layer in archive.layers(image)[1:])
    assert 10 * 2**20 < above <= MAX_MIB * 2**20


def test_image_holds_no_installer_compiler_or_cache(image: Path) -> None:
    files = visible(image)
    assert any(name.endswith("/avatar_contracts/labels.py") for name in files)
    assert {name for name in files if UNWANTED.search(name)} == set()


def test_code_of_the_project_is_in_the_last_layer_alone(image: Path) -> None:
    holders = [
        number
        for number in range(len(archive.layers(image)))
        if any("/avatar_" in member.name for member in archive.members(image, number))
    ]
    assert holders == [len(archive.layers(image)) - 1]


def test_image_runs_as_nobody_and_says_what_it_is(image: Path) -> None:
    found = archive.configuration(image)
    assert found["config"]["User"] == "65532:65532"
    labels = found["config"]["Labels"]
    version = recipes.read_release(paths.REPOSITORY).version
    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.title"] == f"avatar-{image.stem}"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.match("[0-9a-f]{40}", labels["org.opencontainers.image.revision"])


def test_bill_of_materials_lists_debian_and_python_packages(image: Path) -> None:
    bill = json.loads(image.with_suffix(".sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    packages = {component.get("purl", "").split("@")[0] for component in bill["components"]}
    assert {"pkg:pypi/kubernetes", "pkg:pypi/aiohttp", "pkg:pypi/avatar-service"} <= packages
    assert {"pkg:deb/debian/libc6", "pkg:deb/debian/ca-certificates"} <= packages


def test_command_of_the_image_starts_as_its_user(images: Builder, image: Path) -> None:
    reference = images.release.references[image.stem]
    container = images.store.buildah("from", "--pull-never", f"localhost/{reference}").strip()
    try:
        run = ("run", "--isolation", "chroot", container, "--")
        assert images.store.buildah(*run, "id", "-u").strip() == "65532"
        assert "usage:" in images.store.buildah(*run, f"avatar-{image.stem}", "--help").lower()
    finally:
        images.store.buildah("rm", container)


def test_second_build_has_equal_layers(images: Builder) -> None:
    images.build(RECIPES["gateway"], check=True)


def test_unchanged_inputs_are_not_built_again(images: Builder) -> None:
    image = images.build(RECIPES["operator"])
    before = image.stat().st_mtime_ns
    assert images.build(RECIPES["operator"]) == image
    assert image.stat().st_mtime_ns == before
