"""``mmvicreg look``: the numbers are those of the data, and the page opens in a browser."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from browser import WIDTHS, Visit
from PIL import Image
from webdataset import TarWriter

from mmvicreg.cli.main import main


def image(seed, size=(60, 40), kind="JPEG"):
    rough = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Eight samples: two equal images, a damaged one, a flat one, two without captions, one without image."""
    path = tmp_path_factory.mktemp("look") / "mixed-000000.tar"
    samples = [
        {
            "jpg": image(0),
            "txt": "<script>alert(1)</script> a red bird",
            "json": {"file": "birds/1.jpg", "row": 3},
        },
        {"jpg": image(0), "txt": "a red bird\nA red bird!"},
        {"jpg": b"\xff\xd8 damaged", "txt": "a boat"},
        {"png": image(3, size=(30, 90), kind="PNG"), "txt": "красная лодка"},
        {"jpg": image(4)},
        {"jpg": image(5)},
        {"txt": "a caption alone"},
        {"png": _flat(), "txt": "nothing"},
    ]
    with TarWriter(str(path)) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"s{number}", **sample})
    return str(path)


def _flat():
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), "white").save(buffer, "PNG")
    return buffer.getvalue()


def test_every_number_is_that_of_the_data(shards, tmp_path, capsys):
    assert main(["look", shards, "--out", str(tmp_path / "look.html"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == found["looked_at"] == 8
    assert found["combinations"] == {"image + text": 4, "image": 2, "text": 2}
    assert found["images"] | {"groups": 0} == {"items": 6, "exact": 1, "near": 0, "groups": 0}
    assert found["images"]["groups"] == [[0, 1]] and found["flat"] == 1
    assert found["captions"]["items"] == 7 and found["captions"]["near"] == 1
    assert found["writing"] == {"Latin": 6, "Cyrillic": 1}
    assert (found["width"]["minimum"], found["width"]["maximum"], found["height"]["maximum"]) == (20, 60, 90)
    assert found["aspect"]["minimum"] == pytest.approx(1 / 3, abs=1e-3)
    assert found["captions_per_sample"]["maximum"] == 2 and sum(found["faults"].values()) == 1
    assert "values" not in found["characters"] and found["characters"]["maximum"] == 36
    assert dict(map(tuple, found["frequent_words"]))["red"] == 3


def test_truncated_captions_are_those_that_the_branch_cuts(pictured_run, tmp_path, capsys):
    from mmvicreg.modalities.vocabulary import words_of
    from mmvicreg.shards.index import open_index
    from mmvicreg.stream.fetcher import Fetcher

    out = str(tmp_path / "look.html")
    assert main(["look", pictured_run.shards, "--run", str(pictured_run.folder), "--out", out, "--json"]) == 0
    tokens = json.loads(capsys.readouterr().out)["tokens"]["text"]
    index = open_index(pictured_run.shards)
    fetch = Fetcher(index)
    texts = [fetch(*index.place(n), ("txt",)).members["txt"].decode() for n in range(len(index))]
    lengths = np.array([len(words_of(text)) for text in texts])
    assert tokens["length"] == 6 and tokens["counts"]["maximum"] == lengths.max()
    assert tokens["truncated"] == pytest.approx((lengths > 6).mean())


def test_samples_bounds_what_is_read(pictured_run, tmp_path, capsys):
    out = str(tmp_path / "look.html")
    assert main(["look", pictured_run.shards, "--samples", "25", "--out", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["looked_at"], found["images"]["items"]) == (300, 25, 25)


def test_the_page_fits_escapes_captions_and_asks_nobody(browser, shards, tmp_path):
    out = tmp_path / "look.html"
    assert main(["look", shards, "--out", str(out)]) == 0
    for width in WIDTHS:
        with Visit(browser, width, scheme="dark") as visit:
            visit.page.goto(Path(out).as_uri())
            assert visit.overflow() <= 0 and visit.errors == [] and visit.outside() == []
            assert visit.page.locator("script").count() == 0
            assert "birds/1.jpg row 3" in visit.page.locator(".sheet .source").first.inner_text()
            assert width != 768 or visit.violations() == []
