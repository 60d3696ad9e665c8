"""docs/tour.ipynb runs from top to bottom, shows pictures inline and writes no warning."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
WIDGET = "application/vnd.jupyter.widget-view+json"

BAR = """
import time
from mmvicreg.progress import bar

with bar("train", 10) as advance:
    for step in range(10):
        time.sleep(0.1)
        advance(1, f"step {step}")
"""


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """What the cells printed and showed, in order."""
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def without_widgets(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without progress widgets, which pages that show a notebook do not draw."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    return notebook


@pytest.mark.slow
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
        nbformat.write(without_widgets(notebook), os.environ["TOUR_OUT"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_progress_in_a_notebook_is_a_widget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipywidgets")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(BAR)])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert any(WIDGET in output.get("data", {}) for output in outputs(notebook))
    shown = str(notebook.metadata["widgets"])
    assert "train" in shown and "/10" in shown and "samples/s" in shown
