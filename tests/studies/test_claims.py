"""Claims of papers: the verdict follows the rule, and a cheap row of each script lands where its record says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from mmvicreg.errors import InvalidValueError

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.stem for path in (ROOT / "studies/claims").glob("*.py"))
TRAINED = {
    "ica": pytest.mark.slow,
    "independence": pytest.mark.nightly,
    "predict_or_align": pytest.mark.slow,
    "visreg_terms": pytest.mark.slow,
}
"""Scripts whose cheapest row trains for some seconds."""
IMAGES = {"architectures", "objectives_table", "variance_rescue", "vicreg_ablations"}
"""Scripts whose figures are those of training encoders, in which machines differ: test_image_claims.py runs them."""
ROWS = [pytest.param(name, marks=TRAINED.get(name, ())) for name in SCRIPTS if name not in IMAGES]


@pytest.fixture(scope="module")
def studies():
    """The scripts of studies/ on the path."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "studies"))
    yield
    patch.undo()


def test_a_verdict_follows_the_comparisons(studies) -> None:
    from claim_record import Claim, Comparison

    rule = (Comparison("a", ">=", "b", times=2.0), Comparison("a", "<=", plus=10.0))
    claim = Claim("large", "a paper", "a is large", "none", rule)
    assert [str(each) for each in rule] == ["a ≥ 2 × b", "a ≤ 10"]
    assert claim.verdict({"a": [4.0, 6.0], "b": [2.0, 3.0]}) == "reproduced"
    assert claim.verdict({"a": [4.0, 5.0], "b": [3.0, 3.0]}) == "differs"
    assert claim.verdict({"a": [11.0], "b": [6.0]}) == "not reproduced"
    with pytest.raises(InvalidValueError, match=r"no figure \['b'\]; the script measured \['a'\]"):
        claim.verdict({"a": [1.0]})


def test_every_script_has_a_record_of_the_claims_that_it_declares(studies) -> None:
    from claim_record import read_records

    records = {record.script: record for record in read_records()}
    assert sorted(records) == SCRIPTS
    for name, record in records.items():
        declared = {claim.name: claim for claim in importlib.import_module(f"claims.{name}").CLAIMS}
        assert [claim.name for claim in record.claims] == list(declared)
        for claim in record.claims:
            now = declared[claim.name]
            assert claim.rule == [str(each) for each in now.rule], "the rule is not the one that judged"
            assert claim.verdict == now.verdict(claim.figures)
            assert (claim.paper, claim.source) == (now.paper, now.source)


@pytest.mark.parametrize("script", ROWS)
def test_a_cheap_row_lands_where_its_record_says(script: str, studies, tmp_path: Path, capsys) -> None:
    from claim_record import Config, read_records, run_claims

    module = importlib.import_module(f"claims.{script}")
    recorded = {
        claim.name: claim for record in read_records() if record.script == script for claim in record.claims
    }
    again = run_claims(
        str(module.__file__), module.CLAIMS, module.measure, Config(tmp_path / "again.json", tiny=True)
    )
    assert again.claims
    for claim in again.claims:
        for name, values in claim.figures.items():
            before = recorded[claim.name].figures[name]
            assert values[0] == pytest.approx(before[0], rel=0.25, abs=1e-4), (claim.name, name)
    verdicts = {claim.name: claim.verdict for claim in again.claims}
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == verdicts
    assert {name: recorded[name].verdict for name in verdicts} == verdicts
