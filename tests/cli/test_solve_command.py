"""``mmvicreg solve`` and ``mmvicreg diagnose`` on a small trained run, and every command on what was solved."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import toy
from paired_features import correlated
from PIL import Image

import mmvicreg as mm
from mmvicreg.cli.main import main
from mmvicreg.errors import InvalidValueError
from mmvicreg.runs.run import Run
from mmvicreg.solvers.diagnosis import diagnose_pair
from mmvicreg.solvers.statistics.pairing import PairedRows

RECIPE = toy.__file__


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """A trained toy run, its shards and held-out shards."""
    folder = tmp_path_factory.mktemp("trained")
    shards = toy.write_shards(folder / "shards", missing=7)
    held_out = toy.write_shards(folder / "held_out", shards=1, seed=0, missing=0)
    mm.train(toy.Config(train=shards, out=str(folder / "run"), epochs=0.5), toy.objective)
    return str(folder / "run"), shards, held_out


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_solve_writes_a_run_that_evaluate_embed_compare_report_and_diagnose_take(
    trained: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, shards, held_out = trained
    own = ("--recipe", RECIPE, "--device", "cpu")
    solved = str(tmp_path / "solved")
    found = run_json(
        capsys, "solve", run, solved, *own, "--train", shards, "--validation", held_out, "--test", held_out
    )
    recall = found["scores"]["test.a_to_b.recall_at_1"]
    assert recall > 10 * found["scores"]["test.a_to_b.chance_at_1"] and found["solve_seconds"] > 0
    evaluated = run_json(capsys, "evaluate", solved, *own, "--data", f"test={held_out}")
    assert evaluated["scores"]["test.a_to_b.recall_at_1"] == recall
    run_json(capsys, "embed", solved, held_out, str(tmp_path / "out.npz"), *own)
    assert (tmp_path / "out.npz").is_file()
    compared = run_json(capsys, "compare", run, solved, "--out", "")
    assert compared["differences"]
    run_json(capsys, "report", solved, *own, "--data", held_out, "--out", str(tmp_path / "report.html"))
    assert "<html" in (tmp_path / "report.html").read_text()
    diagnosed = run_json(capsys, "diagnose", solved, *own, "--data", shards, "--permutations", "5")
    assert Path(diagnosed["written"]).read_bytes().startswith(b"\x89PNG")
    pair = diagnosed["pairs"]["a and b"]
    assert pair["shared_dimensions"] > 0
    layers = pair["layers"]
    assert layers["first"][-1] == layers["second"][-1] == "representation"
    assert np.array(layers["shared"]).shape == (len(layers["first"]), len(layers["second"]))
    assert layers["best"][2] == np.max(layers["shared"])


@pytest.mark.parametrize("solver", [mm.CCA(), mm.Ridge()], ids=["CCA", "Ridge"])
def test_search_classify_export_and_open_clip_take_a_solved_run(
    solver: mm.CCA | mm.Ridge, small_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = str(mm.demo_data() / "concepts-*.tar")
    out = str(tmp_path / "solved")
    run = mm.solve_run(mm.SolveConfig(train=shards, out=out, solver=solver, cpu=True), small_run)
    found = run_json(capsys, "search", out, shards, "a red bird", "--device", "cpu")
    assert found
    pictures = tmp_path / "pictures"
    random = np.random.default_rng(0)
    for name, place in itertools.product(("dark", "bright"), range(6)):
        (pictures / name).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 60, (64, 64, 3)) + (150 if name == "bright" else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(pictures / name / f"{place}.png")
    labelled = ("--test", str(pictures), "--train", str(pictures), "--k", "3", "--device", "cpu")
    run_json(capsys, "classify", out, *labelled)
    run_json(capsys, "export", out, str(tmp_path / "exported"))
    x = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    again = mm.load(tmp_path / "exported")
    torch.testing.assert_close(again.model.branch("image")(x).z, run.model.branch("image")(x).z)
    model, preprocess, tokenizer = run.to_open_clip()
    prepared = preprocess(Image.new("RGB", (80, 70)))[None]
    assert model.encode_image(prepared).shape[1] == model.encode_text(tokenizer(["a red bird"])).shape[1]


def test_a_diagnosis_counts_the_dimensions_that_two_branches_share() -> None:
    data = correlated(2000)
    found = diagnose_pair(data, data, ridge=1e-3)
    assert 5 <= found.shared_dimensions <= 6  # six were made; the weakest has a correlation of 0.3
    assert found.correlations[0] == pytest.approx(0.95, abs=0.05)
    assert found.curve[-1][1] >= found.curve[0][1] - found.margin


def test_a_diagnosis_of_branches_without_anything_in_common_finds_chance() -> None:
    data = correlated(1000)
    shuffled = np.random.default_rng(0).permutation(1000)
    apart = PairedRows({**data.rows, "b": data.rows["b"][shuffled]}, data.samples)
    found = diagnose_pair(apart, apart, ridge=1e-3)
    assert found.shared_dimensions <= 1
    assert found.aligning < 0.05


def test_a_diagnosis_of_too_few_pairs_is_refused() -> None:
    data = correlated(5)
    with pytest.raises(InvalidValueError, match="needs at least 8"):
        diagnose_pair(data, data)
