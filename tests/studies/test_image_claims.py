"""Claims on image-only training: the pictures, the pretexts that the package has no part for, and small runs."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def studies():
    """The scripts of studies/ on the path."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "studies"))
    yield
    patch.undo()


def test_no_picture_is_in_two_parts_of_the_division() -> None:
    from image_data import divide

    division = divide()
    parts = [division.train, division.validation, division.test]
    assert [len(part.labels) for part in parts] == [1000, 297, 500]
    rows = torch.cat([part.pixels.flatten(1) for part in parts])
    assert len(rows.unique(dim=0)) == len(rows) == 1797
    few = division.train.of_each_class(1)
    assert sorted(few.labels) == list(range(10))


def test_the_pieces_of_a_jigsaw_are_those_of_the_picture() -> None:
    from image_pretexts import PIECE, pieces

    x = torch.arange(2 * 3 * 8 * 8.0).reshape(2, 3, 8, 8)
    cut = pieces(x, PIECE, PIECE)
    assert torch.equal(cut[1, 1], x[1, :, :4, 4:]) and torch.equal(cut[0, 2], x[0, :, 4:, :4])


def test_a_memory_bank_is_compared_with_the_views_and_follows_the_first() -> None:
    from image_pretexts import MemoryBank

    from mmvicreg import PairContext

    torch.manual_seed(0)
    bank = MemoryBank(width=4, pictures=5, temperature=0.5)
    before, rows = bank.bank.clone(), torch.tensor([3, 1])
    a, b = (torch.randn(2, 4).requires_grad_() for _ in range(2))
    found = bank.terms(a, b, PairContext(identities=(rows, rows)))["memory_bank"]
    slow = torch.zeros((), dtype=torch.float64)
    for view in (a, b):
        for x, row in zip(view.double(), rows.tolist(), strict=True):
            scores = [(F.cosine_similarity(x, entry, dim=0) / 0.5).exp() for entry in before.double()]
            slow = slow - (scores[row] / sum(scores)).log() / 4
    assert found.item() == pytest.approx(slow.item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(loss, (a, b), retain_graph=True) for loss in (found, slow))
    assert all(torch.allclose(x, y, rtol=1e-4, atol=1e-6) for x, y in zip(ours, theirs, strict=True))
    bank.end_step()
    followed = F.normalize((before[3] + F.normalize(a[0].detach(), dim=0)) / 2, dim=0)
    assert torch.allclose(bank.bank[3], followed) and torch.equal(bank.bank[0], before[0])


def test_what_is_predicted_of_a_patch_does_not_depend_on_the_patch() -> None:
    from image_pretexts import GRID, Context

    torch.manual_seed(0)
    context, h = Context(6, 4), torch.randn(1, GRID**2, 6)
    other = h.clone()
    other[:, -GRID:] = torch.randn(1, GRID, 6)  # the last row of patches, which is only predicted
    (predicted, target), (again, goal) = context(h), context(other)
    assert torch.allclose(predicted, again) and not torch.allclose(target, goal)


def test_a_run_that_the_file_holds_is_not_repeated(tmp_path: Path) -> None:
    from image_runs import Runs

    calls = []

    def job() -> dict[str, float]:
        calls.append(1)
        return {"validation": 50.0, "all": 40.0}

    file = tmp_path / "runs.jsonl"
    Runs(file).run({("a", 0): job})
    again = Runs(file)
    again.run({("a", 0): job, ("a", 1): job})
    assert len(calls) == 2 and again.values("a") == [40.0, 40.0]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("variance_rescue", marks=pytest.mark.slow),
        *(
            pytest.param(name, marks=pytest.mark.nightly)
            for name in ("architectures", "objectives_table", "vicreg_ablations")
        ),
    ],
)
def test_a_small_run_measures_every_claim(script: str) -> None:
    from claim_record import Config, judge

    module = importlib.import_module(f"claims.{script}")
    figures = module.measure(Config(tiny=True))
    for claim in module.CLAIMS:
        judged = judge(claim, figures[claim.name])
        assert all(math.isfinite(value) for values in judged.figures.values() for value in values)
        assert len(judged.held) == len(claim.rule)
