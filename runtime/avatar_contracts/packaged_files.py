"""The files that more than one package reads: the page and the GPU profiles."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def page() -> str:
    """Return the HTML of the page that the gateway and a runtime serve at `/`."""
    return files("avatar_contracts").joinpath("page/index.html").read_text(encoding="utf-8")


@cache
def page_headers() -> dict[str, str]:
    """Return the headers of the page: browsers run only the script that it contains."""
    scripts = " ".join(_hashes("script"))
    styles = " ".join(_hashes("style"))
    policy = {
        "default-src": "'none'",
        "script-src": scripts,
        "style-src": styles,
        "img-src": "'self' data:",
        "connect-src": "'self' ws: wss:",  # some browsers do not count WebSockets as 'self'
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _hashes(element: str) -> list[str]:
    contents = re.findall(rf"<{element}[^>]*>(.*?)</{element}>", page(), re.DOTALL)
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]


def gpu_profiles() -> dict[str, dict[str, Any]]:
    """Return the `spec` of each GPUProfile that the chart ships, by its name."""
    text = files("avatar_contracts").joinpath("gpu_profiles.json").read_text(encoding="utf-8")
    profiles: dict[str, dict[str, Any]] = json.loads(text)
    return profiles
