"""Runs are understood afterwards."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import toy
from PIL import Image

import mmvicreg as mm
from mmvicreg.cli.compare import CompareConfig, compare, compare_runs


@pytest.mark.slow
def test_two_runs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = toy.write_shards(tmp_path / "data")
    probe = mm.ValidationConfig(data=shards, every=6)
    config = toy.Config(train=shards, out=str(tmp_path / "first"), epochs=1.0, validation=probe)
    mm.train(config, toy.objective)
    other = mm.OptimizerConfig(learning_rate=1e-2)
    mm.train(replace(config, out=str(tmp_path / "second"), optimizer=other, goal="vicreg"), toy.objective)
    runs = (str(tmp_path / "first"), str(tmp_path / "second"))
    found = compare_runs(runs)
    assert found.names == ("first", "second")
    changed = {name: found.differences.pop(name) for name in list(found.differences) if "objective" in name}
    assert changed["objective.regularizers.a.class"] == ["SIGReg", "VICReg"]
    assert found.differences == {"optimizer.learning_rate": [1e-3, 1e-2], "goal": ["sigreg", "vicreg"]}
    assert found.scores["steps"] == [6.0, 6.0]
    assert found.scores["term/a/variance"][0] is None and found.scores["term/a/variance"][1] is not None
    assert None not in found.scores["validation/a_to_b/recall_at_1"]
    output = compare(CompareConfig(runs=runs, out=str(tmp_path / "curves.png")))
    output.show(as_json=False)
    assert "optimizer.learning_rate" in capsys.readouterr().out
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 800


def test_a_solved_run_stands_beside_another_though_it_has_no_speed(tmp_path: Path) -> None:
    for name, total in (("a", 0.5), ("b", 0.25)):
        line = {"step": 1, "total": total, "terms": {"all/validation_mean_recall": total}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text(json.dumps(line) + "\n")
        (tmp_path / name / "config.json").write_text(json.dumps({"config": {}, "views": {}}))
    found = compare_runs([str(tmp_path / "a"), str(tmp_path / "b")])
    assert found.scores["term/all/validation_mean_recall"] == [0.5, 0.25]
    assert "samples per second (median)" not in found.scores


def test_runs_that_differ_in_their_objective_alone_are_not_the_same(tmp_path: Path) -> None:
    shards = toy.write_shards(tmp_path / "data")
    config = toy.Config(train=shards, out=str(tmp_path / "first"), epochs=1.0)
    mm.train(config, lambda config: mm.Objective(mm.Invariance(weight=25.0), {}))
    mm.train(replace(config, out=str(tmp_path / "second")), lambda config: mm.Objective(mm.InfoNCE(), {}))
    found = compare_runs((str(tmp_path / "first"), str(tmp_path / "second"))).differences
    assert found["objective.alignments.a-b.class"] == ["Invariance", "InfoNCE"]
    assert (
        mm.load(tmp_path / "second", recipe=toy.__file__)
        .objective["alignments"]["a-b"]["class"]
        .endswith("InfoNCE")
    )


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two runs or more"):
        compare_runs(["one"])
    with pytest.raises(FileNotFoundError, match="no such run directory"):
        compare_runs([tmp_path / "no", tmp_path / "no"])
