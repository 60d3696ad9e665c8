"""report.html is one file that asks nothing of anyone."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from mmvicreg.evaluation.description import Description, PairGeometry
from mmvicreg.evaluation.geometry import describe, modality_gap, spectrum
from mmvicreg.evaluation.independence import independence
from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.report.figures import Example, Result
from mmvicreg.evaluation.report.html import Report, render, write_report
from mmvicreg.evaluation.retrieval import retrieval_metrics

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Nesting(HTMLParser):
    """Fails on a tag closed out of order; collects every address."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "data", "srcset")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def report():
    z = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    positives = Positives.from_pairs(np.arange(30), np.arange(30), num_queries=30, num_items=30)
    scores = retrieval_metrics(z, z + 0.1, positives, resamples=20)
    image = np.full((40, 20, 3), 200, dtype=np.uint8)
    return Report(
        title="run <1>",
        config={"train": "a & b.tar", "image": {"encoder": "timm/resnet18", "projector": [8, 8]}},
        environment={"torch": "2.15"},
        scores={"held_out": {"image_to_text": scores, "text_to_image": scores}},
        description=Description(
            geometry={"image": describe(z)},
            representations={"image": describe(z)},
            independence={"image": independence(z)},
            representations_independence={"image": independence(z)},
            gaps={"image_text": modality_gap(z, z)},
            pairs={"image_text": PairGeometry(30, 0.5, 7.0)},
            spectra={"image": spectrum(z)},
        ),
        log=[
            {"step": s, "samples_per_second": 5, "total": 1.0, "terms": {"image/variance": 1.0}}
            for s in range(3)
        ],
        examples={
            "Images to captions": [Example(image, (Result("<script>alert(1)</script>", True, 0.5),), 1.0)]
        },
    )


def test_the_page_nests_escapes_and_fetches_nothing(report, tmp_path):
    page = write_report(report, tmp_path / "report.html").read_text()
    parser = Nesting()
    parser.feed(page)
    assert parser.open == []
    assert all(address.startswith(("data:", "#")) for address in parser.addresses)
    assert not re.search(r"url\((?!#)|@import", page)
    assert "<script" not in page and "run &lt;1&gt;" in page and "a &amp; b.tar" in page
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_every_part_shows_and_an_absent_part_leaves_no_heading(report):
    page = render(report)
    for heading in (
        "Retrieval",
        "Images to captions",
        "Training",
        "Geometry",
        "Configuration",
        "Environment",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "<h2>" not in render(Report(title="empty"))
