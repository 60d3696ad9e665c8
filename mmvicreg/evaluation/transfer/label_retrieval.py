"""Retrieval of items by their label: an item matches every item of the other data set that has the same label.

Shapes: Q queries, M items, E width of representations.
"""

from __future__ import annotations

import numpy as np

from mmvicreg.evaluation.embed import embed_split
from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.retrieval import RetrievalScores, retrieval_metrics
from mmvicreg.evaluation.transfer.labels import LabelReader, features_with_labels
from mmvicreg.runs.run import Run
from mmvicreg.shards.index import open_index
from mmvicreg.stream.evaluation_items import EvaluationItem, evaluation_items


def retrieve_by_label(
    run: Run,
    *,
    queries: str,
    items: str,
    label: str = "cls",
    branch: str = "image",
    device: str = "",
    resamples: int = 1000,
) -> RetrievalScores:
    """Every labelled query of the shards ``queries`` retrieves what has its label among the shards ``items``.

    By cosine of the representations ``h`` of one branch; it needs no text branch, so runs of images alone can be
    compared by it. ``label``: a member, or json:FIELD; numbers or names. Queries whose label no item has are left out.
    ``resamples``: bootstrap resamples of the intervals, 0 for none. Raises ValueError where no query has a match, and
    KeyError for a branch that the run does not have.
    """
    (h_QE, wanted), (h_ME, shown) = (
        _labelled(run, shards, label=label, branch=branch, device=device) for shards in (queries, items)
    )
    positives = Positives.from_identities(wanted, shown)
    return retrieval_metrics(h_QE, h_ME, positives, skip_unmatched=True, resamples=resamples)


def _labelled(
    run: Run, shards: str, *, label: str, branch: str, device: str
) -> tuple[np.ndarray, list[list[str]]]:
    """Representations of the rows whose sample has a label, and the labels of each as text."""
    index = open_index(shards)
    labels: list[list[str]] = [[] for _ in range(len(index))]
    for item in evaluation_items(index, {"label": LabelReader(label, any_name=True)}):
        if isinstance(item, EvaluationItem):
            labels[item.number].append(item.identity)
    rows = embed_split(run, index, branch, device=device).items(branch)
    return features_with_labels(rows, labels)
