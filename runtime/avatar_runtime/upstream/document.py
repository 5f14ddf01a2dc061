"""Reads the file of `avatar-runtime serve --upstream`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import yaml

from avatar_contracts.environment import Fault
from avatar_runtime.errors import SettingsError
from avatar_runtime.upstream.settings import MAX_DOCUMENT_BYTES

if TYPE_CHECKING:
    from pathlib import Path


def load(path: Path | None) -> str | None:
    """Return the document in a YAML or JSON file as JSON; `None` without a path.

    Raises:
        SettingsError: the file cannot be read, is too long, or is not an object.
    """
    if path is None:
        return None
    limit = f"a YAML or JSON object of at most {MAX_DOCUMENT_BYTES} bytes"
    try:
        with path.open("rb") as file:
            text = file.read(MAX_DOCUMENT_BYTES + 1)
        document = yaml.safe_load(text) if len(text) <= MAX_DOCUMENT_BYTES else None
        if isinstance(document, dict):
            return json.dumps(document, default=str)
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(Fault("--upstream", f"{path}: {error}", limit)) from None
    raise SettingsError(Fault("--upstream", str(path), limit))
