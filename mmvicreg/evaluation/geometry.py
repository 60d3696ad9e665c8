"""How a branch fills its space: functions of one matrix of rows, computed in float64.

Shapes: N rows, D dimensions. All take float tensors on any device, centred or not as each source says,
and return Python floats or small float64 arrays. Rank is not alignment: a branch can fill its space and
still match nothing, so read these beside retrieval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.unit_rows import require_finite


@dataclass(frozen=True)
class Geometry:
    """One branch at a glance; every field is described at the function of its name."""

    rows: int
    dimensions: int
    std_mean: float
    std_min: float
    std_max: float
    std_unit: float
    effective_rank: float
    rank_me: float
    participation_ratio: float
    alpha_req: float
    correlation_mean: float
    correlation_rms: float
    uniformity: float


def describe(z_ND: Tensor) -> Geometry:
    """All one-matrix numbers of a branch. Raises ValueError below two rows or on non-finite values."""
    z_ND = _checked(z_ND)
    std_D = z_ND.std(dim=0)
    correlation = off_diagonal_correlation(z_ND)
    eigenvalues = spectrum(z_ND)
    return Geometry(
        rows=z_ND.shape[0],
        dimensions=z_ND.shape[1],
        std_mean=float(std_D.mean()),
        std_min=float(std_D.min()),
        std_max=float(std_D.max()),
        std_unit=unit_std(z_ND),
        effective_rank=effective_rank(z_ND),
        rank_me=rank_me(z_ND),
        participation_ratio=participation_ratio(eigenvalues),
        alpha_req=alpha_req(eigenvalues),
        correlation_mean=correlation[0],
        correlation_rms=correlation[1],
        uniformity=uniformity(z_ND),
    )


def _checked(z_ND: Tensor) -> Tensor:
    if z_ND.ndim != 2 or len(z_ND) < 2:
        raise InvalidValueError(
            f"geometry needs a matrix (N, D) with N >= 2, found shape {tuple(z_ND.shape)}"
        )
    z_ND = z_ND.detach().to(torch.float64)
    require_finite(z_ND, "embeddings")
    return z_ND


def _unit(z_ND: Tensor) -> Tensor:
    return torch.nn.functional.normalize(z_ND, dim=1)


def _singular_values(z_ND: Tensor) -> np.ndarray:
    """Descending, (min(N, D),). From the smaller Gram matrix: exact to 1e-8 of the largest in float64."""
    gram = z_ND.T @ z_ND if len(z_ND) > z_ND.shape[1] else z_ND @ z_ND.T
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().flip(0).cpu().numpy()


def spectrum(z_ND: Tensor) -> np.ndarray:
    """Eigenvalues of the covariance (divisor N - 1), descending, float64 (min(N, D),)."""
    z_ND = _checked(z_ND)
    return _singular_values(z_ND - z_ND.mean(0)) ** 2 / (len(z_ND) - 1)


def unit_std(z_ND: Tensor) -> float:
    """sqrt(D) times the mean per-dimension std of l2-normalized rows: 1 when healthy, 0 when collapsed.

    SimSiam (Chen and He 2021, figure 2) plots it without the factor, healthy at 1 / sqrt(D).
    """
    return float(_unit(_checked(z_ND)).std(dim=0).mean() * z_ND.shape[1] ** 0.5)


def _entropy_rank(weights: np.ndarray, epsilon: float) -> float:
    total = weights.sum()
    if total <= 0:
        return 1.0
    fractions = weights / total + epsilon
    fractions = fractions[fractions > 0]
    return float(np.exp(-(fractions * np.log(fractions)).sum()))


def effective_rank(z_ND: Tensor) -> float:
    """exp(entropy) of the centred singular values, normalized to sum 1 (Roy and Vetterli 2007, def. 1).

    Between 1 and min(N - 1, D); 1 for a constant matrix.
    """
    z_ND = _checked(z_ND)
    values = _singular_values(z_ND - z_ND.mean(0))
    noise = max(1e-7 * float(values.max()), 1e-12 * float(z_ND.norm()))  # centring leaves rounding behind
    return _entropy_rank(np.where(values > noise, values, 0.0), 0.0)


def rank_me(z_ND: Tensor, *, epsilon: float = 1e-7) -> float:
    """RankMe (Garrido et al. 2023, arXiv 2210.02885, eq. 1): p_k = s_k / sum s + eps, exp(-sum p log p).

    s are the singular values of the *uncentred* matrix. 25,600 rows are enough; compare runs of one method
    only (both from the paper).
    """
    return _entropy_rank(_singular_values(_checked(z_ND)), epsilon)


def participation_ratio(eigenvalues: np.ndarray) -> float:
    """(sum l)^2 / sum l^2 of the covariance eigenvalues; 0 for a constant matrix."""
    square = float((eigenvalues**2).sum())
    return float(eigenvalues.sum()) ** 2 / square if square > 0 else 0.0


def alpha_req(eigenvalues: np.ndarray, *, first: int = 3, last: int = 100) -> float:
    """Decay exponent a of l_i ~ i^-a (Agrawal et al. 2022, alpha-ReQ): least squares in log-log.

    Fitted on eigenvalues first..last (counted from 1; the head is not part of the power law and the tail
    is noise), cut at 1e-12 of the largest. About 1 is good by the paper; nan below three eigenvalues.
    """
    kept = eigenvalues[first - 1 : last]
    kept = kept[kept > 1e-12 * max(float(eigenvalues.max(initial=0.0)), 1e-300)]
    if len(kept) < 3:
        return float("nan")
    index = np.log(np.arange(first, first + len(kept)))
    return float(-np.polyfit(index, np.log(kept), 1)[0])


def off_diagonal_correlation(z_ND: Tensor) -> tuple[float, float]:
    """Mean |r| and root mean square of r over all pairs of different dimensions (Pearson).

    VICReg (eq. 9) averages r itself, whose signs cancel. Dimensions that do not vary correlate 0 with all.
    """
    z_ND = _checked(z_ND)
    centred = z_ND - z_ND.mean(0)
    norm_D = centred.norm(dim=0)
    moving_D = norm_D > 1e-12 * z_ND.norm(dim=0).clamp_min(1e-300)
    scaled = torch.where(moving_D, centred / norm_D.clamp_min(1e-300), 0.0)
    r_DD = scaled.T @ scaled
    r_DD.fill_diagonal_(0)
    pairs = max(1, r_DD.shape[0] * (r_DD.shape[0] - 1))
    return float(r_DD.abs().sum() / pairs), float((r_DD.square().sum() / pairs).sqrt())


def alignment(a_ND: Tensor, b_ND: Tensor) -> float:
    """Mean squared distance of matching l2-normalized rows (Wang and Isola 2020, alpha = 2): 0 is perfect."""
    a_ND, b_ND = _pair(a_ND, b_ND)
    return float((_unit(a_ND) - _unit(b_ND)).square().sum(1).mean())


def uniformity(z_ND: Tensor, *, t: float = 2.0, block: int = 1024) -> float:
    """log mean exp(-t ||x - y||^2) over pairs of different l2-normalized rows (Wang and Isola 2020).

    0 when collapsed, towards -2t when spread over the sphere; exact, in blocks of rows.
    """
    unit_ND = _unit(_checked(z_ND))
    n, total = len(unit_ND), 0.0
    square_N = unit_ND.square().sum(1)  # 1, or 0 for a row of zeros
    for start in range(0, n, block):
        rows = slice(start, start + block)
        distance = square_N[rows, None] + square_N - 2 * unit_ND[rows] @ unit_ND.T
        kernel = torch.exp(-t * distance.clamp_min(0))
        kernel.diagonal(start).zero_()
        total += float(kernel.sum())
    return float(np.log(max(total, 1e-300) / (n * (n - 1))))


def _pair(a_ND: Tensor, b_ND: Tensor) -> tuple[Tensor, Tensor]:
    if a_ND.shape != b_ND.shape:
        raise InvalidValueError(
            f"matching rows need equal shapes, found {tuple(a_ND.shape)} and {tuple(b_ND.shape)}"
        )
    return _checked(a_ND), _checked(b_ND)


@dataclass(frozen=True)
class ModalityGap:
    """Distance between two modalities on the unit sphere, of the mean and of what is left without it.

    ``centroid``: || mean a - mean b || (Liang et al. 2022); ``distribution``: energy distance between the
    two after each is centred, so that a shift alone gives 0; ``centroid_accuracy``: fraction of rows nearer
    to their own modality's centroid (0.5 when they mix, 1.0 when apart).
    """

    centroid: float
    distribution: float
    centroid_accuracy: float


def modality_gap(a_ND: Tensor, b_MD: Tensor) -> ModalityGap:
    """Gap between two sets of embeddings of one width; rows need not match.

    Raises ValueError where the widths differ.
    """
    a_ND, b_MD = _unit(_checked(a_ND)), _unit(_checked(b_MD))
    if a_ND.shape[1] != b_MD.shape[1]:
        raise InvalidValueError(f"one width is needed, found {a_ND.shape[1]} and {b_MD.shape[1]}")
    a_D, b_D = a_ND.mean(0), b_MD.mean(0)
    side = [(torch.cdist(z, torch.stack([a_D, b_D]))) for z in (a_ND, b_MD)]
    right = [float((d[:, 0] < d[:, 1]).double().mean()) for d in side]
    tie = [float((d[:, 0] == d[:, 1]).double().mean()) / 2 for d in side]
    accuracy = (right[0] + tie[0] + 1 - right[1] - tie[1]) / 2
    return ModalityGap(float((a_D - b_D).norm()), energy_distance(a_ND - a_D, b_MD - b_D), accuracy)


def energy_distance(a_ND: Tensor, b_MD: Tensor) -> float:
    """sqrt(2 E||a - b|| - E||a - a'|| - E||b - b'||) (Székely and Rizzo 2013), all pairs: 0 iff equal."""

    def mean_distance(x: Tensor, y: Tensor) -> float:
        total = sum(float(torch.cdist(rows, y).sum()) for rows in x.split(1024))
        return total / (len(x) * len(y))

    a_ND, b_MD = a_ND.double(), b_MD.double()
    square = 2 * mean_distance(a_ND, b_MD) - mean_distance(a_ND, a_ND) - mean_distance(b_MD, b_MD)
    return max(square, 0.0) ** 0.5


def lidar(views_NQD: Tensor, *, delta: float = 1e-4, epsilon: float = 1e-8) -> float:
    """LiDAR (Thilak et al. 2023, arXiv 2312.04000): the rank of what tells samples apart from their views.

    views_NQD: N samples with Q >= 2 views each (an image and its caption, two crops). With S_b the
    covariance of the means and S_w that of the views around them (plus delta I), the exp(entropy) of the
    eigenvalues of S_w^-1/2 S_b S_w^-1/2, with epsilon added to each. Bounded by min(N - 1, D).
    """
    if views_NQD.ndim != 3 or views_NQD.shape[0] < 2 or views_NQD.shape[1] < 2:
        raise InvalidValueError(f"lidar needs (samples >= 2, views >= 2, D), found {tuple(views_NQD.shape)}")
    views_NQD = views_NQD.detach().double()
    n, q, d = views_NQD.shape
    mean_ND = views_NQD.mean(1)
    between_ND = mean_ND - mean_ND.mean(0)
    within = (views_NQD - mean_ND[:, None]).reshape(-1, d)
    within_DD = within.T @ within / (n * (q - 1)) + delta * torch.eye(
        d, device=within.device, dtype=within.dtype
    )
    # S_w = L L': the eigenvalues are those of (L^-1 B')(L^-1 B')' / (n - 1), which needs no root of S_w.
    lower = torch.linalg.cholesky(within_DD)
    white_ND = torch.linalg.solve_triangular(lower, between_ND.T, upper=False).T
    eigenvalues = np.zeros(d)
    found = _singular_values(white_ND) ** 2 / (n - 1)
    eigenvalues[: len(found)] = found
    fractions = (eigenvalues + epsilon) / (eigenvalues + epsilon).sum()
    return float(np.exp(-(fractions * np.log(fractions)).sum()))
