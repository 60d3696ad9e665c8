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


STUDIES = sorted(path.parent.name for path in (ROOT / "studies/recorded").glob("*/scorings.jsonl"))


@pytest.mark.parametrize("name", STUDIES)
def test_test_pairs_are_scored_once_a_run_and_after_the_choice(name: str) -> None:
    recorded = ROOT / "studies/recorded" / name
    choices = json.loads((recorded / "choices.json").read_text())
    lines = [json.loads(line) for line in (recorded / "scorings.jsonl").read_text().splitlines()]
    runs = [(line["method"], line["regime"], line["seed"]) for line in lines]
    assert len(set(runs)) == len(runs) > 0
    for line in lines:
        assert choices[f"{line['method']}/{line['regime']}"]["settings"] == line["settings"]


def test_the_leaderboard_has_the_best_of_each_family_by_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    from result_entries import entries
    from result_leaderboard import best_of, leaderboard

    found = entries(ROOT / "studies/recorded/pairs")
    best = best_of(found, "pairs-1000", "contrastive")
    others = [each for each in found if (each.regime, each.family) == ("pairs-1000", "contrastive")]
    assert len(best) == 1 and best[0].validation == max(each.validation for each in others)
    rows = [line for line in leaderboard(found, ["pairs-1000"], "abc", []).splitlines() if "| abc |" in line]
    assert len(rows) == len({each.family for each in found if each.regime == "pairs-1000"})
    assert any(f"| {best[0].method} | contrastive | {100 * best[0].score:.1f} |" in row for row in rows)
