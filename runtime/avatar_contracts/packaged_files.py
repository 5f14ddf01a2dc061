"""The files that more than one package reads: the page and the GPU profiles."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE_PATH: Final = "/page"
"""The files of the page are at `/page/NAME`; `/` is `index.html`."""
INDEX: Final = "index.html"
_SCRIPT: Final = "text/javascript"
_CLIENT: Final = (
    "acknowledgements binary-media capture-worklet captions close-codes connection credentials"
    " decoders errors file-player index media message-log microphone mp4 negotiation options"
    " outputs pacing pcm playback-worklet position resampler screen session sound statistics"
    " timeline turns video"
)
_PAGE: Final = "captions choices details directory own-face page recordings states view"
_TYPES: Final = {
    INDEX: "text/html",
    "page.css": "text/css",
    "sample.wav": "audio/wav",
    **{f"{name}.js": _SCRIPT for name in _PAGE.split()},
    **{f"client/{name}.js": _SCRIPT for name in _CLIENT.split()},
}
_POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",
    "media-src": "'self' blob:",  # MediaSource has the address of a blob
    "connect-src": "'self' ws: wss:",  # some browsers do not count WebSockets as 'self'
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page."""

    content: bytes
    media_type: str
    """Without parameters; text is UTF-8."""


@cache
def page_files() -> Mapping[str, PageFile]:
    """Return the files of the page by name, `index.html` first."""
    folder = files("avatar_contracts").joinpath("page")
    return {
        name: PageFile(folder.joinpath(name).read_bytes(), media_type)
        for name, media_type in _TYPES.items()
    }


def page_headers() -> dict[str, str]:
    """Return the headers of each of these files: browsers run only scripts of the same host."""
    return dict(_HEADERS)


def gpu_profiles() -> dict[str, dict[str, Any]]:
    """Return the `spec` of each GPUProfile that the chart ships, by its name."""
    text = files("avatar_contracts").joinpath("gpu_profiles.json").read_text(encoding="utf-8")
    profiles: dict[str, dict[str, Any]] = json.loads(text)
    return profiles
