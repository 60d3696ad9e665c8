"""Studies of trained heads on small features: one change to chosen settings, and the ways to score."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_pairs import write_features

from mmvicreg.studies.study import Trial

ROOT = Path(__file__).parents[2]
REGIME = "pairs-100-split-0"
TRAINING: dict[str, Any] = {
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "batch": 32,
    "steps": 8,
    "width": 8,
    "hidden": 12,
    "image_map": "unit",
    "augment": True,
}
SOLVING: dict[str, Any] = {
    "image_map": "unit",
    "augment": True,
    "concept_power": 0.0,
    "landmarks": 60,
    "image_bandwidth": 1.0,
    "text_bandwidth": 1.0,
    "image_ridge": 0.1,
    "text_ridge": 0.1,
    "target_ridge": 0.1,
    "target_power": 0.5,
}


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory):
    """A folder with choices.json; the studies read small features."""
    folder = tmp_path_factory.mktemp("gap")
    patch = pytest.MonkeyPatch()
    patch.setenv("MMVICREG_PAIRS", str(write_features(folder / "features.npz")))
    patch.syspath_prepend(str(ROOT / "studies"))
    settings = {
        "vicreg": {**TRAINING, "variance": 25.0, "covariance": 1.0},
        "prediction+vicreg": {**TRAINING, "variance": 25.0, "covariance": 1.0},
        "two_way_kernel_ridge": SOLVING,
    }
    content = {f"{name}/{REGIME}": {"settings": each} for name, each in settings.items()}
    (folder / "choices.json").write_text(json.dumps(content), encoding="utf-8")
    yield folder
    patch.undo()


def test_without_a_change_the_score_is_that_of_the_comparison(choices: Path, tmp_path: Path) -> None:
    import pair_gap
    from pair_methods import WAYS
    from pair_scores import score_model

    config = pair_gap.Config(choices, "100", 1, 1, ("chosen",), tmp_path / "gap.json")
    pair_gap.main(config)
    record = json.loads(config.out.read_text())
    settings = json.loads((choices / "choices.json").read_text())[f"vicreg/{REGIME}"]["settings"]
    way, division = WAYS["vicreg"][1], pair_gap.pairs_of(REGIME, 0)
    assert isinstance(way, pair_gap.Trained)
    heads = way.fit(Trial("vicreg", REGIME, settings, 0, tmp_path))[0]
    found = record["scores"]["chosen"][f"{REGIME}/0"]
    assert found["validation"] == score_model(heads, division.validation, division.train).mean_recall
    assert found["last"] <= found["validation"] and found["correlated"] > 0.1
    before = config.out.read_text()
    pair_gap.main(config)  # finished runs are not trained again
    assert config.out.read_text() == before


def test_every_change_trains_and_what_changes_nothing_is_left_out(choices: Path) -> None:
    import pair_gap

    content = json.loads((choices / "choices.json").read_text())
    chosen = pair_gap.Chosen.of(REGIME, content)
    assert chosen.is_changed_by(pair_gap.VARIANTS["chosen"])
    assert not chosen.is_changed_by(pair_gap.VARIANTS["with crops and captions"])
    assert chosen.is_changed_by(pair_gap.VARIANTS["without crops and captions"])
    names = (
        "covariance averaged over batches",
        "whitened inputs",
        "whitened kernel features, linear heads",
    )
    for name in (*names, "from the scaled solution, learning rate 1e-3"):
        variant = replace(pair_gap.VARIANTS[name], times=0.08 if "scaled" in name else 1.0)
        assert pair_gap.score_variant(variant, chosen, 0)["validation"] > 0.2, name


def test_heads_at_their_start_score_as_the_solution_however_it_is_scaled(choices: Path) -> None:
    import pair_gap
    from pair_scores import score_model

    chosen = pair_gap.Chosen.of(REGIME, json.loads((choices / "choices.json").read_text()))
    division, expected = chosen.division, chosen.settings["two_way_kernel_ridge"]
    solved = pair_gap.solve_heads(division, expected, pair_gap.ridge(expected, "both"), kernel=True, seed=0)
    for name in ("from the solution, learning rate 1e-3", "from the scaled solution, learning rate 1e-3"):
        model, train = pair_gap.start(pair_gap.VARIANTS[name], chosen, 0)
        found = score_model(model, division.validation, division.train).mean_recall
        assert found == pytest.approx(score_model(solved, division.validation, division.train).mean_recall)
    assert float(train.image[:, 0].var(dim=0).mean()) == pytest.approx(1, rel=1e-4)


def test_a_moving_covariance_of_one_batch_is_that_of_vicreg(choices: Path) -> None:
    import pair_inputs

    import mmvicreg as mm

    z = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).mul(0.5).requires_grad_()
    found = pair_inputs.RunningVICReg(25.0, 1.0)(z).total
    expected = mm.VICReg(25.0, 1.0)(z).total
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, z), torch.autograd.grad(expected, z))


def test_ways_to_score_order_as_their_definitions_do(choices: Path, tmp_path: Path) -> None:
    import pair_scorings

    random = torch.Generator().manual_seed(0)
    rows = [torch.randn(count, 5, generator=random) + 1 for count in (30, 20, 50, 40)]
    found = pair_scorings.Embedded(*rows)
    division = pair_scorings.pairs_of(REGIME, 1)
    image, text, _ = pair_scorings.centred_products(found, division.train)
    cosines = torch.nn.functional.cosine_similarity(image[:, None], text[None], dim=2)
    products = (rows[0] - rows[2].mean(0)) @ (rows[1] - rows[3].mean(0)).T
    torch.testing.assert_close(cosines / cosines.max(), products / products.max(), rtol=1e-4, atol=1e-5)
    methods = ("prediction+vicreg", "two_way_kernel_ridge")
    config = pair_scorings.Config(choices, REGIME, methods, 1, tmp_path / "scorings.json")
    pair_scorings.main(config)
    scores = json.loads(config.out.read_text())["scores"]
    trained, solved = (scores[name][f"{REGIME}/1"] for name in methods)
    assert set(solved) == {"cosine", "cosine, corrected"}
    kinds = ("cosine", "centred dot product", "correlated axes", "predictors")
    assert set(trained) == {kind + end for kind in kinds for end in ("", ", corrected")}
    assert trained["predictors"] != trained["cosine"]
