"""A run and held-out shards to tables, pictures and files: what `mmvicreg evaluate` and recipes end with.

Writes into the run directory: ``summary.json`` (numbers as fractions), ``report.html`` and ``pictures/``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmvicreg import distributed, pictures, pixels
from mmvicreg.evaluate.embeddings import embed
from mmvicreg.evaluate.geometry import Geometry, ModalityGap, describe, modality_gap, spectrum
from mmvicreg.evaluate.positives import Positives
from mmvicreg.evaluate.ranks import rank_both
from mmvicreg.evaluate.retrieval import RetrievalScores, summarize
from mmvicreg.evaluate.store import Proof, Rows, Store
from mmvicreg.fetch import Fetcher
from mmvicreg.model import Model
from mmvicreg.reader import Reader
from mmvicreg.report import Report, write_report
from mmvicreg.runs import CHECKPOINTS, Run, read_log, write_json
from mmvicreg.shards import Index, cache_folder, open_index

ROWS = 25_600
"""Rows that statistics of a branch are taken from, evenly spread."""


@dataclass(frozen=True)
class SplitScores:
    """What one split gave: retrieval by direction, geometry by branch, gap by pair, spectra by branch."""

    retrieval: dict[str, RetrievalScores]
    geometry: dict[str, Geometry]
    gaps: dict[str, ModalityGap]
    spectra: dict[str, np.ndarray]
    examples: dict[str, list[pictures.Example]]
    proof: Proof

    def to_json(self) -> dict[str, Any]:
        """Directions first, as ``image_to_text``; then geometry and gaps."""
        return {
            **{direction: scores.to_json() for direction, scores in self.retrieval.items()},
            "geometry": {branch: asdict(found) for branch, found in self.geometry.items()},
            "modality_gap": {pair: asdict(found) for pair, found in self.gaps.items()},
            "rejected_items": sum(self.proof.rejected.values()),
            "proof": asdict(self.proof),
        }


def embeddings_folder(run: Run) -> Path:
    """Where the embeddings of a run are kept: with the run; those of exports and baselines in the cache."""
    own = run.folder / "embeddings"
    return own if (run.folder / CHECKPOINTS).is_dir() else Path(cache_folder()) / "embeddings"


def score_run(
    run: Run, data: Mapping[str, str | Sequence[str]], *, device: str = ""
) -> dict[str, SplitScores]:
    """Score every split of ``data`` {name: shards}, print a table, and write summary, pictures and report.

    Raises ValueError for a split without samples or without two modalities.
    """
    scores = score_splits(run, data, device=device)
    if distributed.rank() > 0:
        return scores
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
    """Scores of every split of ``data`` {name: shards}, with ``examples`` queries a direction for pictures.

    Embeddings are kept in the run directory (``embeddings/``) and computed once. Called on every process of
    the default group where there are several: they share the work, and all get the result.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    branches = {name: run.model.branch_named(name) for name in run.modalities}
    model = Model(branches, {name: name for name in branches}).to(chosen).eval()  # a view per modality
    readers = {name: modality.reader() for name, modality in run.modalities.items()}
    scores = {}
    for name, shards in data.items():
        index = open_index(shards)
        store = embed(
            model,
            index,
            readers,
            folder=embeddings_folder(run),
            device=chosen,
            threads=threads,
            title=f"embed {name}",
        )
        scores[name] = _score_split(store, readers, index, device=chosen, examples=examples)
    return scores


def _score_split(
    store: Store, readers: Mapping[str, Reader], index: Index, *, device: torch.device, examples: int
) -> SplitScores:
    branches = {name: rows for name, rows in store.views.items() if len(rows.z)}
    if len(branches) < 2:
        rejected = sum(store.proof.rejected.values())
        raise ValueError(
            f"retrieval needs two modalities; the {len(index)} samples of this split have items of "
            f"{sorted(branches) or 'none'} ({rejected} rejected): check its members with 'mmvicreg check'"
        )
    retrieval, shown, gaps = {}, {}, {}
    for a, b in combinations(branches, 2):
        if branches[a].z.shape[1] != branches[b].z.shape[1]:
            continue  # branches of different widths meet in predictors, not in a cosine
        positives = store.positives(a, b)
        several = distributed.world_size() > 1
        both = rank_both(
            branches[a].z, branches[b].z, positives, device=device, sharded=several, skip_unmatched=True
        )
        for pair, ranks, matches in zip(
            ((a, b), (b, a)), both, (positives, positives.transpose()), strict=True
        ):
            direction = f"{pair[0]}_to_{pair[1]}"
            retrieval[direction] = summarize(ranks, resamples=1000)
            found = _examples(branches[pair[0]], branches[pair[1]], matches, ranks.rank(), count=examples)
            shown[direction] = _draw(found, pair, store, readers, index)
        gaps[f"{a}_{b}"] = modality_gap(_sample(branches[a].z), _sample(branches[b].z))
    geometry = {name: describe(_sample(rows.z)) for name, rows in branches.items() if len(rows.z) > 1}
    spectra = {name: spectrum(_sample(branches[name].z)) for name in geometry}
    return SplitScores(retrieval, geometry, gaps, spectra, shown, store.proof)


def _sample(z_MD: np.ndarray) -> Tensor:
    """At most ``ROWS`` rows, evenly spread: what the statistics of a branch need (RankMe: 25,600)."""
    rows = np.unique(np.linspace(0, len(z_MD) - 1, min(ROWS, len(z_MD))).round().astype(int))
    return torch.from_numpy(z_MD[rows])


@dataclass(frozen=True)
class _Found:
    """One query's best items, by row."""

    query: int
    items: list[int]
    right: list[bool]
    cosine: list[float]
    rank: float


def _examples(
    queries: Rows, items: Rows, positives: Positives, rank_Q: np.ndarray, *, count: int, best: int = 5
) -> list[_Found]:
    """Queries spread evenly over the split, whatever their rank: failures are shown too."""
    matched = np.flatnonzero(positives.counts)  # the queries that rank_Q is about
    chosen = np.unique(np.linspace(0, len(matched) - 1, count).round().astype(int))
    unit = torch.nn.functional.normalize
    queries_QD = unit(torch.from_numpy(queries.z[matched[chosen]]), dim=1)
    blocks = [
        unit(torch.from_numpy(items.z[a : a + 4096].copy()), dim=1) for a in range(0, len(items.z), 4096)
    ]
    cosine_QM = torch.cat([queries_QD @ block.T for block in blocks], dim=1)
    found = []
    for place, row, cosine_M in zip(chosen, matched[chosen], cosine_QM, strict=True):
        values, items_best = cosine_M.topk(min(best, len(cosine_M)))
        matching = set(positives.indices[positives.offsets[row] : positives.offsets[row + 1]].tolist())
        right = [item in matching for item in items_best.tolist()]
        found.append(_Found(int(row), items_best.tolist(), right, values.tolist(), float(rank_Q[place])))
    return found


def _draw(
    found: Sequence[_Found],
    pair: tuple[str, str],
    store: Store,
    readers: Mapping[str, Reader],
    index: Index,
) -> list[pictures.Example]:
    """What a person sees: pictures of samples for images, identities (captions) for the rest."""
    fetch = Fetcher(index)

    def content(name: str, row: int) -> np.ndarray | str:
        identity, number = store.rows(name).identities[row], store.rows(name).samples[row][0]
        sample = fetch(*index.place(number), readers[name].members)
        for suffix, data in sample.members.items():
            if suffix in ("jpg", "jpeg", "png", "webp"):
                return pixels.decode(data, max_pixels=100_000_000).array
        return identity or sample.key

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
