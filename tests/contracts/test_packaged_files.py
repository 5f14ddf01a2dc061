"""The packaged files are complete, and the chart ships the same GPU profiles."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

import avatar_contracts
from avatar_contracts import packaged_files

ROOT = Path(__file__).parents[2]


PAGE = Path(avatar_contracts.__file__).with_name("page")


def test_each_file_of_the_page_is_listed_and_no_other() -> None:
    found = {str(path.relative_to(PAGE)) for path in PAGE.rglob("*") if path.is_file()}
    package = {f"client/{name}" for name in ("LICENSE", "README.md", "package.json")}
    assert set(packaged_files.page_files()) == found - package


def test_the_page_asks_for_files_of_its_own_host_only() -> None:
    page = packaged_files.page_files()["index.html"].content.decode()
    assert page.startswith("<!doctype html>")
    asked = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {f"page/{name}" for name in packaged_files.page_files()} | {"data:,"} >= set(asked)
    assert not re.search(r"<style|style=|<script(?![^>]* src=)| on[a-z]+=", page)


def test_the_scripts_import_only_listed_files() -> None:
    listed = packaged_files.page_files()
    for name, file in listed.items():
        folder = PAGE.joinpath(name).parent
        for module in re.findall(
            r'(?:from|new URL\()\s*"(\.[^"]+)"', file.content.decode("latin-1")
        ):
            target = str((folder / module).resolve().relative_to(PAGE.resolve()))
            assert target in listed, f"{name} imports {module}"


def test_the_policy_allows_no_inline_script_or_style() -> None:
    policy = packaged_files.page_headers()["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "unsafe" not in policy


def test_profiles_are_those_of_the_chart_in_its_order() -> None:
    source = yaml.safe_load((ROOT / "charts/avatar-operator/gpu-profiles.yaml").read_text())
    assert "rtx-4090" in source
    assert packaged_files.gpu_profiles() == source
    packaged = Path(avatar_contracts.__file__).with_name("gpu_profiles.json").read_text()
    assert packaged == json.dumps(source, indent=1) + "\n", "write json.dumps(source, indent=1)"
