"""The documentation site builds strictly, describes every public name, and requests nothing from elsewhere."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import WIDTHS, Visit

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


@pytest.mark.slow
def test_the_site_builds_and_its_pages_load_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    loads = r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//"
    for page in pages:
        assert not re.findall(loads, page.read_text()), page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text()), style


@pytest.mark.slow
def test_every_public_name_has_an_entry_of_its_own(site: Path) -> None:
    page = (site / "api/index.html").read_text()
    entries = set(re.findall(r'<h3 id="mmvicreg\.[\w.]*?\.?(\w+)" class="doc', page))
    assert {name for name in mm.__all__ if not name.startswith("__")} <= entries
    assert ":class:<code>" not in page and ":func:<code>" not in page


@pytest.mark.slow
def test_every_page_is_reached_from_the_first_one(site: Path) -> None:
    links = set(re.findall(r'href="([^"#]+)', (site / "index.html").read_text()))
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("")
        place = name.parent if name.name in ("README", "index") else name
        assert f"{place}/" in links or place == Path(), page


class Quiet(SimpleHTTPRequestHandler):
    """A file server that prints nothing."""

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    """The address of the site on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_pages_fit_every_width_log_no_error_and_ask_nobody(browser: Any, served: str) -> None:
    for width in WIDTHS:
        with Visit(browser, width) as visit:
            visit.page.set_default_timeout(180_000)
            for page in ("own-folder/", "api/") if width == WIDTHS[0] else ("",):
                visit.page.goto(f"{served}/{page}", wait_until="load")
                assert visit.overflow() <= 0, (page, width)
            assert not visit.errors and not visit.outside()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_serious_fault_of_accessibility(browser: Any, served: str, scheme: str) -> None:
    with Visit(browser, scheme=scheme) as visit:
        visit.page.set_default_timeout(180_000)
        for page in ("", "own-folder/", "evaluation/", "results/"):
            visit.page.goto(f"{served}/{page}", wait_until="load")
            assert visit.violations() == [], page


@pytest.mark.nightly
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_long_pages_have_no_serious_fault_of_accessibility(browser: Any, served: str, scheme: str) -> None:
    with Visit(browser, scheme=scheme) as visit:
        visit.page.set_default_timeout(180_000)
        for page in ("claims/", "api/"):
            visit.page.goto(f"{served}/{page}", wait_until="load")
            assert visit.violations() == [], page


def test_the_search_of_the_site_finds_an_objective(browser: Any, served: str) -> None:
    with Visit(browser) as visit:
        visit.page.set_default_timeout(180_000)
        visit.page.goto(served, wait_until="load")
        visit.page.locator("input[name=query]").first.fill("SIGReg")
        visit.page.locator(".md-search-result__item").first.wait_for()
        assert "SIGReg" in visit.page.locator(".md-search-result__list").inner_text()
        assert not visit.errors and not visit.outside()
