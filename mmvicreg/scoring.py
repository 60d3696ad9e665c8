"""A run and held-out shards to tables, pictures and files: what `mmvicreg evaluate` and recipes end with.

Writes into the run directory: ``summary.json`` (numbers as fractions), ``report.html`` and ``pictures/``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmvicreg import pictures, pixels
from mmvicreg.evaluate.geometry import Geometry, ModalityGap, describe, modality_gap, spectrum
from mmvicreg.evaluate.positives import Positives
from mmvicreg.evaluate.ranks import rank_queries
from mmvicreg.evaluate.retrieval import RetrievalScores, summarize
from mmvicreg.fetch import Fetcher
from mmvicreg.items import RejectedItem, evaluation_items
from mmvicreg.progress import bar
from mmvicreg.reader import Reader
from mmvicreg.report import Report, write_report
from mmvicreg.runs import Run, read_log, write_json
from mmvicreg.shards import Index, open_index

BATCH = 64
"""Items encoded together (chosen; scores do not depend on it)."""


@dataclass(frozen=True)
class Embedded:
    """Every item of one modality of a split: h (M, E), z (M, D), and per item its identity and samples."""

    h: Tensor
    z: Tensor
    identities: tuple[str, ...]
    samples: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class SplitScores:
    """What one split gave: retrieval by direction, geometry by branch, gap by pair, spectra by branch."""

    retrieval: dict[str, RetrievalScores]
    geometry: dict[str, Geometry]
    gaps: dict[str, ModalityGap]
    spectra: dict[str, np.ndarray]
    examples: dict[str, list[pictures.Example]]
    rejected: int

    def to_json(self) -> dict[str, Any]:
        """Directions first, as ``image_to_text``; then geometry and gaps."""
        return {
            **{direction: scores.to_json() for direction, scores in self.retrieval.items()},
            "geometry": {branch: asdict(found) for branch, found in self.geometry.items()},
            "modality_gap": {pair: asdict(found) for pair, found in self.gaps.items()},
            "rejected_items": self.rejected,
        }


def score_run(
    run: Run, data: Mapping[str, str | Sequence[str]], *, device: str = ""
) -> dict[str, SplitScores]:
    """Score every split of ``data`` {name: shards}, print a table, and write summary, pictures and report.

    Raises ValueError for a split without samples or without two modalities.
    """
    scores = score_splits(run, data, device=device)
    print_scores(scores)
    write_summary(run, scores, run.folder / "summary.json")
    write_pictures(run, scores)
    return scores


def score_splits(
    run: Run,
    data: Mapping[str, str | Sequence[str]],
    *,
    device: str = "",
    threads: int = 2,
    examples: int = 6,
) -> dict[str, SplitScores]:
    """Scores of every split of ``data`` {name: shards}, with ``examples`` queries a direction for pictures."""
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = run.model.to(chosen).eval()
    readers = {name: modality.reader() for name, modality in run.modalities.items()}
    scores = {}
    for name, shards in data.items():
        index = open_index(shards)
        embedded, rejected = embed(
            model, readers, index, device=chosen, threads=threads, title=f"embed {name}"
        )
        scores[name] = _score_split(embedded, readers, index, examples=examples, rejected=rejected)
    return scores


@torch.no_grad()
def embed(
    model: Any, readers: Mapping[str, Reader], index: Index, *, device: torch.device, threads: int, title: str
) -> tuple[dict[str, Embedded], int]:
    """Every evaluation item of every modality, each identity once, and how many could not be read."""
    places: dict[str, dict[str, int]] = {name: {} for name in readers}
    samples: dict[str, list[list[int]]] = {name: [] for name in readers}
    waiting: dict[str, list[Tensor]] = {name: [] for name in readers}
    done: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in readers}
    rejected = 0

    def encode(name: str) -> None:
        if waiting[name]:
            found = model.branches[name](torch.stack(waiting[name]).to(device))
            done[name].append((found.h.float().cpu(), found.z.float().cpu()))
            waiting[name].clear()

    with bar(title, len(index)) as advance:
        shown = 0
        for item in evaluation_items(index, readers, threads=threads):
            advance(item.number - shown, "")
            shown = item.number
            if isinstance(item, RejectedItem):
                rejected += 1
                continue
            identity = item.identity or f"{item.number}/{item.place}"
            place = places[item.view].setdefault(identity, len(places[item.view]))
            if place < len(samples[item.view]):
                samples[item.view][place].append(item.number)
                continue
            samples[item.view].append([item.number])
            waiting[item.view].append(item.value)
            if len(waiting[item.view]) == BATCH:
                encode(item.view)
        advance(len(index) - shown, "")
    result = {}
    for name in readers:
        encode(name)
        if done[name]:
            h, z = (torch.cat(parts) for parts in zip(*done[name], strict=True))
            result[name] = Embedded(h, z, tuple(places[name]), tuple(map(tuple, samples[name])))
    return result, rejected


def _score_split(
    embedded: Mapping[str, Embedded],
    readers: Mapping[str, Reader],
    index: Index,
    *,
    examples: int,
    rejected: int,
) -> SplitScores:
    if len(embedded) < 2:
        raise ValueError(
            f"retrieval needs two modalities; the {len(index)} samples of this split have items of "
            f"{sorted(embedded) or 'none'} ({rejected} rejected): check its members with 'mmvicreg check'"
        )
    retrieval, shown = {}, {}
    for a, b in permutations(embedded, 2):
        if embedded[a].z.shape[1] != embedded[b].z.shape[1]:
            continue  # branches of different widths meet in predictors, not in a cosine
        positives = Positives.from_identities(embedded[a].samples, embedded[b].samples)
        ranks = rank_queries(embedded[a].z, embedded[b].z, positives)
        retrieval[f"{a}_to_{b}"] = summarize(ranks, resamples=1000)
        found = _examples(embedded[a], embedded[b], positives, ranks.rank(), count=examples)
        shown[f"{a}_to_{b}"] = _draw(found, (a, b), embedded, readers, index)
    branches = {name: found.z for name, found in embedded.items() if len(found.z) > 1}
    gaps = {
        f"{a}_{b}": modality_gap(branches[a], branches[b])
        for a, b in permutations(branches, 2)
        if a < b and branches[a].shape[1] == branches[b].shape[1]
    }
    geometry = {name: describe(z) for name, z in branches.items()}
    spectra = {name: spectrum(z) for name, z in branches.items()}
    return SplitScores(retrieval, geometry, gaps, spectra, shown, rejected)


@dataclass(frozen=True)
class _Found:
    """One query's best items, by row."""

    query: int
    items: list[int]
    right: list[bool]
    cosine: list[float]
    rank: float


def _examples(
    queries: Embedded, items: Embedded, positives: Positives, rank_Q: np.ndarray, *, count: int, best: int = 5
) -> list[_Found]:
    """Queries spread evenly over the split, whatever their rank: failures are shown too."""
    rows = np.unique(np.linspace(0, len(queries.z) - 1, count).round().astype(int))
    unit = torch.nn.functional.normalize
    cosine_QM = unit(queries.z[torch.from_numpy(rows)], dim=1) @ unit(items.z, dim=1).T
    found = []
    for row, cosine_M in zip(rows, cosine_QM, strict=True):
        values, chosen = cosine_M.topk(min(best, len(cosine_M)))
        matching = set(positives.indices[positives.offsets[row] : positives.offsets[row + 1]].tolist())
        right = [item in matching for item in chosen.tolist()]
        found.append(_Found(int(row), chosen.tolist(), right, values.tolist(), float(rank_Q[row])))
    return found


def _draw(
    found: Sequence[_Found],
    pair: tuple[str, str],
    embedded: Mapping[str, Embedded],
    readers: Mapping[str, Reader],
    index: Index,
) -> list[pictures.Example]:
    """What a person sees: pictures of samples for images, identities (captions) for the rest."""
    fetch = Fetcher(index)

    def content(name: str, row: int) -> np.ndarray | str:
        identity, number = embedded[name].identities[row], embedded[name].samples[row][0]
        sample = fetch(*index.place(number), readers[name].members)
        for suffix, data in sample.members.items():
            if suffix in ("jpg", "jpeg", "png", "webp"):
                return pixels.decode(data, max_pixels=100_000_000).array
        return identity if "/" not in identity else sample.key

    return [
        pictures.Example(
            content(pair[0], one.query),
            tuple(
                pictures.Result(content(pair[1], item), right, cosine)
                for item, right, cosine in zip(one.items, one.right, one.cosine, strict=True)
            ),
            one.rank,
        )
        for one in found
    ]


def print_scores(scores: Mapping[str, SplitScores]) -> None:
    """A table of every split and direction, chance beside each recall."""
    table = Table(title="held-out retrieval, % (chance)")
    ks = list(next(iter(next(iter(scores.values())).retrieval.values())).recall)
    for column in ("split", "direction", *(f"R@{k}" for k in ks), "median rank", "queries", "items"):
        table.add_column(column, justify="left" if column in ("split", "direction") else "right")
    for split, found in scores.items():
        for direction, each in found.retrieval.items():
            recalls = [f"{100 * each.recall[k]:.1f} ({100 * each.chance[k]:.2f})" for k in ks]
            size = (f"{each.num_queries:,}", f"{each.num_items:,}")
            table.add_row(split, direction.replace("_", " "), *recalls, f"{each.median_rank:g}", *size)
    Console(width=None if Console().is_terminal else 120).print(table)


def write_summary(run: Run, scores: Mapping[str, SplitScores], path: Path) -> None:
    """Every number as JSON, recalls as fractions: split, direction, ``recall_at_1``, ``chance_at_1``, ..."""
    splits = {split: found.to_json() for split, found in scores.items()}
    write_json(path, {"run": run.folder.name, "step": run.step, **splits})


def write_pictures(run: Run, scores: Mapping[str, SplitScores]) -> Path:
    """The pictures and report.html of the run directory; the report's path."""
    log = read_log(run.folder)
    folder = run.folder / "pictures"
    folder.mkdir(exist_ok=True)
    pictures.save(pictures.loss_figure(log), folder / "loss.png")
    for split, found in scores.items():
        ranks = {branch: geometry.effective_rank for branch, geometry in found.geometry.items()}
        pictures.save(pictures.spectrum_figure(found.spectra, ranks=ranks), folder / f"{split}-spectrum.png")
        for direction, examples in found.examples.items():
            pictures.save(pictures.examples_figure(examples), folder / f"{split}-{direction}.png")
    path = write_report(_report(run, scores, log), run.folder / "report.html")
    Console(stderr=True).print(f"report: {path}")
    return path


def _report(run: Run, scores: Mapping[str, SplitScores], log: Sequence[Mapping[str, Any]]) -> Report:
    last = list(scores.values())[-1]
    environment = run.folder / "environment.json"
    return Report(
        title=run.folder.name,
        note=f"{len(log)} log lines, {run.step} steps.",
        config=run.config,
        environment=json.loads(environment.read_text(encoding="utf-8")) if environment.is_file() else {},
        scores={split: found.retrieval for split, found in scores.items()},
        geometry=last.geometry,
        gaps=last.gaps,
        log=log,
        spectra=last.spectra,
        examples={
            f"{split}: {direction}".replace("_", " "): examples
            for split, found in scores.items()
            for direction, examples in found.examples.items()
        },
    )
