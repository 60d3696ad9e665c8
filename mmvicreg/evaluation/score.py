"""A run and held-out shards to tables, pictures and files: what `mmvicreg evaluate` and recipes end with.

Writes into the run directory: ``summary.json`` (numbers as fractions), ``report.html`` and ``pictures/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mmvicreg import distributed
from mmvicreg.branches.model import Model
from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.description import Description, describe_store
from mmvicreg.evaluation.embed import embed, find
from mmvicreg.evaluation.ranks import rank_both, rank_queries
from mmvicreg.evaluation.report import curves
from mmvicreg.evaluation.report import figures as pictures
from mmvicreg.evaluation.report.collect import collect_run, compare
from mmvicreg.evaluation.report.examples import Direction, examples_of, hubs_of
from mmvicreg.evaluation.report.html import write_report
from mmvicreg.evaluation.report.hubs import Hub
from mmvicreg.evaluation.report.page import SplitReport
from mmvicreg.evaluation.retrieval import RetrievalScores, folded_metrics, summarize
from mmvicreg.evaluation.store import Proof, Rows, Store
from mmvicreg.files import write_json
from mmvicreg.objectives.predictors import Predictors, predict
from mmvicreg.runs.run import CHECKPOINTS, Run, read_log
from mmvicreg.shards.index import ShardIndex, cache_folder, open_index
from mmvicreg.stream.reader import Reader


@dataclass(frozen=True)
class SplitScores:
    """What one split gave: retrieval by direction, and how the branches fill their spaces.

    Directions are ``image_to_text`` (cosine) and, where the run has predictors, ``image_to_text_by_predictor``:
    what the pictures predict of the texts, compared with the texts.
    """

    retrieval: dict[str, RetrievalScores]
    description: Description
    examples: dict[str, list[pictures.Example]]
    hubs: dict[str, list[Hub]]
    proof: Proof

    def to_json(self) -> dict[str, Any]:
        """Directions first; then geometry."""
        return {
            **{direction: scores.to_json() for direction, scores in self.retrieval.items()},
            **self.description.to_json(),
            "rejected_items": sum(self.proof.rejected.values()),
            "proof": asdict(self.proof),
        }


def embeddings_folder(run: Run) -> Path:
    """Where the embeddings of a run are kept: with the run; those of exports and baselines in the cache."""
    own = run.folder / "embeddings"
    return own if (run.folder / CHECKPOINTS).is_dir() else Path(cache_folder()) / "embeddings"


def evaluate_run(
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
    folds: int = 0,
) -> dict[str, SplitScores]:
    """Scores of every split of ``data`` {name: shards}, with ``examples`` queries a direction for pictures.

    ``folds`` > 0 adds the mean over so many consecutive folds of the pictures (``image_to_text_5_folds``), as the COCO
    1K protocol has it.

    Embeddings are kept in the run directory (``embeddings/``) and computed once. Called on every process of
    the default group where there are several: they share the work, and all get the result.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    scores = {}
    for name, shards in data.items():
        index = open_index(shards)
        store = embedded(run, index, *run.modalities, device=device, threads=threads, title=f"embed {name}")
        scores[name] = _score_split(store, run, index, device=chosen, examples=examples)
        scores[name].retrieval.update(_folded(store, run, folds, device=chosen) if folds else {})
    return scores


def embedded(
    run: Run,
    index: ShardIndex,
    *branches: str,
    device: str = "",
    threads: int | None = None,
    title: str = "embed",
) -> Store:
    """The rows of these branches on ``index`` (a view per branch), computed once and kept.

    Where the rows of all branches are there already, those. Raises KeyError for a branch that is not there.
    """
    folder = embeddings_folder(run)
    model, readers = _view_per_branch(run, branches)
    if set(branches) != set(run.modalities):
        everything, all_readers = _view_per_branch(run, tuple(run.modalities))
        found = find(everything, index, all_readers, folder=folder)
        if found is not None:
            return found
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return embed(model, index, readers, folder=folder, device=chosen, threads=threads, title=title)


def _view_per_branch(run: Run, branches: Sequence[str]) -> tuple[Model, dict[str, Reader]]:
    model = Model(
        {name: run.model.branch_named(name) for name in branches}, {name: name for name in branches}
    )
    return model, {name: run.modalities[name].reader() for name in branches}


def _score_split(
    store: Store, run: Run, index: ShardIndex, *, device: torch.device, examples: int
) -> SplitScores:
    branches = {name: rows for name, rows in store.views.items() if len(rows.z)}
    if len(branches) < 2:
        rejected = sum(store.proof.rejected.values())
        raise InvalidValueError(
            f"retrieval needs two modalities; the {len(index)} samples of this split have items of "
            f"{sorted(branches) or 'none'} ({rejected} rejected): check its members with 'mmvicreg check'"
        )
    readers = {name: modality.reader() for name, modality in run.modalities.items()}
    retrieval, shown, hubs = {}, {}, {}
    for name, direction in _directions(store, branches, run.predictors, device).items():
        retrieval[name] = summarize(direction.ranks, resamples=1000)
        shown[name] = examples_of(direction, store, readers, index, count=examples)
        hubs[name] = hubs_of(direction, store, readers, index)
    if not retrieval:
        widths = ", ".join(f"{name} {rows.z.shape[1]}" for name, rows in branches.items())
        raise InvalidValueError(
            f"no two branches can be compared: their widths differ ({widths}), and nothing predicts"
        )
    return SplitScores(retrieval, describe_store(store, device=device), shown, hubs, store.proof)


def _directions(
    store: Store, branches: Mapping[str, Rows], predictors: Predictors, device: torch.device
) -> dict[str, Direction]:
    """Every direction by name: by cosine where widths agree, and by predictor where there is one."""
    found = {}
    sharded = distributed.world_size() > 1
    for a, b in combinations(branches, 2):
        positives = store.positives(a, b)
        both = {(a, b): positives, (b, a): positives.transpose()}
        if branches[a].z.shape[1] == branches[b].z.shape[1]:
            z_a, z_b = branches[a].z, branches[b].z
            ranks = rank_both(z_a, z_b, positives, device=device, sharded=sharded, skip_unmatched=True)
            for (ends, matches), each in zip(both.items(), ranks, strict=True):
                rows = (branches[ends[0]], branches[ends[1]])
                found["_to_".join(ends)] = Direction(ends, *rows, matches, each)
        for ends, matches in both.items():
            if ends not in predictors:
                continue
            z = predict(predictors[ends], branches[ends[0]].z, device=device)
            rows = (replace(branches[ends[0]], z=z), branches[ends[1]])
            each = rank_queries(z, rows[1].z, matches, device=device, sharded=sharded, skip_unmatched=True)
            found["_to_".join(ends) + "_by_predictor"] = Direction(ends, *rows, matches, each)
    return found


def _folded(store: Store, run: Run, folds: int, *, device: torch.device) -> dict[str, RetrievalScores]:
    """Folds of the rows of each pair's picture branch (its first, where none is called image), by cosine."""
    found: dict[str, RetrievalScores] = {}
    for pair in combinations((name for name in run.modalities if len(store.rows(name).z)), 2):
        a, b = sorted(pair, key=lambda name: name != "image")
        rows = store.rows(a), store.rows(b)
        if rows[0].z.shape[1] == rows[1].z.shape[1]:
            both = folded_metrics(rows[0].z, rows[1].z, store.positives(a, b), folds=folds, device=device)
            found |= {f"{a}_to_{b}_{folds}_folds": both[0], f"{b}_to_{a}_{folds}_folds": both[1]}
    return found


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
    pictures.save(curves.loss_figure(log), folder / "loss.png")
    for split, found in scores.items():
        geometry = found.description.geometry
        ranks = {branch: each.effective_rank for branch, each in geometry.items()}
        pictures.save(
            pictures.spectrum_figure(found.description.spectra, ranks=ranks), folder / f"{split}-spectrum.png"
        )
        for direction, examples in found.examples.items():
            pictures.save(pictures.examples_figure(examples), folder / f"{split}-{direction}.png")
    reports = {
        name: SplitReport(each.retrieval, each.description, each.examples, each.hubs)
        for name, each in scores.items()
    }
    page = compare([collect_run(run.folder, run.config, splits=reports)])
    path = write_report(page, run.folder / "report.html")
    Console(stderr=True).print(f"report: {path}")
    return path
