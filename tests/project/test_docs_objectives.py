"""Every regularizer and alignment has a page: equation, normalization, what it equals, when to use it, cost."""

import re
from pathlib import Path

import pytest

import mmvicreg as mm
from mmvicreg.objectives import alignments, regularizers

FOLDER = Path(__file__).parents[2] / "docs/objectives"
PARTS = ("Equation", "Normalization", "Equals", "When to use it", "Cost")
PAGES = {page: page.read_text() for page in FOLDER.glob("*.md") if page.name != "README.md"}
CLASSES = [
    name
    for name in mm.__all__
    for base in (regularizers.Regularizer, alignments.Alignment)
    if isinstance(getattr(mm, name), type)
    and issubclass(getattr(mm, name), base)
    and getattr(mm, name) is not base
]


@pytest.mark.parametrize("name", CLASSES)
def test_every_objective_has_a_page_with_all_its_parts(name: str) -> None:
    (page,) = [page for page, text in PAGES.items() if re.match(rf"# {name}\b", text)]
    for part in PARTS:
        found = re.search(
            rf"^\*\*{part}\W.*?\*\*? *(.+)|^\*\*{part}\*\*[^.]*\. (.+)", PAGES[page], flags=re.MULTILINE
        )
        assert found is not None, f"{page.name}: {part}"
    assert f"({page.name})" in (FOLDER / "README.md").read_text()


def test_these_are_all_of_them() -> None:
    assert {"VICReg", "SIGReg", "VISReg", "InfoNCE", "Prediction"} <= set(CLASSES)
    assert len(CLASSES) == len(set(CLASSES)) >= 15
