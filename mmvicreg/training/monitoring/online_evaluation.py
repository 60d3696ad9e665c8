"""Validation: scores on held-out samples while a run trains, divided among its processes.

Training does not change: weights and running statistics are only read, and every step seeds its own random state. The
moving average is scored if the run keeps one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.branches.model import Model
from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.ranks import rank_queries
from mmvicreg.evaluation.retrieval import summarize
from mmvicreg.objectives.predictors import Predictors, predict
from mmvicreg.runs.options import ValidationConfig
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.evaluation_items import EvaluationItem, evaluation_items
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample

BATCH = 64


@dataclass(frozen=True)
class LabelReader(Reader):
    """Reads the class of a sample: a field of its JSON member, as the item's identity."""

    field: str

    @property
    def members(self) -> tuple[str, ...]:
        return ("json",)

    @property
    def shape(self) -> tuple[int, ...]:
        return (0,)

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        found = self.items(sample)
        return found[0] if found else None

    def items(self, sample: Sample) -> list[Item]:
        if "json" not in sample.members:
            return []
        try:
            content = json.loads(sample.members["json"])
        except ValueError as error:
            raise BadSampleError(f"its .json is not JSON: {error}") from None
        if not isinstance(content, dict) or self.field not in content:
            return []
        return [Item(torch.zeros(0, dtype=torch.uint8), identity=str(content[self.field]))]


@dataclass(frozen=True)
class ItemEmbeddings:
    """Items of one modality in order: h (M, E), z (M, D), what each is, and its sample."""

    h: np.ndarray
    z: np.ndarray
    identities: list[str]
    numbers: list[int]


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
        rows, labels = self._embed(model, device=device, threads=threads)
        model.train(was_training)
        retrieval = _retrieval(rows, self.predictors, device)
        return retrieval | _classes(rows, labels, self.config.neighbours)

    def _embed(
        self, model: Model, *, device: torch.device, threads: int
    ) -> tuple[dict[str, ItemEmbeddings], dict[int, str]]:
        rank, world = distributed.rank(), distributed.world_size()
        readers = dict(self.readers)
        if self.config.label:
            readers["(label)"] = LabelReader(self.config.label)
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
        mine = {name: _rows(kept[name], done[name]) for name in self.readers}
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
        found = model.branches[name](x.to(device))
        yield found.h.float().cpu(), found.z.float().cpu()


def _rows(items: list[EvaluationItem], done: list[tuple[Tensor, Tensor]]) -> ItemEmbeddings:
    empty = np.zeros((0, 0), np.float32)
    return ItemEmbeddings(
        torch.cat([h for h, _ in done]).numpy() if done else empty,
        torch.cat([z for _, z in done]).numpy() if done else empty,
        [item.identity or f"{item.number}/{item.place}" for item in items],
        [item.number for item in items],
    )


def _join(parts: list[ItemEmbeddings]) -> ItemEmbeddings:
    full = [part for part in parts if len(part.numbers)] or parts[:1]
    return ItemEmbeddings(
        np.concatenate([part.h for part in full]),
        np.concatenate([part.z for part in full]),
        [identity for part in full for identity in part.identities],
        [number for part in full for number in part.numbers],
    )


def _retrieval(
    rows: Mapping[str, ItemEmbeddings], predictors: Predictors, device: torch.device
) -> dict[str, float]:
    """Recall in every direction, by cosine where widths agree and by predictor where there is one; an item that
    several samples share counts once and matches all of them."""
    scores: dict[str, float] = {}
    unique = {name: _unique(each) for name, each in rows.items()}
    for a, b in permutations(rows, 2):
        z_a, z_b = (rows[name].z[unique[name][0]] for name in (a, b))
        if not len(z_a) or not len(z_b):
            continue
        positives = Positives.from_identities(unique[a][1], unique[b][1])
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


def _unique(rows: ItemEmbeddings) -> tuple[list[int], list[list[int]]]:
    """The first row of each identity, and the samples of each."""
    places: dict[str, int] = {}
    first: list[int] = []
    samples: list[list[int]] = []
    for row, (identity, number) in enumerate(zip(rows.identities, rows.numbers, strict=True)):
        if identity not in places:
            places[identity] = len(first)
            first.append(row)
            samples.append([])
        samples[places[identity]].append(number)
    return first, samples


def _classes(
    rows: Mapping[str, ItemEmbeddings], labels: Mapping[int, str], neighbours: int
) -> dict[str, float]:
    """kNN (leave one out, weighted by cosine) and a linear probe (ridge, even to odd rows) on h of each branch."""
    scores = {}
    for name, each in rows.items():
        chosen = [row for row, number in enumerate(each.numbers) if number in labels]
        if len(chosen) < 4:
            continue
        h_ME = F.normalize(torch.from_numpy(each.h[chosen]), dim=1)
        names = sorted({labels[each.numbers[row]] for row in chosen})
        at = {label: place for place, label in enumerate(names)}
        y_M = torch.tensor([at[labels[each.numbers[row]]] for row in chosen])
        y_MC = F.one_hot(y_M, len(names)).float()
        scores[f"{name}/knn"] = nearest_neighbours(h_ME, y_M, y_MC, neighbours)
        scores[f"{name}/linear"] = ridge(h_ME, y_M, y_MC)
    return scores


def nearest_neighbours(h_ME: Tensor, y_M: Tensor, y_MC: Tensor, neighbours: int) -> float:
    """Accuracy of the vote of the nearest other rows, exp(cosine / 0.07) each (Wu et al., arXiv 1805.01978)."""
    cosine_MM = h_ME @ h_ME.T
    cosine_MM.fill_diagonal_(-torch.inf)
    value, row = cosine_MM.topk(min(neighbours, len(h_ME) - 1), dim=1)
    votes = (torch.exp(value / 0.07).unsqueeze(2) * y_MC[row]).sum(1)
    return float((votes.argmax(1) == y_M).float().mean())


def ridge(h_ME: Tensor, y_M: Tensor, y_MC: Tensor, *, strength: float = 1e-2) -> float:
    """Accuracy on odd rows of least squares fitted on even ones, with a constant, in float64."""
    x = torch.cat([h_ME, torch.ones(len(h_ME), 1)], 1).double()
    a, b = x[::2], y_MC[::2].double()
    identity = torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(a.T @ a + strength * len(a) / x.shape[1] * identity, a.T @ b)
    return float(((x[1::2] @ weights).argmax(1) == y_M[1::2]).float().mean())
