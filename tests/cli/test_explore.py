"""The explorer in a real browser: a person types, uploads, clicks, compares two runs and draws the map."""

import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from browser import WIDTHS, Visit

from mmvicreg.cli.main import main
from mmvicreg.shards.index import open_index
from mmvicreg.stream.fetcher import Fetcher

pytest.importorskip("gradio", reason='pip install "mmvicreg[explore]"')
WAIT = 120_000
"""Milliseconds that a loaded machine may take to answer."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(pictured_run, tmp_path_factory):
    """Address of an explorer of two runs, served by a process of its own."""
    other = tmp_path_factory.mktemp("explore") / "other"
    shutil.copytree(pictured_run.folder, other)
    port = free_port()
    command = [sys.executable, "-m", "mmvicreg.cli.main", "explore", str(pictured_run.folder), str(other)]
    command += ["--data", pictured_run.shards, "--port", str(port), "--k", "6", "--label", "concept"]
    log = tmp_path_factory.mktemp("log") / "explore.txt"
    with (
        open(log, "w", encoding="utf-8") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process,
    ):
        try:
            for _ in range(600):  # a second each: a loaded machine needs minutes for what takes ten seconds
                if process.poll() is not None or "open http" in log.read_text():
                    break
                time.sleep(1)
            assert "open http" in log.read_text(), log.read_text()
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=120) == 0, log.read_text()
        finally:
            process.kill()


def opened(visit, address):
    visit.page.set_default_timeout(WAIT)
    visit.page.goto(address)
    visit.page.wait_for_selector("#query textarea, #query input")
    return visit.page


def search(page, text):
    page.fill("#query textarea, #query input", text)
    page.click("#search")
    page.wait_for_selector(f"#message :text('{text}')")
    page.wait_for_selector("#image-items-0 img")


def test_a_typed_query_is_answered_by_both_runs_and_a_click_walks_on(browser, served):
    with Visit(browser) as visit:
        page = opened(visit, served)
        search(page, "snowman")
        for side in (0, 1):
            assert page.locator(f"#image-items-{side} img").count() == 6
            assert "snowman" in page.inner_text(f"#text-items-{side}")  # its own caption is the nearest text
        assert "fluent-" in page.inner_text("#image-items-0")
        page.locator("#image-items-0 button:has(img)").nth(2).click()
        page.wait_for_selector("#message :text('Neighbours of')")
        walked = page.inner_text("#message")
        page.wait_for_function("document.querySelectorAll('#image-items-1 img').length === 6")
        page.click("#text-items-0 [data-testid='cell-0-1']")
        page.wait_for_function(f"!document.querySelector('#message').innerText.includes({walked!r})")
        assert page.inner_text("#message").startswith("Neighbours of")
        assert visit.errors == [] and visit.outside() == []


def test_an_uploaded_image_finds_itself(browser, served, pictured_run, tmp_path):
    index = open_index(pictured_run.shards)
    image = Fetcher(index)(*index.place(7), ("webp",)).members["webp"]
    (tmp_path / "mine.webp").write_bytes(image)
    with Visit(browser) as visit:
        page = opened(visit, served)
        page.set_input_files("#image-query input[type=file]", tmp_path / "mine.webp")
        page.wait_for_selector("#message :text('Image: mine')")
        page.wait_for_selector("#image-items-0 img")
        first = page.locator("#image-items-0 img").first.get_attribute("alt")
        assert first.startswith("1.000 · ") and index_key(pictured_run, 7) in first
        page.wait_for_selector("#text-items-1 [data-testid='cell-5-1']")
        assert visit.errors == [] and visit.outside() == []


def index_key(pictured_run, number):
    index = open_index(pictured_run.shards)
    return Fetcher(index)(*index.place(number), ()).key


def test_the_map_shows_both_modalities(browser, served):
    with Visit(browser) as visit:
        page = opened(visit, served)
        page.click("text=Map of all items")
        page.click("#draw")
        page.wait_for_selector("#map svg, #map canvas")
        assert visit.errors == [] and visit.outside() == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits(browser, served, width):
    with Visit(browser, width) as visit:
        page = opened(visit, served)
        search(page, "broom")
        assert visit.overflow() <= 0


@pytest.mark.slow
def test_the_browser_is_told_to_ask_no_other_host(served):
    with urllib.request.urlopen(served) as answer:
        policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy


def test_a_taken_port_is_a_message_before_anything_is_computed(pictured_run, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ["explore", str(pictured_run.folder), "--data", pictured_run.shards, "--port", str(port)]
        assert main(arguments) == 1
    error = capsys.readouterr().err
    assert f"port {port}" in error and "--port" in error and "Traceback" not in error
