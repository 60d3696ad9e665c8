"""Validation: scores on held-out samples while a run trains, divided among its processes.

Training does not change: weights and running statistics are only read, and every step seeds its own random state. The
moving average is scored if the run keeps one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.branches.model import Model
from mmvicreg.branches.padding import without_padding
from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.ranks import rank_queries
from mmvicreg.evaluation.retrieval import summarize
from mmvicreg.evaluation.store import EmbeddedItems
from mmvicreg.evaluation.transfer.classification import knn_scores, linear_probe, score_classes
from mmvicreg.evaluation.transfer.labels import LabelReader
from mmvicreg.objectives.predictors import Predictors, predict
from mmvicreg.runs.options import ValidationConfig
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.evaluation_items import EvaluationItem, evaluation_items
from mmvicreg.stream.reader import Reader

BATCH = 64
PENALTY = 1e-3
"""Weight of the squared norm in the linear probe."""
ITERATIONS = 100
"""Steps of the probe's solver: a validation must not take long."""


class Validation:
    """Scores of held-out samples. Opening them raises FileNotFoundError, KeyError or ValueError."""

    def __init__(
        self,
        config: ValidationConfig,
        index: ShardIndex,
        readers: Mapping[str, Reader],
        *,
        predictors: Predictors,
    ) -> None:
        self.config, self.index = config, index
        self.readers, self.predictors = dict(readers), predictors
        self.samples = min(config.samples, len(index))

    def maximized(self) -> list[str]:
        """Names of the scores of which higher is better: those that can choose the best checkpoint."""
        directions = [f"{a}_to_{b}" for a, b in permutations(self.readers, 2)]
        directions += [f"{a}_to_{b}_by_predictor" for a, b in self.predictors]
        classes = [f"{name}/{kind}" for name in self.readers for kind in ("knn", "linear")]
        recalls = [f"{direction}/recall_at_{k}" for direction in directions for k in (1, 5, 10)]
        return recalls + (classes if self.config.label else [])

    def scores(self, model: Model, *, device: torch.device, threads: int) -> dict[str, float]:
        """Scores by name, such as image_to_text/recall_at_1; the same on every process, all of which call this."""
        was_training = model.training
        model.eval()
        items, labels = self._embed(model, device=device, threads=threads)
        model.train(was_training)
        retrieval = _retrieval(items, self.predictors, device)
        return retrieval | _classes(items, labels, self.config.neighbours)

    def _embed(
        self, model: Model, *, device: torch.device, threads: int
    ) -> tuple[dict[str, EmbeddedItems], dict[int, str]]:
        rank, world = distributed.rank(), distributed.world_size()
        readers = dict(self.readers)
        if self.config.label:
            readers["(label)"] = LabelReader(f"json:{self.config.label}", any_name=True)
        items = evaluation_items(
            self.index,
            readers,
            start=self.samples * rank // world,
            stop=self.samples * (rank + 1) // world,
            threads=threads,
        )
        kept: dict[str, list[EvaluationItem]] = {name: [] for name in readers}
        done: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in readers}
        for item in items:
            if isinstance(item, EvaluationItem):
                kept[item.view].append(item)
        for name in self.readers:
            done[name] = list(_encoded(model, name, kept[name], device, self.readers[name]))
        mine = {name: _embedded(kept[name], done[name]) for name in self.readers}
        every = distributed.gather_objects(mine)
        labelled = distributed.gather_objects(
            {item.number: item.identity for item in kept.get("(label)", [])}
        )
        labels = {number: label for each in labelled for number, label in each.items()}
        return {name: _join([each[name] for each in every]) for name in self.readers}, labels


@torch.no_grad()
def _encoded(
    model: Model, name: str, items: list[EvaluationItem], device: torch.device, reader: Reader
) -> Iterator[tuple[Tensor, Tensor]]:
    """As many batches on every process, the last ones without rows: branches that are divided among the processes
    (FSDP) are gathered by all of them for each batch."""
    mine = torch.tensor(float(-(-len(items) // BATCH)), device=device)
    for number in range(int(distributed.all_reduce_max(mine).item())):
        batch = [item.value for item in items[number * BATCH : (number + 1) * BATCH]]
        x = torch.stack(batch) if batch else torch.zeros((0, *reader.shape), dtype=reader.dtype)
        found = model.branches[name](without_padding(model.branch_named(name), x).to(device))
        yield found.h.float().cpu(), found.z.float().cpu()


def _embedded(items: list[EvaluationItem], done: list[tuple[Tensor, Tensor]]) -> EmbeddedItems:
    empty = np.zeros((0, 0), np.float32)
    return EmbeddedItems(
        torch.cat([z for _, z in done]).numpy() if done else empty,
        torch.cat([h for h, _ in done]).numpy() if done else empty,
        [item.identity or f"{item.number}/{item.place}" for item in items],
        [[item.number] for item in items],
    )


def _join(parts: list[EmbeddedItems]) -> EmbeddedItems:
    """The items of all processes; one that several samples share is kept once, with all their numbers."""
    full = [part for part in parts if len(part.samples)] or parts[:1]
    identities = [identity for part in full for identity in part.identities]
    numbers = [number for part in full for found in part.samples for number in found]
    samples: dict[str, list[int]] = {}
    first: list[int] = []
    for row, (identity, number) in enumerate(zip(identities, numbers, strict=True)):
        if identity not in samples:
            first.append(row)
        samples.setdefault(identity, []).append(number)
    z, h = (np.concatenate([getattr(part, output) for part in full])[first] for output in ("z", "h"))
    return EmbeddedItems(z, h, list(samples), list(samples.values()))


def _retrieval(
    items: Mapping[str, EmbeddedItems], predictors: Predictors, device: torch.device
) -> dict[str, float]:
    """Recall in every direction, by cosine where widths agree and by predictor where there is one; an item that
    several samples share counts once and matches all of them."""
    scores: dict[str, float] = {}
    for a, b in permutations(items, 2):
        z_a, z_b = items[a].z, items[b].z
        if not len(z_a) or not len(z_b):
            continue
        positives = Positives.from_identities(items[a].samples, items[b].samples)
        if z_a.shape[1] == z_b.shape[1]:
            scores |= _ranked(f"{a}_to_{b}", z_a, z_b, positives)
        if (a, b) in predictors:
            module = predictors[a, b]
            was_training = module.training
            found = predict(module, z_a, device=device)
            module.train(was_training)
            scores |= _ranked(f"{a}_to_{b}_by_predictor", found, z_b, positives)
    return scores


def _ranked(direction: str, z_QD: np.ndarray, z_MD: np.ndarray, positives: Positives) -> dict[str, float]:
    matched = np.flatnonzero(positives.counts)  # a sample without the other modality has no rank
    if not len(matched):
        return {}
    kept = positives.select(matched, np.arange(positives.num_items))
    found = summarize(rank_queries(torch.from_numpy(z_QD[matched]), torch.from_numpy(z_MD), kept))
    scores = {f"{direction}/recall_at_{k}": value for k, value in found.recall.items()}
    return scores | {
        f"{direction}/median_rank": found.median_rank,
        f"{direction}/chance_at_1": found.chance[1],
    }


def _classes(
    items: Mapping[str, EmbeddedItems], labels: Mapping[int, str], neighbours: int
) -> dict[str, float]:
    """Top-1 of kNN (each item among all others) and of a linear probe (fitted on every other item, scored on the rest),
    both on the representations of each branch."""
    scores = {}
    for name, each in items.items():
        chosen = [row for row, numbers in enumerate(each.samples) if numbers[0] in labels]
        if len(chosen) < 4:
            continue
        h_ME = each.h[chosen]
        names = sorted({labels[each.samples[row][0]] for row in chosen})
        at = {label: place for place, label in enumerate(names)}
        y_M = np.array([at[labels[each.samples[row][0]]] for row in chosen])
        k = min(neighbours, len(chosen) - 1)
        votes = knn_scores(h_ME, y_M, h_ME, classes=len(names), k=k, leave_one_out=True)
        probe = linear_probe(h_ME[::2], y_M[::2], classes=len(names), penalty=PENALTY, iterations=ITERATIONS)
        scores[f"{name}/knn"] = score_classes(votes, y_M).top1
        scores[f"{name}/linear"] = score_classes(probe(h_ME[1::2]), y_M[1::2]).top1
    return scores
