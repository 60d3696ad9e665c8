"""Several labels for each item: average precision as scikit-learn defines it, and as PASCAL VOC 2007 does.

Shapes: M test items, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.unit_rows import require_finite


@dataclass(frozen=True)
class MultiLabelled:
    """Scores of one classifier; classes without a positive are left out of the means, and nan in the arrays.

    ``chance``: the mean fraction of positives, which is the average precision of constant scores.
    """

    mean_average_precision: float
    mean_eleven_point: float
    average_precision: np.ndarray
    eleven_point: np.ndarray
    chance: float
    classes: int
    rows: int

    def to_json(self) -> dict[str, float | int]:
        """The scalars."""
        names = ("mean_average_precision", "mean_eleven_point", "classes", "rows", "chance")
        return {name: vars(self)[name] for name in names}


def score_labels(scores_MC: Tensor | np.ndarray, targets_MC: np.ndarray) -> MultiLabelled:
    """mAP, both ways. Raises ValueError where shapes differ or no class has a positive."""
    scores, targets = np.asarray(scores_MC, dtype=np.float64), np.asarray(targets_MC, dtype=bool)
    if not targets.any():
        raise InvalidValueError(f"none of the {len(targets)} rows has a label")
    by_class, eleven = (
        average_precision(scores, targets),
        average_precision(scores, targets, eleven_point=True),
    )
    fractions = targets.mean(0)[targets.any(0)]
    return MultiLabelled(
        mean_average_precision=float(np.nanmean(by_class)),
        mean_eleven_point=float(np.nanmean(eleven)),
        average_precision=by_class,
        eleven_point=eleven,
        chance=float(fractions.mean()),
        classes=targets.shape[1],
        rows=len(targets),
    )


def average_precision(
    scores_MC: Tensor | np.ndarray, targets_MC: np.ndarray, *, eleven_point: bool = False
) -> np.ndarray:
    """Average precision of each class (C,), as scikit-learn's: sum over thresholds of (R_n - R_n-1) P_n.

    Equal scores are one threshold. nan for a class without positives; its mean over the rest is the mAP of
    multi-label benchmarks in later use. ``eleven_point``: VOC 2007's own rule (Everingham et al. 2010, section
    4.2), the mean over recalls 0, 0.1, ..., 1 of the best precision at that recall or above. Raises ValueError
    where the shapes differ.
    """
    scores = np.asarray(scores_MC, dtype=np.float64)
    targets = np.asarray(targets_MC, dtype=bool)
    require_finite(scores, "scores")
    if scores.shape != targets.shape:
        raise InvalidValueError(f"scores are {scores.shape}, targets {targets.shape}")
    found = np.full(scores.shape[1], np.nan)
    for c in np.flatnonzero(targets.any(0)):
        order = np.argsort(-scores[:, c], kind="stable")
        hit = np.cumsum(targets[order, c])
        last = np.flatnonzero(np.r_[np.diff(scores[order, c]) != 0, True])
        precision, recall = hit[last] / (last + 1), hit[last] / hit[-1]
        if eleven_point:
            found[c] = np.mean([precision[recall >= step / 10].max() for step in range(11)])
        else:
            found[c] = (np.diff(np.r_[0.0, recall]) * precision).sum()
    return found
