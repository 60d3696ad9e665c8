"""Scores of a run on held-out splits: retrieval in every direction, chance beside each, and geometry."""

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
from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.description import Description, describe_store
from mmvicreg.evaluation.embed import embed_split
from mmvicreg.evaluation.report.examples import Direction, examples_of, hubs_of
from mmvicreg.evaluation.report.figures import Example
from mmvicreg.evaluation.report.hubs import Hub
from mmvicreg.evaluation.report.page import SplitReport
from mmvicreg.evaluation.report.run_report import describe_run, write_run_report
from mmvicreg.evaluation.retrieval import RetrievalScores, folded_metrics, summarize
from mmvicreg.evaluation.scoring.comparison import Comparison, Scoring, comparison
from mmvicreg.evaluation.store import EmbeddedItems, Proof, Store
from mmvicreg.evaluation.summary import Summary, flatten
from mmvicreg.evaluation.transfer.prompts import image_branches
from mmvicreg.objectives.predictors import predict
from mmvicreg.runs.run import Run
from mmvicreg.shards.index import ShardIndex, open_index

COSINE = Scoring()


@dataclass(frozen=True)
class SplitScores:
    """Scores of one split.

    ``retrieval``: by direction; ``image_to_text`` ranks as the scoring says (by cosine, if nothing else was chosen),
    ``image_to_text_width_64`` by the first 64 columns, and ``image_to_text_by_predictor``, beside cosines where the run
    has predictors, by the cosine of what the pictures predict of the texts. ``description``: geometry of every branch.
    ``examples``: queries with what they found, by direction; ``hubs``: items that are found too often. ``proof``:
    which samples were read.
    """

    retrieval: dict[str, RetrievalScores]
    description: Description
    examples: dict[str, list[Example]]
    hubs: dict[str, list[Hub]]
    proof: Proof

    def __repr__(self) -> str:
        """One line, for a notebook: recall at the smallest k of every direction, in percent; the rest is in fields."""
        recalls = []
        for direction, found in self.retrieval.items():
            k = min(found.recall)
            recalls.append(
                f"{direction} R@{k} {100 * found.recall[k]:.1f}% (chance {100 * found.chance[k]:.2f}%)"
            )
        return f"SplitScores({', '.join(recalls)})"

    def to_json(self) -> dict[str, Any]:
        """Every number, nested by direction and by kind of geometry."""
        return {
            **{direction: scores.to_json() for direction, scores in self.retrieval.items()},
            **self.description.to_json(),
            "rejected_items": sum(self.proof.rejected.values()),
        }


def evaluate(
    run: Run,
    splits: Mapping[str, str | Sequence[str]],
    *,
    device: str = "",
    out: str | Path = "",
    beside: Sequence[Run] = (),
) -> dict[str, SplitScores]:
    """Score ``run`` on ``splits`` {name: shards}, print a table, and write ``summary.json`` and the report.

    ``device``: "cpu", "cuda", ...; a GPU where there is one if empty. ``out``: folder for the files; the run directory
    if empty. ``beside``: other runs to score on the same splits and to show in the same report; the ``summary.json`` of
    each is written into its own run directory. Under a launcher all processes call this and share the work; the first
    one writes.

    Raises ValueError for a split without samples or without two modalities, FileNotFoundError for missing shards.
    """
    folder = Path(out) if out else run.folder
    others = [(other, score_splits(other, splits, device=device, examples=6)) for other in beside]
    scores = score_splits(run, splits, device=device, examples=6)
    if distributed.rank() > 0:
        return scores
    console = Console(width=None if Console().is_terminal else 120)
    for each, found, place in (*((*other, other[0].folder) for other in others), (run, scores, folder)):
        table = scores_table(found)
        table.title = f"{each.folder.name}: {table.title}" if beside else table.title
        console.print(table)
        summarize_splits(each, found, source="evaluate").write(place / "summary.json")
    reports = [describe_run(each, split_reports(found)) for each, found in others]
    write_run_report(run, split_reports(scores), folder=folder, beside=reports)
    return scores


def score_splits(
    run: Run,
    splits: Mapping[str, str | Sequence[str]],
    *,
    device: str = "",
    threads: int = 2,
    examples: int = 0,
    folds: int = 0,
    group_images: bool = False,
    scoring: Scoring = COSINE,
) -> dict[str, SplitScores]:
    """Scores of every split {name: shards}, without writing anything but the embeddings.

    ``examples``: queries of each direction that are kept with what they found, and hubs (pictures are decoded).
    ``folds`` > 0 adds the mean over so many consecutive folds of the pictures (``image_to_text_5_folds``), as the COCO
    1K protocol has it. ``group_images``: pictures of identical bytes are one item, which matches the captions of all
    samples it occurs in. ``scoring``: how queries are compared with items.

    Embeddings are computed once and kept (see :func:`mmvicreg.evaluation.embed.embed_split`). Where there are several
    processes, all call this; they share the work, and all get the result. Errors are those of :func:`evaluate`.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if folds and scoring.hubness != "none":
        raise InvalidValueError(
            f"folds ({folds}) are scored without correction for hubs; leave out folds or hubness"
        )
    scores = {}
    indexes = {name: open_index(shards) for name, shards in splits.items()}
    compare = comparison(run, scoring, device=chosen, threads=threads, scored=indexes)
    for name, index in indexes.items():
        store = embed_split(
            run, index, device=device, threads=threads, title=f"embed {name}", group_images=group_images
        )
        scores[name] = _score_split(store, compare, index, examples=examples)
        scores[name].retrieval.update(_folded(store, compare, folds) if folds else {})
    return scores


def summarize_splits(
    run: Run, scores: Mapping[str, SplitScores], *, source: str, scoring: Scoring = COSINE
) -> Summary:
    """The summary of a run's splits: ``test.image_to_text.recall_at_1``, ``test.geometry.image.effective_rank``, ..."""
    return Summary(
        source=source,
        run=run.folder.name,
        step=run.step,
        scores=flatten({split: found.to_json() for split, found in scores.items()}),
        data={split: asdict(found.proof) for split, found in scores.items()},
        settings=scoring.to_json(),
    )


def _score_split(store: Store, compare: Comparison, index: ShardIndex, *, examples: int) -> SplitScores:
    branches = {name: rows for name, rows in store.views.items() if len(rows.z)}
    if len(branches) < 2:
        rejected = sum(store.proof.rejected.values())
        raise InvalidValueError(
            f"retrieval needs two modalities; the {len(index)} samples of this split have items of "
            f"{sorted(branches) or 'none'} ({rejected} rejected): check its members with 'mmvicreg check'"
        )
    readers = {name: modality.reader() for name, modality in compare.run.modalities.items()}
    retrieval, shown, hubs = {}, {}, {}
    for name, direction in _directions(store, branches, compare).items():
        retrieval[name] = summarize(direction.ranks, resamples=1000)
        if examples:
            shown[name] = examples_of(direction, store, readers, index, count=examples)
            hubs[name] = hubs_of(direction, store, readers, index)
    if not retrieval:
        widths = ", ".join(f"{name} {rows.z.shape[1]}" for name, rows in branches.items())
        raise InvalidValueError(
            f"no two branches can be compared: their widths differ ({widths}), and nothing predicts"
        )
    described = describe_store(store, device=compare.device)
    return SplitScores(retrieval, described, shown, hubs, store.proof)


def _directions(
    store: Store, branches: Mapping[str, EmbeddedItems], compare: Comparison
) -> dict[str, Direction]:
    """Every direction by name: as the scoring says, of every width; and by predictor beside cosines."""
    found = {}
    sharded = distributed.world_size() > 1
    for a, b in combinations(branches, 2):
        sides, positives = (branches[a], branches[b]), store.positives(a, b)
        both = {(a, b): positives, (b, a): positives.transpose()}
        for width in (0, *compare.scoring.widths):
            rows = compare.rows((a, b), (sides[0].z, sides[1].z), width=width)
            if rows is None:
                continue
            suffix = f"_width_{width}" if width else ""
            items = [replace(side, z=z) for side, z in zip(sides, rows, strict=True)]
            ranks = compare.rank_both(rows, positives, sharded=sharded)
            found[f"{a}_to_{b}{suffix}"] = Direction((a, b), items[0], items[1], both[a, b], ranks[0])
            found[f"{b}_to_{a}{suffix}"] = Direction((b, a), items[1], items[0], both[b, a], ranks[1])
        for ends, matches in both.items():
            if ends not in compare.run.predictors or compare.scoring.kind != "cosine":
                continue
            z = predict(compare.run.predictors[ends], branches[ends[0]].z, device=compare.device)
            pair = (replace(branches[ends[0]], z=z), branches[ends[1]])
            each = compare.rank((z, pair[1].z), matches, sharded=sharded)
            found["_to_".join(ends) + "_by_predictor"] = Direction(ends, *pair, matches, each)
    return found


def _folded(store: Store, compare: Comparison, folds: int) -> dict[str, RetrievalScores]:
    """Folds of the rows of each pair's picture branch (its first branch, where neither is one)."""
    found: dict[str, RetrievalScores] = {}
    pictures = image_branches(compare.run)
    for pair in combinations((name for name in compare.run.modalities if len(store.items(name).z)), 2):
        a, b = sorted(pair, key=lambda name: name not in pictures)
        rows = compare.rows((a, b), (store.items(a).z, store.items(b).z))
        if rows is not None:
            both = folded_metrics(*rows, store.positives(a, b), folds=folds, device=compare.device)
            found |= {f"{a}_to_{b}_{folds}_folds": both[0], f"{b}_to_{a}_{folds}_folds": both[1]}
    return found


def split_reports(scores: Mapping[str, SplitScores]) -> dict[str, SplitReport]:
    """The scores as parts of a report."""
    return {
        name: SplitReport(each.retrieval, each.description, each.examples, each.hubs)
        for name, each in scores.items()
    }


def scores_table(scores: Mapping[str, SplitScores]) -> Table:
    """A table of every split and direction: recall in percent, with chance in brackets."""
    return retrieval_table({split: found.retrieval for split, found in scores.items()})


def retrieval_table(scores: Mapping[str, Mapping[str, RetrievalScores]]) -> Table:
    """The table of :func:`scores_table` from the scores of each split and direction."""
    table = Table(title="held-out retrieval: recall in % (chance in %)")
    ks = list(next(iter(next(iter(scores.values())).values())).recall)
    for column in ("split", "direction", *(f"R@{k}" for k in ks), "median rank", "queries", "items"):
        table.add_column(column, justify="left" if column in ("split", "direction") else "right")
    for split, found in scores.items():
        for direction, each in found.items():
            recalls = [f"{100 * each.recall[k]:.1f} ({100 * each.chance[k]:.2f})" for k in ks]
            size = (f"{each.num_queries:,}", f"{each.num_items:,}")
            table.add_row(split, direction.replace("_", " "), *recalls, f"{each.median_rank:g}", *size)
    return table
