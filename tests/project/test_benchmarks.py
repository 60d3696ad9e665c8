"""Every benchmark runs, at tiny size, to its last line: one JSON object. A new file of benchmarks/ is one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import pytest

ROOT = Path(__file__).parents[2]
HELPERS = {"measure", "stream_peer"}
"""files that benchmarks import or start"""
ALONE = {"check", "conformance", "text_length"}
"""these start no process and set no thread or hub before they import: run in a fork, which spares the imports"""
BENCHMARKS = sorted({path.stem for path in (ROOT / "benchmarks").glob("*.py")} - HELPERS)
WRITES = {
    "conformance": ("--page", "conformance.md"),
    "scaling": ("--docs", "--folder", "."),
    "figures": ("--readme", "README.md", "--results", "figures.json"),
}
"""what each writes, into the folder of the test"""


def run(name: str, folder: Path) -> dict[str, Any]:
    """The JSON object at the end of a tiny run in ``folder``."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--tiny", *WRITES.get(name, ())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if name in ALONE:
        done = forked.run(command, cwd=folder, environment=environment)
    else:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict) and found
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in WRITES and name != "step"])
def test_a_benchmark_runs_and_ends_in_its_json(name: str, tmp_path: Path) -> None:
    before = sorted(ROOT.rglob("*.md"))
    run(name, tmp_path)
    assert sorted(ROOT.rglob("*.md")) == before


@pytest.mark.slow
def test_the_step_benchmark_ends_in_its_ratios(tmp_path: Path) -> None:
    found = run("step", tmp_path)
    for name in ("vicreg", "visreg", "sigreg"):
        assert found[f"samples_per_second_ratio_{name}"] > 0 and found[f"memory_ratio_{name}"] > 0


@pytest.mark.slow
def test_the_page_on_conformance_is_written_and_its_errors_are_rounding(tmp_path: Path) -> None:
    found = run("conformance", tmp_path)
    assert found["largest_error_float32"] < 1e-5 and found["largest_error_bfloat16"] < 1e-2
    lines = (tmp_path / "conformance.md").read_text().splitlines()
    assert sum(line.startswith(("| regularizer", "| alignment")) for line in lines) == 3


@pytest.mark.slow
def test_the_page_on_scaling_is_written_with_its_figure(tmp_path: Path) -> None:
    found = run("scaling", tmp_path)
    assert abs(found["work_ratio_2"] - 0.5) < 0.05
    assert "work" in (tmp_path / "scaling.md").read_text()
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_figures_of_the_readme_are_made_again_and_name_their_commit(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    before, marker, rest = text.partition("<!-- figures -->")
    assert marker, "README.md has no <!-- figures --> block"
    (tmp_path / "README.md").write_text(before + marker + "\nold\n" + rest[rest.index("<!-- /figures -->") :])
    found = run("figures", tmp_path)
    made = (tmp_path / "README.md").read_text()
    assert made.startswith(before) and made.endswith(rest[rest.index("<!-- /figures -->") :])
    assert "\nold\n" not in made
    assert str(found["sigreg"]["commit"]) in made
