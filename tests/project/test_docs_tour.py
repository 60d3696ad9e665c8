"""docs/tour.ipynb runs from top to bottom, shows pictures inline and writes no warning."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """What the cells printed and showed, in order."""
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's client
def test_the_tour_runs_and_shows_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))
    shutil.copy(ROOT / "docs/tour.ipynb", tmp_path)
    notebook = nbformat.read(tmp_path / "tour.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = outputs(notebook)
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 5
    text = "".join(output.get("text", "") for output in shown)
    assert "Warning" not in text and "500 samples" in text
    assert "image_to_text: R@1" in text
    if "TOUR_OUT" in os.environ:  # to write the outputs that the page shows
        nbformat.write(notebook, os.environ["TOUR_OUT"])
