"""The documentation site builds strictly, describes every public name, and requests nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmvicreg as mm

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; a broken link or an unknown name would be an error."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_builds_and_its_pages_load_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    loads = r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//"
    for page in pages:
        assert not re.findall(loads, page.read_text()), page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text()), style


def test_every_public_name_has_an_entry_of_its_own(site: Path) -> None:
    page = (site / "api/index.html").read_text()
    entries = set(re.findall(r'<h3 id="mmvicreg\.[\w.]*?\.?(\w+)" class="doc', page))
    assert {name for name in mm.__all__ if not name.startswith("__")} <= entries
    assert ":class:<code>" not in page and ":func:<code>" not in page


def test_every_page_of_the_documentation_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    missing = {page for page in pages if page not in navigation and not page.startswith("solvers/")}
    assert not missing
