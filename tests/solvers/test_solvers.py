"""Solvers against independent computations: SciPy's generalized eigenvalues, cca-zoo, scikit-learn, plain formulas."""

from contextlib import nullcontext

import numpy as np
import pytest
import scipy.linalg
import torch
from paired_features import centred, correlated, plain_spaces
from sklearn.linear_model import Ridge as PeerRidge

from mmvicreg.errors import InvalidValueError
from mmvicreg.solvers.canonical import CCA, PLS, Procrustes
from mmvicreg.solvers.leave_one_out import leave_one_out
from mmvicreg.solvers.maxvar import MaxVar
from mmvicreg.solvers.ridge import Ridge
from mmvicreg.solvers.solution import Solution
from mmvicreg.solvers.statistics.moments import Moments
from mmvicreg.solvers.statistics.pairing import PairedRows, count_moments
from mmvicreg.solvers.whitening import Axes, Whitening

EXACT = Whitening(ridge=0.0)


def moments_of(data: PairedRows) -> Moments:
    return count_moments(data, plain_spaces(data))


def eigenvalue_correlations(data: PairedRows, ridge: float) -> np.ndarray:
    """Canonical correlations by SciPy: the generalized eigenvalues of [0 Cxy; Cyx 0] against diag(Cxx, Cyy)."""
    x, y = (centred(data.rows[name]).numpy() for name in "ab")
    n, width = len(x), x.shape[1]
    block = np.zeros((width + y.shape[1],) * 2)
    block[:width, width:] = x.T @ y / n
    block = block + block.T
    scale = np.zeros_like(block)
    for part, each in ((slice(0, width), x), (slice(width, None), y)):
        own = each.T @ each / n
        scale[part, part] = own + ridge * np.trace(own) / len(own) * np.eye(len(own))
    values = scipy.linalg.eigh(block, scale, eigvals_only=True)
    return values[::-1][: min(width, y.shape[1])]


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_cca_equals_the_generalized_eigenvalues_of_scipy(ridge: float, scale: float) -> None:
    data = correlated(400, scale=scale)
    axes = CCA(Whitening(ridge=ridge)).decompose(moments_of(data))
    reference = eigenvalue_correlations(correlated(400), ridge)
    np.testing.assert_allclose(axes.strengths.numpy(), reference, rtol=2e-5 if scale != 1 else 1e-8)


def test_cca_axes_have_unit_variance_and_are_correlated_axis_by_axis_only() -> None:
    data = correlated(500)
    axes = CCA(EXACT).decompose(moments_of(data))
    u, v = (centred(data.rows[name]) @ axes.maps[name] for name in "ab")
    count = len(axes.strengths)
    eye = torch.eye(count, dtype=torch.float64)
    torch.testing.assert_close(u.T @ u / 500, eye, atol=1e-8, rtol=0)
    torch.testing.assert_close(v.T @ v / 500, eye, atol=1e-8, rtol=0)
    torch.testing.assert_close(u.T @ v / 500, torch.diag(axes.strengths), atol=1e-8, rtol=0)


def test_cca_equals_cca_zoo() -> None:
    zoo = pytest.importorskip("cca_zoo.linear", exc_type=ImportError)
    data = correlated(300)
    peer = zoo.CCA(n_components=5).fit([data.rows["a"].astype(float), data.rows["b"].astype(float)])
    u, v = peer.transform([data.rows["a"].astype(float), data.rows["b"].astype(float)])
    found = [np.corrcoef(u[:, k], v[:, k])[0, 1] for k in range(5)]
    axes = CCA(EXACT).decompose(moments_of(data))
    np.testing.assert_allclose(axes.strengths[:5].numpy(), found, atol=1e-6)


def test_a_decomposition_leaves_the_moments_as_they_were_also_where_it_fails() -> None:
    data = correlated(300)
    still = PairedRows({**data.rows, "b": np.ones_like(data.rows["b"])}, data.samples)
    for each, fails in ((data, False), (still, True)):
        moments = moments_of(each)
        before = {name: space.covariance.clone() for name, space in moments.spaces.items()}
        with pytest.raises(InvalidValueError, match="constant") if fails else nullcontext():
            CCA(Whitening(ridge=0.1)).decompose(moments)
        for name, expected in before.items():
            torch.testing.assert_close(moments.space(name).covariance, expected, rtol=0, atol=0)


def test_fewer_rows_than_dimensions_give_finite_axes_that_fit_perfectly_without_a_ridge() -> None:
    data = correlated(8, (12, 9))
    axes = CCA(EXACT).decompose(moments_of(data))
    assert len(axes.strengths) == 7  # the rank of 8 centred rows
    np.testing.assert_allclose(axes.strengths.numpy(), 1, atol=1e-6)
    regularized = CCA(Whitening(ridge=1.0)).decompose(moments_of(data))
    assert all(
        bool(torch.isfinite(each).all()) for each in (*regularized.maps.values(), regularized.strengths)
    )
    assert float(regularized.strengths[0]) < 1


def test_repeated_and_constant_dimensions_change_no_correlation() -> None:
    data = correlated(300)
    extended = np.concatenate(
        [data.rows["a"], data.rows["a"][:, :3], np.full((300, 2), 7.0, np.float32)], axis=1
    )
    wider = PairedRows({**data.rows, "a": extended}, data.samples)
    narrow, wide = (CCA(EXACT).decompose(moments_of(each)).strengths for each in (data, wider))
    torch.testing.assert_close(narrow, wide, atol=1e-8, rtol=0)


def test_pls_and_procrustes_are_the_singular_vectors_of_the_cross_covariance() -> None:
    data = correlated(300)
    moments = moments_of(data)
    x, y = (centred(data.rows[name]) for name in "ab")
    u, s, _ = torch.linalg.svd(x.T @ y / 300, full_matrices=False)
    axes = PLS().decompose(moments)
    torch.testing.assert_close(axes.strengths, s, rtol=1e-8, atol=0)
    torch.testing.assert_close(
        (axes.maps["a"].T @ u).abs(), torch.eye(9, dtype=torch.float64), atol=1e-6, rtol=0
    )
    solution = Procrustes().heads(Procrustes().decompose(moments))
    a, b = (solution.branches[name][0].matrix for name in "ab")
    rotation, _ = scipy.linalg.orthogonal_procrustes(y.numpy() @ np.eye(9, 12), x.numpy())
    # b is narrower: its rotation into a's space is b a', and no other one fits better.
    ours = (y @ (b @ a.T) - x).norm()
    theirs = (torch.from_numpy(y.numpy() @ np.eye(9, 12) @ rotation) - x).norm()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_ridge_predicts_as_scikit_learn_does() -> None:
    data = correlated(300)
    moments = moments_of(data)
    solver = Ridge(ridge=0.2, target=Whitening(power=0.0), direction="first")
    solution = solver.heads(solver.decompose(moments))
    x, y = (centred(data.rows[name]) for name in "ab")
    alpha = 0.2 * float(x.square().mean()) * len(x)
    peer = PeerRidge(alpha=alpha, fit_intercept=False).fit(x.numpy(), y.numpy())
    found = x @ solution.branches["a"][0].matrix
    np.testing.assert_allclose(found.numpy(), peer.predict(x.numpy()), atol=1e-6)


def test_leave_one_out_errors_equal_those_of_regressions_without_each_pair() -> None:
    data = correlated(30)
    moments, ridges = moments_of(data), (0.03, 0.3, 3.0)
    x, y = (torch.from_numpy(data.rows[name]).double() for name in "ab")
    blocks = [(x[:17], y[:17]), (x[17:], y[17:])]
    found = leave_one_out(blocks, moments, ("a", "b"), ridges=ridges)
    spread = float((x - x.mean(0)).square().mean()) * len(x)
    for ridge, error in zip(ridges, found, strict=True):
        errors = []
        for left in range(len(x)):
            others = [row for row in range(len(x)) if row != left]
            peer = PeerRidge(alpha=ridge * spread).fit(x[others].numpy(), y[others].numpy())
            errors.append(((peer.predict(x[[left]].numpy()) - y[[left]].numpy()) ** 2).sum())
        assert float(error) == pytest.approx(np.mean(errors), rel=1e-8)


def test_two_way_ridge_scores_the_sum_of_both_cosines() -> None:
    data = correlated(200)
    solver = Ridge(balance=0.5)
    solution = solver.heads(solver.decompose(moments_of(data)))
    assert [part.weight for part in solution.branches["a"]] == [1.0, 0.5**0.5]
    x, y = (torch.from_numpy(data.rows[name]).double() for name in "ab")
    from mmvicreg.solvers.solution import embed_with

    z = [embed_with(solution.branches[name], {"a": x, "b": y}) for name in "ab"]
    (fx, wx), (vy, gy) = (
        [(rows - part.mean) @ part.matrix for part in solution.branches[name]]
        for name, rows in (("a", x), ("b", y))
    )
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close((z[0] * z[1]).sum(1), cosine(fx, vy) + 0.5 * cosine(wx, gy))


def test_maxvar_of_two_branches_is_cca() -> None:
    moments = moments_of(correlated(300))
    one, other = CCA(EXACT).decompose(moments), MaxVar(EXACT).decompose(moments)
    torch.testing.assert_close(one.strengths, other.strengths[: len(one.strengths)], atol=1e-9, rtol=0)
    for name in "ab":
        leading = [axes.maps[name][:, :4] for axes in (one, other)]
        torch.testing.assert_close(leading[0].abs(), leading[1].abs(), atol=1e-7, rtol=1e-6)


def test_maxvar_of_three_branches_solves_its_generalized_eigenvalue_problem() -> None:
    data = correlated(400, (6, 7, 8))
    axes = MaxVar(EXACT).decompose(moments_of(data))
    x = [centred(data.rows[name]).numpy() for name in "abc"]
    stacked = np.concatenate(x, axis=1)
    own = scipy.linalg.block_diag(*(each.T @ each for each in x))
    values = scipy.linalg.eigh(stacked.T @ stacked, own, eigvals_only=True)[::-1]
    count = len(axes.strengths)
    np.testing.assert_allclose(axes.strengths.numpy() + 1, values[:count], atol=1e-8)


def test_axes_are_weighted_by_their_correlation_and_cut_to_the_width() -> None:
    moments = moments_of(correlated(300))
    axes = CCA(EXACT).decompose(moments)
    solution: Solution = CCA(EXACT, axis_power=2.0, width=3).heads(axes)
    expected = axes.maps["a"][:, :3] * (axes.strengths[:3] / axes.strengths[0]) ** 2
    torch.testing.assert_close(solution.branches["a"][0].matrix, expected)
    assert isinstance(axes, Axes)
