"""Headless Chromium, driven by Playwright: what tests of pages need to open them and to judge them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

WIDTHS = (390, 768, 1440)
"""A phone, a tablet and a screen, in CSS pixels."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A started Chromium; the test is skipped, with what to install, where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="pages are tested with playwright: pip install playwright"
    )
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("pages are tested in Chromium, which is not installed: apt-get install chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visit:
    """A page of a fresh browser context, and what it did that it must not do."""

    def __init__(self, browser: Any, width: int = 1440, *, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self.note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def note(self, message: Any) -> None:
        """Keep what the console says is an error."""
        if message.type == "error":
            self.errors.append(message.text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()

    def outside(self) -> list[str]:
        """Addresses asked for that are neither files nor on this machine."""
        own = ("file", "data", "blob", "about")
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme not in own and urlsplit(url).hostname not in ("127.0.0.1", "localhost")
        ]

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        script = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(script))

    def violations(self) -> list[str]:
        """What axe-core finds that is serious or critical: rule, number of places, the first of them."""
        axe = pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
        self.page.evaluate(Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [
            f"{each['id']} in {len(each['nodes'])} places: {each['nodes'][0]['html'][:200]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
