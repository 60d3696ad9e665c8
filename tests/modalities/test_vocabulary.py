"""The vocabulary of a word-embedding encoder: made once, by one process, whole or not at all."""

import json
import os
from pathlib import Path

import pytest

import mmvicreg as mm
from mmvicreg.modalities.vocabulary import read_vocabulary

SHARDS = str(mm.demo_data() / "concepts-*.tar")


def test_a_vocabulary_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "new" / "words.json"
    words = mm.make_vocabulary(SHARDS, ("txt",), str(path))
    assert words == len(read_vocabulary(str(path))) >= 8
    before = path.stat()
    assert mm.make_vocabulary(SHARDS, ("txt",), str(path), min_count=1) == words
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_ino == before.st_ino
    assert os.listdir(path.parent) == ["words.json"]


def test_without_words_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no word of .* occurs 100000 times; check"):
        mm.make_vocabulary(SHARDS, ("txt",), str(tmp_path / "words.json"), min_count=100_000)
    assert os.listdir(tmp_path) == []


def test_a_vocabulary_that_is_no_list_of_words_is_named(tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(ValueError, match="expected a JSON list of words"):
        mm.make_vocabulary(SHARDS, ("txt",), str(tmp_path / "words.json"))
