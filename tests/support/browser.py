"""Headless Chromium, driven by Playwright: what tests of pages need to open them and to judge them."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

WIDTHS = (390, 768, 1440)
"""A phone, a tablet and a screen, in CSS pixels."""


@pytest.fixture(scope="session")
def browser():
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

    def __init__(self, browser, width=1440, *, scheme="light"):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.errors, self.requests = [], []
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()

    def outside(self):
        """Addresses asked for that are neither files nor on this machine."""
        own = ("file", "data", "blob", "about")
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme not in own and urlsplit(url).hostname not in ("127.0.0.1", "localhost")
        ]

    def overflow(self):
        """Pixels by which the page is wider than its window."""
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    def violations(self):
        """What axe-core finds that is serious or critical: rule, number of places, the first of them."""
        axe = pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
        self.page.evaluate(Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [
            f"{each['id']} in {len(each['nodes'])} places: {each['nodes'][0]['html'][:200]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
