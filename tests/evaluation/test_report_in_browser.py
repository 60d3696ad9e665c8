"""The report of a real run in a real browser: it fits, asks nobody for anything, and can be read by everyone."""

import pytest
from browser import WIDTHS, Visit

from mmvicreg.cli.main import main


@pytest.fixture(scope="module")
def report(pictured_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    assert main(["report", str(pictured_run.folder), "--data", pictured_run.shards, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_fits_is_silent_and_accessible(browser, report, width, scheme):
    with Visit(browser, width, scheme=scheme) as visit:
        visit.page.goto(report.as_uri())
        assert visit.page.locator("h1").inner_text() == "run"
        assert visit.overflow() <= 0
        assert (
            width != 768 or visit.violations() == []
        )  # axe takes seconds; the rules do not depend on the width
        assert visit.errors == [] and visit.outside() == []


def test_the_report_shows_images_captions_sources_and_validation(browser, report):
    with Visit(browser) as visit:
        visit.page.goto(report.as_uri())
        broken = "[...document.images].filter(each => each.naturalWidth === 0).length"
        assert visit.page.evaluate("document.images.length") > 20 and visit.page.evaluate(broken) == 0
        alternatives = visit.page.evaluate("[...document.images].map(each => each.alt)")
        assert all(alternatives) and "picture" not in alternatives
        assert "fluent-" in visit.page.locator(".source").first.inner_text()
        figures = visit.page.evaluate("[...document.querySelectorAll('figure')].map(each => each.ariaLabel)")
        assert any("recall at 1" in label for label in figures)
        assert any(label.startswith("variance") for label in figures)


def test_the_report_is_read_with_the_keyboard_and_on_paper(browser, report):
    with Visit(browser) as visit:
        visit.page.goto(report.as_uri())
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.activeElement.textContent") == "Skip to content"
        assert visit.page.locator(".skip").bounding_box()["x"] >= 0  # seen once it has the focus
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.activeElement.className") == "wide"  # tables scroll by keyboard
        visit.page.emulate_media(media="print")
        visit.page.set_viewport_size({"width": 720, "height": 1000})
        assert visit.overflow() <= 0
        cut = "[...document.querySelectorAll('.strip,.wide')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        assert visit.page.evaluate(cut) == 0
