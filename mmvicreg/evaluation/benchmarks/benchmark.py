"""A benchmark by name: its files read, its media and captions embedded by a run, and scored by its protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError, MissingFileError, UnknownNameError
from mmvicreg.evaluation.benchmarks.audio import audiocaps, clotho
from mmvicreg.evaluation.benchmarks.coco import cxc, eccv, karpathy
from mmvicreg.evaluation.benchmarks.files import MediaFolder
from mmvicreg.evaluation.benchmarks.hard_negatives import CHANCE, Comparisons, sugarcrepe, winoground
from mmvicreg.evaluation.benchmarks.multilingual import crossmodal, xtd
from mmvicreg.evaluation.benchmarks.paired import PairedMedia
from mmvicreg.evaluation.ranking.score_tiles import levels
from mmvicreg.evaluation.retrieval import RetrievalScores, bootstrap_interval, summarize
from mmvicreg.evaluation.scoring.comparison import Comparison
from mmvicreg.evaluation.scoring.hubness import TILE
from mmvicreg.evaluation.transfer.prompts import text_branches
from mmvicreg.evaluation.unit_rows import UnitRows
from mmvicreg.runs.run import Run

Parts: TypeAlias = Mapping[str, PairedMedia | Comparisons]

BENCHMARKS: dict[str, Callable[[Path, MediaFolder], Parts]] = {
    "karpathy": karpathy,
    "eccv": eccv,
    "cxc": cxc,
    "crossmodal": crossmodal,
    "xtd": xtd,
    "audiocaps": audiocaps,
    "clotho": clotho,
    "sugarcrepe": sugarcrepe,
    "winoground": winoground,
}


@dataclass(frozen=True)
class BenchmarkScores:
    """By part of the benchmark (its name, with the language or category): ``retrieval`` by direction, or ``accuracies``
    by name, fractions."""

    retrieval: dict[str, dict[str, RetrievalScores]]
    accuracies: dict[str, dict[str, float]]
    sizes: dict[str, dict[str, int]]
    """media and captions of each part, and cases of hard negatives"""

    def to_json(self) -> dict[str, Any]:
        """Every number, nested by part."""
        ranked = {
            part: {direction: each.to_json() for direction, each in found.items()}
            for part, found in self.retrieval.items()
        }
        return {**ranked, **self.accuracies}


def read_benchmark(named: str, media: str, *, languages: Sequence[str] = ()) -> tuple[str, Parts]:
    """The name and the parts of ``NAME:FILE``; ``languages``: only these parts, all if empty.

    Raises KeyError for another name or a language that is not there, FileNotFoundError and ValueError for files.
    """
    name, file = name_and_file(named)
    if not media or not Path(media).is_dir():
        raise MissingFileError(
            f"--media {media or '(none)'}: no such folder; give the one with the media files"
        )
    parts = BENCHMARKS[name](Path(file), MediaFolder(Path(media)))
    if unknown := set(languages) - set(parts):
        there = ", ".join(filter(None, parts)) or "no languages"
        raise UnknownNameError(f"--languages {' '.join(sorted(unknown))}: {file} has {there}")
    return name, {part: each for part, each in parts.items() if part in languages or not languages}


def name_and_file(named: str) -> tuple[str, str]:
    """Both parts of ``NAME:FILE``. Raises KeyError for a name that is not among the benchmarks."""
    name, _, file = named.partition(":")
    if name not in BENCHMARKS or not file:
        raise UnknownNameError(
            f"--benchmark {named}: expected NAME:FILE with a name of {', '.join(BENCHMARKS)}"
        )
    return name, file


def score_benchmark(name: str, parts: Parts, compare: Comparison) -> BenchmarkScores:
    """Scores of every part; files and captions that occur twice are embedded once.

    Raises ValueError for media that cannot be read, and for a run without a branch of texts or of these media.
    """
    if distributed.world_size() > 1:
        raise InvalidValueError("benchmarks are scored by one process; run the command without a launcher")
    if compare.scoring.hubness != "none" and any(isinstance(p, Comparisons) for p in parts.values()):
        raise InvalidValueError(f"{name} compares two captions of a picture: leave out --hubness")
    ends = _branches(compare.run, next(iter(parts.values())).media[0].suffix)
    media = _embed(compare, ends[0], [path for part in parts.values() for path in part.media])
    texts = _embed(compare, ends[1], [text for part in parts.values() for text in part.captions])
    found = BenchmarkScores({}, {}, {})
    for part, each in parts.items():
        full = f"{name}_{part}" if part else name
        z = media[each.media], texts[each.captions]
        found.sizes[full] = {"media": len(each.media), "captions": len(each.captions)}
        if isinstance(each, PairedMedia):
            found.retrieval[full] = _ranked(each, compare, ends, z)
        else:
            found.sizes[full]["cases"] = len(next(iter(each.wins.values())))
            found.accuracies[full] = _won(each, compare, ends, z)
    return found


class _Embedded:
    """Embeddings by what was embedded."""

    def __init__(self, items: Sequence[Path | str], z_ND: np.ndarray) -> None:
        self.row_of = {item: row for row, item in enumerate(items)}
        self.z_ND = z_ND

    def __getitem__(self, items: Sequence[Path | str]) -> np.ndarray:
        return self.z_ND[[self.row_of[item] for item in items]]


def _embed(compare: Comparison, branch: str, items: Sequence[Path | str]) -> _Embedded:
    run, distinct = compare.run, list(dict.fromkeys(items))
    view = next(view for view, name in run.model.views.items() if name == branch)
    z_ND = run.encode(view, distinct, normalize=False, device=str(compare.device))
    return _Embedded(distinct, z_ND.numpy())


def _branches(run: Run, suffix: str) -> tuple[str, str]:
    """The branch that reads files of this suffix, and the one for texts."""
    texts = text_branches(run)
    member = suffix.removeprefix(".").lower()
    media = [name for name, m in run.modalities.items() if name not in texts and member in m.reader().members]
    if len(media) != 1 or len(texts) != 1:
        readers, embedders = (", ".join(names) or "none" for names in (media, texts))
        raise InvalidValueError(
            f"a benchmark needs one branch that reads .{member} files and one for texts; of "
            f"{', '.join(run.modalities)}, {readers} reads them, and {embedders} embeds texts"
        )
    return media[0], texts[0]


def _ranked(
    part: PairedMedia, compare: Comparison, ends: tuple[str, str], z: tuple[np.ndarray, np.ndarray]
) -> dict[str, RetrievalScores]:
    found = {}
    for width, rows in _rows(compare, ends, z):
        there = compare.rank(rows, part.to_captions)
        back = compare.rank((rows[1], rows[0]), part.to_media)
        found[f"{ends[0]}_to_{ends[1]}{width}"] = summarize(there, resamples=1000)
        found[f"{ends[1]}_to_{ends[0]}{width}"] = summarize(back, resamples=1000)
    return found


def _won(
    part: Comparisons, compare: Comparison, ends: tuple[str, str], z: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    found: dict[str, float] = {}
    for width, rows in _rows(compare, ends, z):
        media, texts = (
            UnitRows(side, end, TILE, compare.device) for side, end in zip(rows, ends, strict=True)
        )
        for name, cases in part.wins.items():
            tuples = np.array(cases)  # (cases, comparisons, caption, media, caption, media)
            scores = [
                levels(texts, media, *_pairs(tuples[..., first : first + 2], compare)).reshape(
                    tuples.shape[:2]
                )
                for first in (0, 2)
            ]
            right = (scores[0] > scores[1]).all(dim=1).double().cpu().numpy()
            low, high = bootstrap_interval(right)
            found |= {f"{name}{width}": float(right.mean()), f"{name}{width}_chance": CHANCE[name]}
            found |= {f"{name}{width}_interval_low": low, f"{name}{width}_interval_high": high}
    return found


def _rows(
    compare: Comparison, ends: tuple[str, str], z: tuple[np.ndarray, np.ndarray]
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """The compared rows of every width, with the end of its names."""
    for width in (0, *compare.scoring.widths):
        rows = compare.rows(ends, z, width=width)
        if rows is None:
            raise InvalidValueError(
                f"{ends[0]} and {ends[1]} cannot be compared: widths {z[0].shape[1]} and {z[1].shape[1]}, and nothing "
                "predicts; try --scoring prediction or correlation"
            )
        yield f"_width_{width}" if width else "", rows


def _pairs(pair_n2: np.ndarray, compare: Comparison) -> tuple[Tensor, Tensor]:
    """The captions and media of pairs (cases, comparisons, 2), each int64 (cases x comparisons,)."""
    rows = torch.from_numpy(pair_n2.reshape(-1, 2)).to(compare.device)
    return rows[:, 0], rows[:, 1]
