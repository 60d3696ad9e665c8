"""Captions of one set of pictures in several languages: Crossmodal-3600 and XTD.

Thapliyal et al. 2022 (arXiv 2205.12522); Aggarwal and Kale 2020 (arXiv 2012.05107).
"""

from __future__ import annotations

from pathlib import Path

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.evaluation.benchmarks.files import (
    MediaFolder,
    get,
    read_json_lines,
    read_text,
    require,
    text_of,
)
from mmvicreg.evaluation.benchmarks.paired import PairedMedia

XTD_NAMES = "test_image_names.txt"
XTD_CAPTIONS = "test_1kcaptions_"


def crossmodal(path: Path, media: MediaFolder) -> dict[str, PairedMedia]:
    """``captions.jsonl`` of Crossmodal-3600, by language; pictures are ``KEY.jpg``."""
    lines = read_json_lines(path)
    require(lines, "picture", path)
    keys = [text_of(entry, "image/key", at) for at, entry in lines]
    files = media.find([(f"{key}.jpg",) for key in keys])
    found: dict[str, tuple[list[str], list[int]]] = {}
    for row, (at, entry) in enumerate(lines):
        for language, value in entry.items():
            if not isinstance(value, dict):
                continue
            for text in get(value, "caption", list, f"{at}, language {language!r}"):
                captions, rows = found.setdefault(language, ([], []))
                captions.append(text_of({"caption": text}, "caption", f"{at}, language {language!r}"))
                rows.append(row)
    require(found, "caption", path)
    return {language: PairedMedia.of(files, *each) for language, each in sorted(found.items())}


def xtd(path: Path, media: MediaFolder) -> dict[str, PairedMedia]:
    """The folder of XTD by language: ``test_image_names.txt``, and ``test_1kcaptions_LANGUAGE.txt`` with a caption a
    line, anywhere in it; pictures are COCO's, in ``train2014/`` and ``val2014/`` or beside each other."""
    if not path.is_dir():
        raise MissingFileError(
            f"{path}: no such folder; --benchmark xtd:FOLDER takes the one with {XTD_NAMES}"
        )
    names_file = next(iter(sorted(path.rglob(XTD_NAMES))), path / XTD_NAMES)
    names = [line.strip() for line in read_text(names_file).splitlines() if line.strip()]
    require(names, "picture", names_file)
    files = media.find([(name, f"val2014/{name}", f"train2014/{name}") for name in names])
    found = {}
    for file in sorted(path.rglob(f"{XTD_CAPTIONS}*.txt")):
        captions = [line.strip() for line in read_text(file).splitlines()]
        if len(captions) != len(names) or not all(captions):
            raise InvalidValueError(
                f"{file}: {sum(map(bool, captions))} captions for the {len(names)} pictures of {names_file}; expected "
                "one a line"
            )
        language = file.stem.removeprefix(XTD_CAPTIONS)
        found[language] = PairedMedia.of(files, captions, range(len(names)))
    require(found, f"file {XTD_CAPTIONS}LANGUAGE.txt", path)
    return found
