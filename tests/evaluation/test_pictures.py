"""Figures draw what they are given, on any machine's fonts, without a warning."""

import numpy as np
import pytest

from mmvicreg.evaluation.report import curves, fonts
from mmvicreg.evaluation.report import figures as pictures
from mmvicreg.evaluation.report.content import Shown
from mmvicreg.evaluation.report.curves import panels
from mmvicreg.evaluation.report.figures import Example, Result
from mmvicreg.evaluation.report.fonts import legible

CAPTIONS = ["grinning face", "मुस्कुराता चेहरा", "微笑的脸" * 9, "وجه مبتسم", "หน้ายิ้ม", "$5 and x_2^{", "😀", ""]


def log(steps=60):
    terms = {"image/variance": 0.5, "text/variance": 0.4, "image-text/invariance": 0.1}
    return [
        {"step": s, "samples_per_second": 9.0, "total": 30.0 / (s + 1), "terms": terms} for s in range(steps)
    ]


def examples():
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    rows = [
        Example(Shown(image), tuple(Result(Shown(c), c == caption, 0.5) for c in CAPTIONS[:4]), 1.0)
        for caption in CAPTIONS
    ]
    return [
        *rows,
        Example(Shown("a caption"), (Result(Shown(image), True, 0.9), Result(Shown(image), False, 0.1)), 1.0),
    ]


def test_terms_of_one_kind_share_a_panel_and_the_total_comes_first():
    found = panels(log())
    assert list(found) == ["total", "variance", "invariance"]
    assert set(found["variance"]) == {"image", "text"}
    steps, values = found["total"]["all terms"]
    assert steps.tolist() == list(range(60)) and values[1] == 15


def test_steps_without_a_term_and_non_finite_values_are_drawn_around():
    records = log()
    records[5]["terms"] = {"text/variance": float("nan"), "audio/variance": float("nan")}
    found = panels(records)
    assert "audio" not in found["variance"] and len(found["variance"]["image"][0]) == 59
    curves.loss_figure(records)


def test_figures_of_every_kind_are_written(tmp_path):
    spectra = {"image": np.array([3.0, 1.0, 0.0]), "text": np.zeros(4)}
    figures = {
        "loss.png": curves.loss_figure(log()),
        "spectrum.svg": pictures.spectrum_figure(spectra, ranks={"image": 2.0}),
        "examples.png": pictures.examples_figure(examples()),
    }
    for name, figure in figures.items():
        assert pictures.save(figure, tmp_path / name).stat().st_size > 2000


def test_the_same_figure_gives_the_same_svg_and_follows_the_page():
    first, second = (pictures.inline_svg(curves.loss_figures(log())["variance"]) for _ in range(2))
    assert first == second
    assert "currentColor" in first and "var(--line)" in first and pictures.INK not in first


def test_characters_without_a_font_become_boxes_and_others_find_one():
    assert legible("plain")[0] == "plain"
    assert legible("a\U000f0000b")[0] == "a□b"  # a private-use character: no font has it
    assert legible("plain")[1] == ["DejaVu Sans"]


def test_long_captions_wrap_by_their_width_and_end_in_an_ellipsis():
    assert fonts.wrap("one two three four five", width=9) == "one two\nthree\nfour five"
    assert fonts.wrap("微笑的脸", width=4) == "微笑\n的脸"
    assert fonts.wrap("word " * 50, width=5, lines=2).endswith("…")


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="no steps"):
        panels([])
    with pytest.raises(ValueError, match="no retrieval examples"):
        pictures.examples_figure([])
