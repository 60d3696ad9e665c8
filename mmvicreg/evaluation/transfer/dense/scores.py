"""Intersection over union of predicted and true masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.transfer.dense.masks import IGNORED


@dataclass(frozen=True)
class Segmented:
    """``confusion[t, p]``: pixels of class t called p, int64 (C, C), ignored pixels left out."""

    confusion: np.ndarray

    @property
    def per_class(self) -> np.ndarray:
        """Intersection over union (C,); nan where a class is neither there nor called."""
        both = self.confusion.diagonal()
        union = self.confusion.sum(0) + self.confusion.sum(1) - both
        return np.where(union > 0, both / np.maximum(union, 1), np.nan)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that are there or called (Everingham et al. 2010; scikit-learn's macro Jaccard)."""
        return float(np.nanmean(self.per_class))

    def to_json(self) -> dict[str, float | int]:
        """The scalars; ``majority_iou`` is what calling every pixel the commonest class would give."""
        size = self.confusion.sum(1)
        constant = np.zeros_like(self.confusion)
        constant[:, size.argmax()] = size
        return {
            "mean_iou": self.mean_iou,
            "pixel_accuracy": float(self.confusion.trace() / size.sum()),
            "mean_class_accuracy": float((self.confusion.diagonal()[size > 0] / size[size > 0]).mean()),
            "majority_iou": float(np.nanmean(Segmented(constant).per_class)),
            "classes": len(size),
            "pixels": int(size.sum()),
        }


def score_masks(called: np.ndarray, masks: np.ndarray, *, classes: int) -> Segmented:
    """Confusion of called (n, S, S) against true masks (n, S, S), both uint8.

    Raises ValueError for a mask value that is no class, and where every pixel is ignored.
    """
    kept = masks != IGNORED
    if not kept.any():
        raise InvalidValueError(f"every pixel of the {len(masks)} masks is {IGNORED}, which is ignored")
    truth, found = masks[kept].astype(np.int64), called[kept].astype(np.int64)
    if truth.max() >= classes:
        raise InvalidValueError(f"a mask has the value {truth.max()}; there are {classes} classes")
    counts = np.bincount(truth * classes + found, minlength=classes**2)
    return Segmented(counts.reshape(classes, classes))
