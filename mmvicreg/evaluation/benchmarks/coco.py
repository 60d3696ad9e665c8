"""Karpathy's split of COCO and Flickr30k, and the further matches of COCO's captions: ECCV Caption and CxC.

Karpathy and Fei-Fei 2015; Chun et al. 2022 (ECCV Caption, arXiv 2204.03359); Parekh et al. 2021 (CxC, arXiv
2004.15020). The matches are those of the PyPI package eccv-caption, of which only JSON files are read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.benchmarks.files import MediaFolder, get, read_json, require, text_of
from mmvicreg.evaluation.benchmarks.paired import PairedMedia
from mmvicreg.evaluation.positives import Positives

CAPTIONS = 5
"""Captions of a picture that count; some pictures of COCO have six or seven, and the protocol leaves those out."""


@dataclass(frozen=True)
class _Picture:
    names: list[str]
    number: int
    captions: list[tuple[int, str]]


def karpathy(path: Path, media: MediaFolder) -> dict[str, PairedMedia]:
    """The test pictures of ``dataset_coco.json`` or ``dataset_flickr30k.json`` with their first five captions."""
    pictures = _test_pictures(path)
    captions = [(row, text) for row, p in enumerate(pictures) for _, text in p.captions[:CAPTIONS]]
    files = media.find([p.names for p in pictures])
    return {"": PairedMedia.of(files, [text for _, text in captions], [row for row, _ in captions])}


def eccv(path: Path, media: MediaFolder) -> dict[str, PairedMedia]:
    """COCO's test pictures and captions with the matches that people verified for ECCV Caption."""
    return _judged(path, media, "eccv")


def cxc(path: Path, media: MediaFolder) -> dict[str, PairedMedia]:
    """COCO's test pictures and captions with the matches of CxC (Crisscrossed Captions)."""
    return _judged(path, media, "cxc")


def _judged(path: Path, media: MediaFolder, name: str) -> dict[str, PairedMedia]:
    """Pictures and captions by the numbers of COCO; queries that nobody judged match nothing and are left out."""
    pictures = _test_pictures(path)
    known = _package_file("original_caption_to_image")
    captions = [(number, text) for p in pictures for number, text in p.captions if str(number) in known]
    captions = list(dict(captions).items())
    require(captions, "caption of COCO's test set (by 'sentid')", path)
    picture_rows = {p.number: row for row, p in enumerate(pictures)}
    caption_rows = {number: row for row, (number, _) in enumerate(captions)}
    matches = [
        _positives(_package_file(f"{name}_{ends}"), *rows, path)
        for ends, rows in (
            ("image_to_caption", (picture_rows, caption_rows)),
            ("caption_to_image", (caption_rows, picture_rows)),
        )
    ]
    files = media.find([p.names for p in pictures])
    return {"": PairedMedia(files, [text for _, text in captions], matches[0], matches[1])}


def _positives(
    judged: Mapping[str, Collection[int | str]],
    queries: Mapping[int, int],
    items: Mapping[int, int],
    path: Path,
) -> Positives:
    pairs = [
        (queries[int(query)], items[int(item)])
        for query, found in judged.items()
        for item in found
        if int(query) in queries and int(item) in items
    ]
    require(pairs, "query that was judged, of those in COCO's test set", path)
    query_n, item_n = np.array(pairs).T
    return Positives.from_pairs(query_n, item_n, num_queries=len(queries), num_items=len(items))


def _test_pictures(path: Path) -> list[_Picture]:
    found = []
    for number, entry in enumerate(get(read_json(path), "images", list, str(path))):
        at = f"{path} image {number}"
        if text_of(entry, "split", at) != "test":
            continue
        name, folder = text_of(entry, "filename", at), entry.get("filepath")
        names = [f"{folder}/{name}", name] if isinstance(folder, str) and folder else [name]
        captions = [
            (get(sentence, "sentid", int, at), text_of(sentence, "raw", at))
            for sentence in get(entry, "sentences", list, at)
        ]
        identity = entry.get("cocoid")
        found.append(_Picture(names, identity if isinstance(identity, int) else -1 - number, captions))
    require(found, "image of split 'test'", path)
    return found


def _package_file(name: str) -> dict[str, list[int | str]]:
    spec = find_spec("eccv_caption")
    if spec is None or spec.origin is None:
        raise InvalidValueError(
            "eccv and cxc need the matches of the package eccv-caption: pip install 'mmvicreg[benchmarks]'"
        )
    return read_json(Path(spec.origin).parent / "data" / f"{name}.json")
