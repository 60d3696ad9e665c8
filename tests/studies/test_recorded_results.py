"""docs/results.md is what the committed scorings give, and its headline is printed as one JSON line."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_page_of_results_is_made_of_the_committed_scorings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    import results

    results.main(results.Config(docs=tmp_path))
    for name in ("results.md", "claims.md"):
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text()
    assert (tmp_path / "results/pairs.png").is_file() and (ROOT / "docs/results/pairs.png").is_file()
    headline = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"closed_form_ratio_1000", "trained_ratio_1000"} <= headline.keys()


def test_test_pairs_are_scored_once_a_run_and_after_the_choice() -> None:
    recorded = ROOT / "studies/recorded/pairs"
    choices = json.loads((recorded / "choices.json").read_text())
    lines = [json.loads(line) for line in (recorded / "scorings.jsonl").read_text().splitlines()]
    runs = [(line["method"], line["regime"], line["seed"]) for line in lines]
    assert len(set(runs)) == len(runs)
    assert {f"{method}/{regime}" for method, regime, _ in runs} <= choices.keys()
