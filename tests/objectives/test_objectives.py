"""One family of claims over every regularizer and alignment in ``mmvicreg.testing.cases``."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.objectives.alignments import PairContext
from mmvicreg.testing.cases import ALIGNMENTS, REGULARIZERS
from mmvicreg.testing.comparison import process_rows, relative_error, weighted_sum
from mmvicreg.testing.processes import pool

COUNTS: dict[int, list[tuple[int, ...]]] = {
    2: [(9, 9), (13, 5), (0, 17)],
    4: [(5, 5, 5, 5), (11, 0, 4, 6), (3, 2, 0, 0)],
}
SPLITS = [(size, counts) for size, each in COUNTS.items() for counts in each]
WIDTHS = (6, 48)


def regularize(name: str, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Terms, and the gradient of their weighted sum."""
    regularizer = REGULARIZERS[name].make()
    z = z.clone().requires_grad_()
    terms = regularizer.terms(z, seed=3)
    weighted_sum(terms, regularizer.weights()).backward()
    assert z.grad is not None
    return {term: value.detach() for term, value in terms.items()}, z.grad


def momentum_embeddings(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Something that the momentum branches might have said."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return a.detach().to(wide) * 0.9 + 0.1, b.detach().to(wide) * 0.9 - 0.1


def align(
    name: str, a: Tensor, b: Tensor, *, steps: int = 1, autocast: bool = False
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Terms, and the gradients of a, b and every parameter; after ``steps`` calls, for those with memory."""
    torch.manual_seed(5)
    alignment = ALIGNMENTS[name].make().to(torch.promote_types(a.dtype, torch.float32))
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    targets = None if alignment.momentum is None else momentum_embeddings(a, b)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for step in range(steps):
            alignment.begin_step()
            terms = alignment.terms(a, b, PairContext(3 + step, targets))
            alignment.end_step()
    weighted_sum(terms, alignment.weights()).backward()
    leaves = [a, b, *(p for p in alignment.parameters() if p.requires_grad)]
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]
    return {term: value.detach() for term, value in terms.items()}, gradients


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize(("rows", "width"), [(40, 6), (8, 64), (2, 3), (700, 20)])
def test_a_regularizer_equals_its_equation(name: str, rows: int, width: int) -> None:
    z = process_rows((rows,), width)[0][0]
    terms, gradient = regularize(name, z)
    leaf = z.clone().requires_grad_()
    expected = REGULARIZERS[name].reference(leaf, 3)
    weighted_sum(expected, REGULARIZERS[name].make().weights()).backward()
    assert leaf.grad is not None
    for term, value in expected.items():
        assert relative_error(terms[term], value.detach()) < 1e-11, term
    assert relative_error(gradient, leaf.grad) < 1e-10


@pytest.mark.parametrize("name", ALIGNMENTS)
@pytest.mark.parametrize("rows", [40, 8, 2])
def test_an_alignment_equals_its_equation(name: str, rows: int) -> None:
    case = ALIGNMENTS[name]
    (a,), (b,) = process_rows((rows,), case.width, views=2)
    terms, gradients = align(name, a, b)
    torch.manual_seed(5)
    alignment = case.make().to(a.dtype)
    leaves = [x.clone().requires_grad_() for x in (a, b)]
    targets = None if alignment.momentum is None else momentum_embeddings(a, b)
    expected = case.reference(alignment, leaves[0], leaves[1], 3, targets)
    weighted_sum(expected, alignment.weights()).backward()
    for term, value in expected.items():
        assert relative_error(terms[term], value.detach()) < 1e-11, term
    leaves += [p for p in alignment.parameters() if p.requires_grad]
    for found, leaf in zip(gradients, leaves, strict=True):
        assert relative_error(found, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad) < 1e-9


def own_regularizer(name: str, counts: tuple[int, ...], width: int) -> Any:
    return regularize(name, process_rows(counts, width)[0][distributed.rank()])


def own_alignment(name: str, counts: tuple[int, ...], steps: int) -> Any:
    views = process_rows(counts, ALIGNMENTS[name].width, views=2)
    return align(name, *(view[distributed.rank()] for view in views), steps=steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize(("size", "counts"), SPLITS)
@pytest.mark.parametrize("width", WIDTHS)
def test_processes_equal_one_for_a_regularizer(
    name: str, size: int, counts: tuple[int, ...], width: int
) -> None:
    results = pool(size).run(own_regularizer, name, counts, width)
    terms, gradient = regularize(name, torch.cat(process_rows(counts, width)[0]))
    for found, _ in results:
        for term, value in terms.items():
            assert relative_error(found[term], value) < 1e-11, term
    assert relative_error(torch.cat([g for _, g in results]) / size, gradient) < 1e-10


@pytest.mark.parametrize("name", ALIGNMENTS)
@pytest.mark.parametrize(("size", "counts"), SPLITS)
@pytest.mark.parametrize("steps", [1, 2])
def test_processes_equal_one_for_an_alignment(
    name: str, size: int, counts: tuple[int, ...], steps: int
) -> None:
    results = pool(size).run(own_alignment, name, counts, steps)
    views = [torch.cat(view) for view in process_rows(counts, ALIGNMENTS[name].width, views=2)]
    terms, (a, b, *parameters) = align(name, *views, steps=steps)
    for found, _ in results:
        for term, value in terms.items():
            assert relative_error(found[term], value) < 1e-11, term
    for view, expected in enumerate((a, b)):
        assert relative_error(torch.cat([g[view] for _, g in results]) / size, expected) < 1e-9
    for number, expected in enumerate(parameters):
        assert relative_error(sum(g[2 + number] for _, g in results) / size, expected) < 1e-9


@pytest.mark.parametrize("name", REGULARIZERS)
def test_no_rows_anywhere_give_zero_for_a_regularizer(name: str) -> None:
    for terms, gradient in [
        regularize(name, torch.zeros(0, 5)),
        *pool(2).run(own_regularizer, name, (0, 0), 5),
    ]:
        assert all(value == 0 for value in terms.values())
        assert gradient.shape == (0, 5)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_no_rows_anywhere_give_zero_for_an_alignment(name: str) -> None:
    nothing = torch.zeros(0, ALIGNMENTS[name].width)
    for terms, gradients in [align(name, nothing, nothing), *pool(2).run(own_alignment, name, (0, 0), 1)]:
        assert all(value == 0 for value in terms.values())
        assert all(bool((g == 0).all()) for g in gradients)


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_regularizer_computes_in_fp32_under_autocast(name: str) -> None:
    z = process_rows((64,), 24)[0][0].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        terms, gradient = regularize(name, z)
    expected, expected_gradient = regularize(name, z.float())
    for term, value in terms.items():
        assert value.dtype == torch.float32
        assert relative_error(value, expected[term]) < 1e-6, term
    assert relative_error(gradient, expected_gradient) < 4e-3  # rounded once, to bf16


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_an_alignment_computes_in_fp32_under_autocast(name: str) -> None:
    (a,), (b,) = (
        [x.bfloat16() for x in view] for view in process_rows((64,), ALIGNMENTS[name].width, views=2)
    )
    terms, gradients = align(name, a, b, autocast=True)
    expected, expected_gradients = align(name, a.float(), b.float())
    for term, value in terms.items():
        assert value.dtype == torch.float32
        assert relative_error(value, expected[term]) < ALIGNMENTS[name].autocast, term
    for found, gradient in zip(gradients[:2], expected_gradients, strict=False):
        assert relative_error(found, gradient) < 1e-2


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_regularizer_compiles_without_graph_breaks(name: str) -> None:
    regularizer = REGULARIZERS[name].make()

    def total(z: Tensor) -> Tensor:
        return weighted_sum(regularizer.terms(z * 2, seed=3), regularizer.weights())

    torch.compiler.reset()
    z = process_rows((32,), 24)[0][0].requires_grad_()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(z), z)
    (expected,) = torch.autograd.grad(total(z), z)
    assert relative_error(found, expected) < 1e-10


@pytest.mark.parametrize("name", ALIGNMENTS)
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # torch's own
def test_an_alignment_compiles_to_the_same_values_and_gradients(name: str) -> None:
    """In one process without a graph break, but for W-MSE, whose random groups come from a generator."""
    torch.manual_seed(5)
    whole = ALIGNMENTS[name].make().double()
    width = ALIGNMENTS[name].width
    (a,), (b,) = (part for part in process_rows((32,), width, views=2))
    a, b = a.requires_grad_(), b.requires_grad_()
    targets = None if whole.momentum is None else momentum_embeddings(a, b)

    def total(alignment: Any) -> Any:
        return lambda a, b: weighted_sum(alignment.terms(a, b, PairContext(3, targets)), alignment.weights())

    torch.compiler.reset()
    fullgraph = name != "whitened_mse"
    compiled = torch.compile(total(copy.deepcopy(whole)), fullgraph=fullgraph, backend="aot_eager")
    found, expected = compiled(a, b), total(whole)(a, b)
    assert relative_error(found.detach(), expected.detach()) < 1e-10
    for ours, plain in zip(
        torch.autograd.grad(found, (a, b), allow_unused=True),
        torch.autograd.grad(expected, (a, b), allow_unused=True),
        strict=True,
    ):
        assert (ours is None) == (plain is None)
        assert plain is None or relative_error(ours, plain) < 1e-10


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_regularizer_is_the_same_without_a_gradient(name: str) -> None:
    z = process_rows((32,), 24)[0][0]
    terms, _ = regularize(name, z)
    for term, value in REGULARIZERS[name].make().terms(z, seed=3).items():
        assert value == terms[term]


@pytest.mark.parametrize(("scale", "offset"), [(1e-3, 0.0), (100.0, 0.0), (0.5, 100.0)])
def test_hsic_does_not_cancel_in_fp32(scale: float, offset: float) -> None:
    z = process_rows((60,), 12)[0][0].mul(scale).add(offset).float()
    terms, gradient = regularize("hsic", z)
    exact, exact_gradient = regularize("hsic", z.double())
    assert relative_error(terms["hsic"], exact["hsic"]) < 1e-4
    assert relative_error(gradient, exact_gradient) < 1e-3


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize(("rows", "width"), [(60, 24), (30, 200)])
def test_a_regularizer_in_fp32_is_as_precise_as_fp32(name: str, rows: int, width: int) -> None:
    z = process_rows((rows,), width)[0][0].float()
    terms, gradient = regularize(name, z)
    exact, exact_gradient = regularize(name, z.double())
    for term, value in terms.items():
        assert relative_error(value, exact[term]) < 2e-6, term
    assert relative_error(gradient, exact_gradient) < 1e-5
