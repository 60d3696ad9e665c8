"""Independence measures against definitions, brute force and known limits."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel as sklearn_rbf

from mmvicreg.evaluation import independence as ind
from mmvicreg.objectives.regularizers.directions import directions
from mmvicreg.objectives.regularizers.sigreg import SIGReg, sigreg_statistic


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_kernel_is_scikit_learns_at_the_median_bandwidth():
    x = normal(30, 2)
    distance = torch.pdist(x).square().median()
    np.testing.assert_allclose(ind.rbf_kernel(x), sklearn_rbf(x, gamma=float(1 / (2 * distance))))


def test_unbiased_hsic_equals_its_definition_over_distinct_indices():
    k, l = ind.rbf_kernel(normal(7, 1)), ind.rbf_kernel(normal(7, 1, seed=1))  # noqa: E741
    n = 7
    two = np.mean([k[i, j] * l[i, j] for i, j in itertools.permutations(range(n), 2)])
    four = np.mean([k[i, j] * l[q, r] for i, j, q, r in itertools.permutations(range(n), 4)])
    three = np.mean([k[i, j] * l[i, q] for i, j, q in itertools.permutations(range(n), 3)])
    assert ind.unbiased_hsic(k, l) == pytest.approx(float(two + four - 2 * three))


def test_dependence_without_correlation_is_seen():
    x = normal(400, 1)
    independent = torch.cat([x, normal(400, 1, seed=5)], 1)
    bent = torch.cat([x, x.square()], 1)
    assert abs(ind.pairwise_hsic(independent)) < 2e-3
    assert ind.pairwise_hsic(bent) > 2e-2
    assert ind.dhsic(bent) > 5 * ind.dhsic(independent)


def test_dhsic_of_two_dimensions_is_biased_hsic():
    z = normal(40, 2)
    k, l = (ind.rbf_kernel(z[:, j]).numpy() for j in (0, 1))  # noqa: E741
    h = np.eye(40) - 1 / 40
    assert ind.dhsic(z) == pytest.approx(np.trace(k @ h @ l @ h) / 40**2)


def test_pairwise_hsic_of_all_pairs_is_their_mean():
    z = normal(25, 4)
    expected = np.mean(
        [
            ind.unbiased_hsic(ind.rbf_kernel(z[:, a]), ind.rbf_kernel(z[:, b]))
            for a, b in itertools.combinations(range(4), 2)
        ]
    )
    assert ind.pairwise_hsic(z) == pytest.approx(expected)


def slow_statistic(z, slices, knots, seed):
    """The definition, with the cosine and sine of every knot in [-3, 3] computed anew (LeJEPA, arXiv 2511.08544)."""
    projected = z @ directions(z, slices=slices, seed=seed).double().T
    t = torch.linspace(-3, 3, 2 * knots - 1, dtype=torch.float64)
    gap = []
    for knot in t:
        real = torch.cos(knot * projected).mean(0) - torch.exp(-(knot**2) / 2)
        square = real.square() + torch.sin(knot * projected).mean(0).square()
        gap.append(square * torch.exp(-(knot**2) / 2))
    return float(len(z) * torch.trapezoid(torch.stack(gap), t, dim=0).mean())


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_the_sigreg_statistic_is_its_definition_and_the_term_of_the_objective(scale):
    z = scale * normal(70, 12)
    found = sigreg_statistic(z, slices=40, knots=9, seed=3)
    assert found == pytest.approx(slow_statistic(z, 40, 9, 3), rel=1e-9)
    term = SIGReg(slices=40, knots=9).terms(z, seed=3)["sigreg"]
    assert found == pytest.approx(float(term), rel=1e-12)


def test_the_sigreg_statistic_has_its_known_limits():
    healthy = [sigreg_statistic(normal(500, 32, seed=s)) for s in range(3)]
    assert np.mean(healthy) == pytest.approx(1.06, abs=0.1)
    assert sigreg_statistic(torch.zeros(500, 32)) == pytest.approx(0.41 * 500, rel=0.05)


def test_one_call_has_all_of_them_and_small_inputs_have_what_can_be_had():
    z = normal(600, 8)
    found = ind.independence(z, rows=300)
    rows = z[torch.linspace(0, 599, 300).round().long()]
    assert found.rows == 300 and found.pairs == 28
    assert found.pairwise_hsic == pytest.approx(ind.pairwise_hsic(rows))
    assert abs(found.pairwise_hsic) < 1e-3 and 0.5 < found.sigreg < 2
    dependent = ind.independence(torch.cat([z[:, :4], z[:, :4].square()], 1), rows=300)
    assert dependent.pairwise_hsic > 3e-3 and dependent.dhsic > 1.5 * found.dhsic
    alone = ind.independence(z[:3])
    assert np.isnan(alone.pairwise_hsic) and np.isfinite(alone.sigreg)
    assert np.isnan(ind.independence(z[:, :1]).dhsic)


def test_group_dhsic_of_all_dimensions_is_dhsic():
    z = normal(50, 3)
    assert ind.group_dhsic(z, size=3, groups=2) == pytest.approx(ind.dhsic(z))
