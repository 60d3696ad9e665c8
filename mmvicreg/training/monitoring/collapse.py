"""Collapse diagnostics: statistics of the embeddings of a step, and what is wrong with them in words.

n rows of this process, N rows measured, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.evaluation.geometry import effective_rank, off_diagonal_correlation, unit_std
from mmvicreg.objectives.regularizers import SIGReg
from mmvicreg.runs.options import GuardConfig

ROWS = 512
"""rows measured (chosen: the rank of 512 rows tells a collapse from health, and costs milliseconds)"""


@dataclass(frozen=True)
class ViewDiagnostics:
    """Statistics of the embeddings of one view at one step."""

    std: float
    """mean standard deviation of a dimension"""
    spread: float
    """the same of l2-normalized rows, times sqrt(D): 1 is isotropic, 0 is one direction"""
    rank: float
    """effective rank as a fraction of min(D, N - 1)"""
    correlation: float
    """mean absolute correlation of two dimensions"""
    sigreg: float
    """SIGReg's statistic of the standardized embeddings: about 1.06 for a normal distribution"""


@dataclass(frozen=True)
class CollapseDiagnostics:
    """Statistics of every view, and the margin (cosine of matched minus that of shuffled rows) of every pair of views
    of one width."""

    views: dict[str, ViewDiagnostics]
    margins: dict[str, float]

    def to_json(self) -> dict[str, dict[str, float]]:
        """{"image": {"std": ...}, "image-text": {"margin": ...}}."""
        return {
            **{view: asdict(found) for view, found in self.views.items()},
            **{pair: {"margin": margin} for pair, margin in self.margins.items()},
        }


@torch.no_grad()
def measure(z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> CollapseDiagnostics:
    """Measure z (B, D) of every view over at most 512 rows of all processes; every process calls this.

    Views with fewer than 8 rows are left out: their statistics would be noise.
    """
    own = -(-ROWS // distributed.world_size())
    views = {}
    for view, z_BD in z.items():
        rows = present[view].nonzero()[:own, 0].to(z_BD.device)
        z_ND = distributed.gather_rows(z_BD.float().index_select(0, rows))
        if len(z_ND) >= 8 and bool(torch.isfinite(z_ND).all()):
            views[view] = _measure_view(z_ND)
    margins = {}
    for a, b in combinations(z, 2):
        if z[a].shape[1] != z[b].shape[1]:
            continue
        rows = (present[a] & present[b]).nonzero()[:own, 0].to(z[a].device)
        both = [distributed.gather_rows(z[each].float().index_select(0, rows)) for each in (a, b)]
        if len(both[0]) >= 8:
            margins[f"{a}-{b}"] = _margin(*both)
    return CollapseDiagnostics(views, margins)


def _measure_view(z_ND: Tensor) -> ViewDiagnostics:
    std_D = z_ND.std(0)
    standard_ND = (z_ND - z_ND.mean(0)) / std_D.clamp(min=1e-6)
    # The rows are those of all processes already: undo the sum over processes.
    statistic = SIGReg(slices=64, times_rows=False).terms(standard_ND, seed=0)["sigreg"]
    return ViewDiagnostics(
        std=float(std_D.mean()),
        spread=unit_std(z_ND) if float(z_ND.norm()) > 0 else 0.0,
        rank=effective_rank(z_ND) / min(z_ND.shape[1], len(z_ND) - 1),
        correlation=off_diagonal_correlation(z_ND)[0],
        sigreg=float(statistic) * len(z_ND),
    )


def _margin(a_ND: Tensor, b_ND: Tensor) -> float:
    a_ND, b_ND = F.normalize(a_ND, dim=1), F.normalize(b_ND, dim=1)
    matched = (a_ND * b_ND).sum(1).mean()
    everything = (a_ND.mean(0) * b_ND.mean(0)).sum()
    rows = len(a_ND)  # all pairs less the matched ones are the shuffled ones
    return float((matched - everything) * rows / (rows - 1))


def find_faults(diagnostics: CollapseDiagnostics, config: GuardConfig) -> dict[str, str]:
    """What is wrong, by view or pair, in words that end with what to try; empty if nothing is."""
    found = {
        view: fault
        for view, seen in diagnostics.views.items()
        if (fault := _fault_of_view(view, seen, config)) is not None
    }
    for pair, margin in diagnostics.margins.items():
        a, b = pair.split("-", 1)
        if margin < config.min_margin and a not in found and b not in found:
            found[pair] = (
                f"{a} and {b} each fill their space but matched samples are no closer than shuffled ones (margin "
                f"{margin:.4f}, alarm below {config.min_margin}): raise the weight of the alignment, or check that the "
                "pairs belong together"
            )
    return found


def _fault_of_view(view: str, seen: ViewDiagnostics, config: GuardConfig) -> str | None:
    if seen.spread < config.min_spread:
        return (
            f"{view} maps everything to nearly one point (spread {seen.spread:.3f}, alarm below "
            f"{config.min_spread}): raise the weight of its variance term, or lower the learning rate"
        )
    if seen.rank < config.min_rank:
        return (
            f"{view} uses {100 * seen.rank:.1f}% of its dimensions (alarm below {100 * config.min_rank:.1f}%): "
            "raise the weight of its covariance, shape or SIGReg term, or widen the batch"
        )
    if seen.correlation > config.max_correlation:
        return (
            f"the dimensions of {view} repeat each other (mean correlation {seen.correlation:.2f}, alarm above "
            f"{config.max_correlation}): raise the weight of its covariance, shape or SIGReg term"
        )
    if 0 < config.max_sigreg < seen.sigreg:
        return (
            f"{view} is far from a normal distribution (SIGReg statistic {seen.sigreg:.1f}, alarm above "
            f"{config.max_sigreg:g}; clusters or a few large values): raise the weight of its SIGReg term"
        )
    return None
