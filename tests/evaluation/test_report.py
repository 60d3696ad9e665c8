"""report.html is one file that asks nothing of anyone."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from mmvicreg.evaluation.description import Description, PairGeometry
from mmvicreg.evaluation.geometry import describe, modality_gap, spectrum
from mmvicreg.evaluation.independence import independence
from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.report.collect import compare
from mmvicreg.evaluation.report.content import Shown
from mmvicreg.evaluation.report.diagnosis import diagnose
from mmvicreg.evaluation.report.figures import Example, Result
from mmvicreg.evaluation.report.html import render, write_report
from mmvicreg.evaluation.report.hubs import Hub, largest, occurrences
from mmvicreg.evaluation.report.page import Report, RunReport, SplitReport
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


HOSTILE = "<script>alert(1)</script>"


def description(z):
    return Description(
        geometry={"image": describe(z)},
        representations={"image": describe(z)},
        independence={"image": independence(z)},
        representations_independence={"image": independence(z)},
        gaps={"image_text": modality_gap(z, z)},
        pairs={"image_text": PairGeometry(30, 0.5, 7.0)},
        spectra={"image": spectrum(z)},
    )


def scores(z, noise):
    positives = Positives.from_pairs(np.arange(30), np.arange(30), num_queries=30, num_items=30)
    other = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    return retrieval_metrics(z, (1 - noise) * z + noise * other, positives, resamples=20)


@pytest.fixture
def run():
    z = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    image = np.full((40, 20, 3), 200, dtype=np.uint8)
    found = scores(z, 0.01)
    split = SplitReport(
        scores={"image_to_text": found, "text_to_image": found},
        description=description(z),
        examples={
            "image_to_text": [Example(Shown(image, HOSTILE), (Result(Shown(HOSTILE), True, 0.5),), 1.0)]
        },
        hubs={"image_to_text": [Hub(Shown(HOSTILE), 12, 3.0)]},
    )
    log = [
        {"step": s, "samples_per_second": 5, "total": 1.0, "terms": {"image/variance": 1.0}} for s in range(3)
    ]
    assert split.description
    return RunReport(
        name="run <1>",
        config={"train": "a & b.tar", "image": {"encoder": HOSTILE, "projector": [8, 8]}},
        environment={"torch": "2.15"},
        log=log,
        counts={"seen": 3, "rejected": {"image": 1}},
        samples=[
            Example(Shown(image, "cats/tom.jpg", "a caption"), (Result(Shown("a caption"), False, 0.0),), 0.0)
        ],
        splits={"held_out": split},
        findings=diagnose(
            scores={"held_out": split.scores},
            descriptions={"held_out": split.description},
            log=log,
            events=[{"step": 2, "kind": "collapse", "message": HOSTILE}],
            counts={"rejected": {"image": 1}},
        ),
    )


def test_the_page_nests_escapes_and_fetches_nothing(run, tmp_path):
    page = write_report(compare([run]), tmp_path / "report.html").read_text()
    parser = Nesting()
    parser.feed(page)
    assert parser.open == []
    assert all(address.startswith(("data:", "#")) for address in parser.addresses)
    assert not re.search(r"url\((?!#)|@import", page)
    assert "<script" not in page and "run &lt;1&gt;" in page and "a &amp; b.tar" in page
    # the caption found, the hub, the configuration, the event; the source as text, its title and the image's alt text
    assert page.count("&lt;script&gt;") == 7
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_every_part_shows_and_an_absent_part_leaves_no_heading(run):
    page = render(compare([run]))
    for heading in (
        "Diagnosis",
        "Retrieval",
        "held out: image → text",
        "Hubs of held out: image → text",
        "Training data",
        "Training",
        "Geometry of held out",
        "Configuration",
        "Environment",
    ):
        assert f"<h2>{heading}</h2>" in page, heading
    assert "<h2>" not in render(Report("empty", [RunReport("empty")]))


def test_runs_side_by_side_begin_with_the_settings_that_differ(run):
    other = replace(run, name="second", config={**run.config, "train": "c.tar", "out": "elsewhere"})
    page = render(compare([run, other]))
    first = page[page.index("<h2>Settings that differ</h2>") : page.index("<h2>Scores side by side</h2>")]
    assert "a &amp; b.tar" in first and "c.tar" in first
    assert "encoder" not in first and "elsewhere" not in first  # equal, and of no interest


def test_settings_that_not_every_run_has_are_folded_away(run):
    solved = replace(
        run, name="solved", config={"train": "c.tar", "solver": "mmvicreg.solvers.canonical:CCA"}
    )
    report = compare([run, solved])
    assert set(report.differences) == {"train"} and "solver" in report.not_shared
    page = render(report)
    folded = page[page.index("<summary>settings that not every run has:") :]
    assert page.index("c.tar") < page.index("<summary>settings") and "canonical:CCA" in folded


def test_the_diagnosis_tells_collapse_chance_and_decline_from_health():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(300, 8, generator=generator)
    flat = torch.ones(300, 8) + 1e-4 * torch.randn(300, 8, generator=generator)
    declining = [
        {"step": step, "validation": {"image_to_text/recall_at_1": recall}}
        for step, recall in ((10, 0.2), (20, 0.5), (30, 0.3))
    ]

    def told(z, *, noise, log=()):
        found = diagnose(
            scores={"test": {"image_to_text": scores(z[:30], noise)}},
            descriptions={"test": description(z)},
            log=log,
            events=[],
            counts={},
        )
        return {level: " ".join(each.text for each in found if each.level == level) for level in
                ("problem", "notice", "good")}  # fmt: skip

    healthy = told(z, noise=0.01)
    assert healthy["problem"] == "" and "have not collapsed" in healthy["good"]
    assert "image queries find their text" in healthy["good"]
    assert "have collapsed" in told(flat, noise=0.01)["problem"]
    assert "do not find their text" in told(z, noise=1.0)["problem"]
    assert "best at step 20" in told(z, noise=0.01, log=declining)["notice"]


def test_hubs_are_the_items_that_most_queries_find_first():
    generator = np.random.default_rng(0)
    queries = generator.normal(size=(200, 16)).astype(np.float32) + 2
    items = generator.normal(size=(50, 16)).astype(np.float32)
    items[7] = 2 + 0.1 * items[7]  # near the mean of all queries
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    order = np.argsort(-unit(queries) @ unit(items).T, axis=1)[:, :3]
    counts = occurrences(queries, items, k=3)
    assert counts.tolist() == np.bincount(order.ravel(), minlength=50).tolist() and counts.sum() == 600
    assert largest(counts)[0] == 7 and counts[7] == 200
    assert largest(np.full(50, 12)) == []
