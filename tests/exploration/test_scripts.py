"""The writing of a caption is that of most of its letters."""

import pytest

from mmvicreg.exploration.scripts import writing_of


@pytest.mark.parametrize(
    ("text", "writing"),
    [
        ("a red bird, 42", "Latin"),
        ("красная птица", "Cyrillic"),
        ("طائر أحمر", "Arabic"),
        ("लाल पक्षी", "Devanagari"),
        ("红色的鸟", "Chinese (Han)"),
        ("赤い鳥です", "Japanese (kana)"),
        ("빨간 새", "Korean (Hangul)"),
        ("a photo of a very red bird, 鳥", "Latin"),
        ("12 !? 🐦", "no letters"),
        ("", "no letters"),
    ],
)
def test_writing_of_texts(text, writing):
    assert writing_of(text) == writing
