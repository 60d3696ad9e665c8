"""SIGReg: every one-dimensional projection is a standard normal (LeJEPA, Balestriero, LeCun, 2511.08544).

n own rows, D features, K slices, T knots; N rows of all processes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmvicreg.distributed import all_reduce_sum, row_counts, world_size
from mmvicreg.numerics import statistics_dtype, without_autocast
from mmvicreg.objectives.arguments import expect, expect_positive
from mmvicreg.objectives.regularizers.characteristic import characteristic_function
from mmvicreg.objectives.regularizers.closed_form import needs_gradient, no_columns, nothing, register
from mmvicreg.objectives.regularizers.directions import add_projected_back, directions, project
from mmvicreg.objectives.regularizers.regularizer import Regularizer


class SIGReg(Regularizer):
    """Epps-Pulley statistic of random projections, averaged over them.

    sigreg = N * integral |phi_N(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt over [-limit, limit] by the trapezoidal
    rule, with ``knots`` knots on [0, limit] (the rest by symmetry), averaged over ``slices`` random directions that
    are equal on all processes. Of standard normal embeddings it is about 1.06 at any N. N counts the rows of all
    processes; ``times_rows=False`` leaves the factor N out, as eb_jepa does. For the weights of other
    implementations see ``SIGRegCoefficients``. ``chunk``: directions projected at a time; memory is the gradient and
    n x chunk values. ``compiled``: on a CPU torch.compile fuses the passes over the knots, about twice as fast after
    some 20 s of compiling once; it needs a C++ compiler. On a GPU the kernels are fused either way.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        slices: int = 1024,
        knots: int = 17,
        limit: float = 3.0,
        times_rows: bool = True,
        chunk: int = 256,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.weight, self.slices, self.knots, self.limit = weight, slices, knots, limit
        self.times_rows, self.chunk, self.compiled = times_rows, chunk, compiled
        expect_positive(self, "slices", "chunk", "limit")
        expect("SIGReg.knots", self.knots, holds=self.knots > 1, expected="at least 2 (17 is usual)")

    def weights(self) -> dict[str, float]:
        return {"sigreg": self.weight}

    def terms(self, z_nD: Tensor, *, seed: int) -> dict[str, Tensor]:
        z_nD = statistics_dtype(z_nD)
        with without_autocast(z_nD):
            values, *_ = _sigreg(
                z_nD,
                seed,
                self.slices,
                self.knots,
                self.limit,
                self.times_rows,
                self.chunk,
                self.compiled,
                needs_gradient(z_nD),
            )
        return {"sigreg": values[0]}


def trapezoid(knots: int, limit: float) -> tuple[Tensor, Tensor]:
    """Standard normal's characteristic function and the integration weights at the knots, fp64 (T,)."""
    t = torch.linspace(0, limit, knots, dtype=torch.float64)
    normal = torch.exp(-t.square() / 2)
    weights = torch.full_like(t, 2 * limit / (knots - 1))
    weights[0] = weights[-1] = limit / (knots - 1)
    return normal, weights * normal


@torch.no_grad()
def sigreg_statistic(
    z_ND: Tensor, *, slices: int = 256, knots: int = 17, limit: float = 3.0, seed: int = 0
) -> float:
    """The term ``sigreg`` of these rows alone, whatever other processes hold: a measurement, without gradient.

    About 1.06 for standard normal rows at any N; nan without rows.
    """
    if len(z_ND) == 0:
        return float("nan")
    z_ND, step = statistics_dtype(z_ND.detach()), limit / (knots - 1)
    normal_T, weight_T = (x[1:, None].to(z_ND.device) for x in trapezoid(knots, limit))
    with without_autocast(z_ND):
        projected = project(z_ND, directions(z_ND, slices=slices, seed=seed))
        sums, _ = characteristic_function(projected, knots=knots - 1, step=step, compiled=False)
    real, imaginary = _gap(torch.view_as_real(sums), len(z_ND), normal_T)
    return float(_squared(real, imaginary, weight_T) * (len(z_ND) / slices))


def _gap(sums: Tensor, rows: int, normal_T: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the empirical characteristic function minus the standard normal's, fp64 (T, K)."""
    real, imaginary = sums.double().unbind(-1)
    return real / rows - normal_T, imaginary / rows


def _squared(real: Tensor, imaginary: Tensor, weight_T: Tensor) -> Tensor:
    return (weight_T * (real.square() + imaginary.square())).sum()


@torch.library.custom_op("mmvicreg::sigreg", mutates_args=())
def _sigreg(
    z_nD: Tensor,
    seed: int,
    slices: int,
    knots: int,
    limit: float,
    times_rows: bool,
    chunk: int,
    compiled: bool,
    need_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = sum(row_counts(z_nD))
    if rows == 0:
        return nothing(z_nD, 1, need_gradient)
    step = limit / (knots - 1)
    # t = 0 is left out: there both characteristic functions are 1.
    normal_T, weight_T = (x[1:, None].to(z_nD.device) for x in trapezoid(knots, limit))
    slope_T = 2 * weight_T * torch.arange(1, knots, device=z_nD.device)[:, None] * step
    factor = 1.0 if times_rows else 1.0 / rows
    value = torch.zeros((), dtype=torch.float64, device=z_nD.device)
    gradient: Tensor | None = None
    for directions_KD in directions(z_nD, slices=slices, seed=seed).split(chunk):
        sums, slopes_of = characteristic_function(
            project(z_nD, directions_KD), knots=knots - 1, step=step, compiled=compiled
        )
        sums = torch.view_as_real(sums)
        real, imaginary = _gap(all_reduce_sum(sums, overwrite=True), rows, normal_T)
        value += _squared(real, imaginary, weight_T) * (rows * factor / slices)
        if need_gradient:
            scaled = slope_T * (factor * world_size() / slices)
            weights_TK = torch.complex(scaled * imaginary, scaled * real).to(sums.dtype.to_complex())
            gradient = add_projected_back(gradient, slopes_of(weights_TK), directions_KD)
    gradient = z_nD.new_zeros(0) if gradient is None else gradient
    return value.to(z_nD.dtype).reshape(1), gradient, *no_columns(z_nD, 1)


register(_sigreg, terms=1)
