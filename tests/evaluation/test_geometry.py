"""Geometry against closed forms, NumPy, SciPy and scikit-learn."""

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import scipy.stats
import torch
from sklearn.covariance import empirical_covariance

from mmvicreg.evaluation import geometry


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_singular_values(values, n=50):
    """A centred matrix with exactly these singular values."""
    left = normal(n, len(values))
    left, _ = torch.linalg.qr(left - left.mean(0))
    right, _ = torch.linalg.qr(normal(len(values), len(values), seed=1))
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T


@pytest.mark.parametrize("shape", [(100, 7), (9, 30)])
def test_spectrum_equals_scikit_learns_covariance(shape):
    z = normal(*shape)
    covariance = empirical_covariance(z.numpy()) * shape[0] / (shape[0] - 1)
    expected = np.linalg.eigvalsh(covariance)[::-1][: min(shape)]
    np.testing.assert_allclose(geometry.spectrum(z), expected, atol=1e-12)


def test_effective_rank_of_k_equal_directions_is_k():
    assert geometry.effective_rank(with_singular_values([2.0] * 6)) == pytest.approx(6)
    assert geometry.effective_rank(with_singular_values([2.0] * 6 + [0.0] * 4)) == pytest.approx(6)
    assert geometry.effective_rank(torch.ones(10, 5)) == 1.0
    assert geometry.effective_rank(with_singular_values([2.0] * 6) + 100) == pytest.approx(6)


def test_effective_rank_and_rank_me_equal_scipys_entropy():
    z = normal(80, 12) * torch.arange(1, 13)
    centred = scipy.linalg.svdvals((z - z.mean(0)).numpy())
    assert geometry.effective_rank(z) == pytest.approx(np.exp(scipy.stats.entropy(centred)))
    values = scipy.linalg.svdvals(z.numpy())
    share = values / values.sum() + 1e-7
    assert geometry.rank_me(z) == pytest.approx(np.exp(-(share * np.log(share)).sum()))


def test_participation_ratio_and_alpha_follow_a_power_law():
    eigenvalues = np.arange(1, 201.0) ** -1.3
    assert geometry.alpha_req(eigenvalues) == pytest.approx(1.3)
    assert geometry.participation_ratio(np.ones(9)) == pytest.approx(9)
    assert geometry.participation_ratio(np.array([1.0, 0.0])) == 1.0


def test_off_diagonal_correlation_equals_numpys():
    z = normal(60, 8) @ normal(8, 8, seed=2)
    r = np.corrcoef(z.numpy().T)[~np.eye(8, dtype=bool)]
    assert geometry.off_diagonal_correlation(z) == pytest.approx((np.abs(r).mean(), np.sqrt((r**2).mean())))
    z[:, 0] = 3.0  # a dimension that does not move
    assert np.isfinite(geometry.off_diagonal_correlation(z)).all()


def test_uniformity_and_alignment_equal_the_pairwise_definition():
    z, other = normal(70, 5), normal(70, 5, seed=3)
    unit = torch.nn.functional.normalize(z).numpy()
    distance = scipy.spatial.distance.pdist(unit, "sqeuclidean")
    assert geometry.uniformity(z, block=16) == pytest.approx(np.log(np.exp(-2 * distance).mean()))
    assert geometry.uniformity(torch.ones(9, 3)) == pytest.approx(0, abs=1e-9)
    pairs = np.sum((unit - torch.nn.functional.normalize(other).numpy()) ** 2, axis=1).mean()
    assert geometry.alignment(z, other) == pytest.approx(pairs)


def test_unit_std_is_one_on_the_sphere_and_zero_when_collapsed():
    assert geometry.unit_std(normal(20000, 32)) == pytest.approx(1, abs=0.01)
    assert geometry.unit_std(torch.ones(10, 32)) == pytest.approx(0, abs=1e-9)


def test_energy_distance_equals_scipys_in_one_dimension():
    a, b = normal(40, 1), normal(50, 1, seed=4) + 1
    expected = scipy.stats.energy_distance(a[:, 0].numpy(), b[:, 0].numpy())
    assert geometry.energy_distance(a, b) == pytest.approx(expected)


def test_the_gap_separates_a_shift_from_a_change_of_shape():
    base = torch.nn.functional.normalize(normal(300, 6))
    same = geometry.modality_gap(base, base)
    assert (same.centroid, same.distribution) == pytest.approx((0, 0), abs=1e-7)
    opposite = geometry.modality_gap(torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[-1.0, 0], [-1, 0]]))
    assert (opposite.centroid, opposite.distribution) == pytest.approx((2, 0), abs=1e-7)
    assert opposite.centroid_accuracy == 1.0
    narrow = torch.nn.functional.normalize(base * torch.tensor([1.0, 1, 1, 0, 0, 0]))
    assert geometry.modality_gap(base, narrow).distribution > 0.1


def test_lidar_counts_the_directions_that_tell_samples_apart():
    means = with_singular_values([50.0] * 5 + [0.0] * 5, n=60)
    noise = torch.nn.functional.pad(torch.ones(60, 1, 10, dtype=torch.float64), (0, 0, 0, 1)) * 0
    views = means[:, None] + noise
    assert geometry.lidar(views, delta=1.0) == pytest.approx(5, rel=1e-6)


def test_lidar_equals_the_generalised_eigenvalues_of_scipy():
    views = normal(30 * 3, 8).reshape(30, 3, 8) + normal(30, 8, seed=7)[:, None]
    means = views.mean(1)
    within = (views - means[:, None]).reshape(-1, 8).numpy()
    between = np.cov(means.numpy().T)
    values = scipy.linalg.eigvalsh(between, within.T @ within / (30 * 2) + 1e-4 * np.eye(8)) + 1e-8
    expected = np.exp(scipy.stats.entropy(values))
    assert geometry.lidar(views) == pytest.approx(expected)


def test_describe_is_finite_on_healthy_and_collapsed_embeddings():
    healthy, collapsed = geometry.describe(normal(200, 16).float()), geometry.describe(torch.ones(200, 16))
    assert healthy.effective_rank > 15 and healthy.rows == 200
    assert collapsed.effective_rank == 1 and collapsed.std_mean == 0 and collapsed.correlation_rms == 0


def test_bad_matrices_are_named():
    with pytest.raises(ValueError, match="N >= 2"):
        geometry.describe(torch.ones(1, 4))
    broken = torch.ones(4, 4)
    broken[2, 1] = float("nan")
    with pytest.raises(ValueError, match="row 2 of the embeddings is not finite"):
        geometry.describe(broken)
