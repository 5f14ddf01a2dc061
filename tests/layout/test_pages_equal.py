"""The gateway and the runtime serve the same page; neither package imports the other."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = Path("serving/page/index.html")


def test_the_gateways_page_is_the_runtimes_page() -> None:
    source = (ROOT / "runtime/avatar_runtime" / PAGE).read_bytes()
    copy = (ROOT / "runtime/avatar_gateway" / PAGE).read_bytes()
    assert b"/v1/realtime" in source
    assert copy == source, "copy runtime/avatar_runtime/serving/page/index.html to the gateway"
