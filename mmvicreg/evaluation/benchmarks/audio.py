"""Recordings with captions: AudioCaps and Clotho.

Kim et al. 2019; Drossos et al. 2020 (arXiv 1910.09387).
"""

from __future__ import annotations

from pathlib import Path

from mmvicreg.evaluation.benchmarks.files import MediaFolder, read_table, require
from mmvicreg.evaluation.benchmarks.paired import PairedMedia

SUFFIXES = ("wav", "flac")
CLOTHO = tuple(f"caption_{number}" for number in range(1, 6))


def audiocaps(path: Path, media: MediaFolder) -> dict[str, PairedMedia]:
    """``test.csv`` of AudioCaps (columns youtube_id, start_time, caption; a row a caption).

    A recording is ``ID.wav``, ``YID.wav`` or ``ID_START.wav`` with its YouTube number, or the same as .flac.
    """
    captions: list[str] = []
    names: list[list[str]] = []
    rows: list[int] = []
    row_of: dict[tuple[str, str], int] = {}
    for _, row in read_table(path, ("youtube_id", "start_time", "caption")):
        clip, start = row["youtube_id"], row["start_time"]
        if (clip, start) not in row_of:
            row_of[clip, start] = len(names)
            names.append([f"{stem}.{s}" for s in SUFFIXES for stem in (clip, f"Y{clip}", f"{clip}_{start}")])
        captions.append(row["caption"])
        rows.append(row_of[clip, start])
    require(names, "recording", path)
    return {"": PairedMedia.of(media.find(names), captions, rows)}


def clotho(path: Path, media: MediaFolder) -> dict[str, PairedMedia]:
    """``clotho_captions_evaluation.csv`` (columns file_name, caption_1 to caption_5)."""
    table = [row for _, row in read_table(path, ("file_name", *CLOTHO))]
    require(table, "recording", path)
    captions = [(number, row[column]) for number, row in enumerate(table) for column in CLOTHO]
    files = media.find([(row["file_name"],) for row in table])
    return {"": PairedMedia.of(files, [text for _, text in captions], [number for number, _ in captions])}
