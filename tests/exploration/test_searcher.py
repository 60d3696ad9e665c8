"""Queries from strangers are bounded: files by bytes and pixels, kinds by the branches that a run has."""

import pytest
from PIL import Image

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.exploration.searcher import MAX_FILE, Searcher
from mmvicreg.runs.run import read_run


@pytest.fixture(scope="module")
def searcher(pictured_run):
    return Searcher(read_run(pictured_run.folder), pictured_run.shards, device="cpu")


def test_files_that_are_too_large_are_refused_before_they_are_decoded(searcher, tmp_path):
    Image.new("1", (13_000, 13_000)).save(tmp_path / "pixels.png")
    with open(tmp_path / "bytes.png", "wb") as file:
        file.truncate(MAX_FILE + 1)
    for name, message in (("pixels.png", "too many pixels"), ("bytes.png", "at most 34 MB")):
        with pytest.raises(InvalidValueError, match=message):
            searcher.embed_file(tmp_path / name)
    with pytest.raises(MissingFileError, match=r"none\.png: no such file"):
        searcher.embed_file(tmp_path / "none.png")


def test_a_kind_that_no_branch_reads_is_refused_with_the_branches_there_are(searcher, tmp_path):
    (tmp_path / "sound.wav").write_bytes(b"RIFF")
    with pytest.raises(InvalidValueError, match="only image, text"):
        searcher.embed_file(tmp_path / "sound.wav")


def test_neighbours_of_an_item_leave_it_out(searcher):
    found = searcher.nearest(searcher.embed_row("image", 5), "image", k=4, skip=5)
    assert len(found) == 4 and 5 not in [each.row for each in found]
    assert found == sorted(found, key=lambda each: -each.cosine)
