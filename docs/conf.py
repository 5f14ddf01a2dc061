"""Settings of the documentation site; `make docs` builds it into build/docs/."""
# ruff: noqa: INP001

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

project = "AvatarService"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser"]
exclude_patterns = ["_build"]

myst_heading_anchors = 4  # links may name a heading, as on GitHub

html_theme = "furo"
html_title = f"AvatarService {version}"
html_copy_source = False
html_show_sourcelink = False
