"""Every page that a link or a comment names exists, and so does every section."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# In code: docs/wire-protocol.md, "Errors". The title may be on the next line of a comment.
CITED = re.compile(r"""\b(docs/[\w./-]+\.md)(?:,\s+(?:#\s*)?"([^"\n]+)")?""")
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
FILE = re.compile(r"`((?:operator|runtime|tests|charts|docs)/[\w./-]+\.(?:py|yaml|json))`")
CODE = re.compile(r"`[^`\n]*`")


def tracked(*patterns: str) -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, check=True, capture_output=True
    ).stdout.split(b"\0")
    return [path for name in names if name and (path := ROOT / name.decode()).is_file()]


def headings(page: Path) -> list[str]:
    text = FENCED.sub("", page.read_text())
    return [title.strip() for title in re.findall(r"^#+ (.+)$", text, re.M)]


def anchor(title: str) -> str:
    """Return the anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def faulty_citations(text: str) -> list[str]:
    """Return the citations in a text whose page or section does not exist."""
    faults = []
    for page, title in CITED.findall(text):
        if not (ROOT / page).is_file():
            faults.append(page)
        elif title and title not in headings(ROOT / page):
            faults.append(f'{page}, "{title}"')
    return faults


def faulty_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead nowhere."""
    faults = []
    for link in LINK.findall(CODE.sub("", FENCED.sub("", page.read_text()))):
        target, _, name = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        found = (page.parent / target).resolve() if target else page
        anchors = map(anchor, headings(found)) if found.suffix == ".md" and found.is_file() else []
        if not found.exists() or (name and name not in anchors):
            faults.append(link)
    return faults


def test_citations_in_the_sources_exist() -> None:
    sources = tracked("*.py", "*.yaml", "*.yml", "*.toml", "*.tpl", "*.go", "Makefile")
    assert len(sources) > 100
    found = {
        str(path.relative_to(ROOT)): faults
        for path in sources
        if path != Path(__file__) and (faults := faulty_citations(path.read_text()))
    }
    assert found == {}


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_exist(page: Path) -> None:
    assert faulty_links(page) == []


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = FILE.findall(FENCED.sub("", page.read_text()))
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda page: str(page.relative_to(ROOT)))
def test_page_cites_no_numbered_section(page: Path) -> None:
    """The documentation stands alone: it cites sections by their titles."""
    assert "\N{SECTION SIGN}" not in page.read_text()


def test_checks_notice_what_is_missing(tmp_path: Path) -> None:
    assert faulty_citations('# docs/wire-protocol.md, "Errors"') == []
    assert faulty_citations('# docs/wire-protocol.md, "Mistakes"') != []
    assert faulty_citations('docs/wire-protocol.md,\n    # "Mistakes"') != []
    assert faulty_citations("see docs/nowhere.md") == ["docs/nowhere.md"]
    page = tmp_path / "page.md"
    page.write_text("# A title\n\n[a](#a-title) [b](page.md#a-title) [c](#other) [d](none.md)\n")
    assert faulty_links(page) == ["#other", "none.md"]
