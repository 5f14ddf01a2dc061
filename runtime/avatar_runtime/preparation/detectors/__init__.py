"""Face detectors and face parsers, and which of them a preparation uses."""

from __future__ import annotations

from avatar_runtime.preparation.detectors.factory import open_detector, open_parser

__all__ = ["open_detector", "open_parser"]
