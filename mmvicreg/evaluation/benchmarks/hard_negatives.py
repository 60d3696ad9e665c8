"""Pictures with a right and a wrong caption: SugarCrepe and Winoground.

SugarCrepe (Hsieh et al. 2023, arXiv 2306.14610): a picture is right where its caption scores higher than the negative
one. Winoground (Thrush et al. 2022, arXiv 2204.03162, equations 1 to 3), captions C0, C1 and pictures I0, I1: the text
score counts s(C0, I0) > s(C1, I0) and s(C1, I1) > s(C0, I1), the image score s(C0, I0) > s(C0, I1) and s(C1, I1) >
s(C1, I0), the group score both. A tie is wrong, as in the papers: a collapsed model scores 0, below chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mmvicreg.evaluation.benchmarks.files import (
    MediaFolder,
    get,
    read_json,
    read_json_lines,
    require,
    text_of,
)

CHANCE = {"accuracy": 1 / 2, "text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6}
"""Scores of random numbers."""

Win: TypeAlias = tuple[int, int, int, int]
"""Rows (caption, media, caption, media): the first pair has to score higher than the second."""


@dataclass(frozen=True)
class Comparisons:
    """``media`` files and ``captions``; each of ``wins`` is a score: for every case, what it has to win."""

    media: list[Path]
    captions: list[str]
    wins: dict[str, list[list[Win]]]


def sugarcrepe(path: Path, media: MediaFolder) -> dict[str, Comparisons]:
    """A file of SugarCrepe, or the folder of all seven, by category (``swap_att``, ...); pictures of COCO val2017."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    require(files, "file CATEGORY.json", path)
    found = {}
    for file in files:
        entries = read_json(file)
        entries = list(entries.values()) if isinstance(entries, dict) else entries
        require(entries if isinstance(entries, list) else (), "case", file)
        captions, names = [], []
        for number, entry in enumerate(entries):
            at = f"{file} case {number}"
            names.append((text_of(entry, "filename", at),))
            captions += [text_of(entry, "caption", at), text_of(entry, "negative_caption", at)]
        wins = [[(2 * case, case, 2 * case + 1, case)] for case in range(len(names))]
        found[file.stem] = Comparisons(media.find(names), captions, {"accuracy": wins})
    return found


def winoground(path: Path, media: MediaFolder) -> dict[str, Comparisons]:
    """``examples.jsonl`` of Winoground; pictures ``NAME.png``."""
    lines = read_json_lines(path)
    require(lines, "case", path)
    captions, names = [], []
    for at, entry in lines:
        for end in ("0", "1"):
            image = text_of(entry, f"image_{end}", at)
            names.append((image, f"{image}.png", f"{image}.jpg", f"images/{image}.png"))
            captions.append(str(get(entry, f"caption_{end}", str, at)))
    by_text: list[list[Win]] = []
    by_image: list[list[Win]] = []
    for first in range(0, len(names), 2):
        second = first + 1
        by_text.append([(first, first, second, first), (second, second, first, second)])
        by_image.append([(first, first, first, second), (second, second, second, first)])
    group = [[*a, *b] for a, b in zip(by_text, by_image, strict=True)]
    wins = {"text_score": by_text, "image_score": by_image, "group_score": group}
    return {"": Comparisons(media.find(names), captions, wins)}
