"""What pods answer with at most: gateways and clients read no more."""

from __future__ import annotations

from typing import Final

MAX_PICTURE_BYTES: Final = 2 * 1024 * 1024
"""Of a picture of an avatar."""
MAX_SNAPSHOT_BYTES: Final = 32 * 1024 * 1024
"""Of the snapshot of a session; a session with a larger one has none."""
MAX_DOCUMENT_BYTES: Final = 96 * 1024 * 1024
"""Of the document of a session: ten minutes of sound, and the whole replay memory."""
IMMUTABLE: Final = "private, max-age=31536000, immutable"
"""`Cache-Control` of what never changes, because its address names its version."""
