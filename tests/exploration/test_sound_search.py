"""A recording as the query of a run with an audio branch."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from recordings import tone
from webdataset import TarWriter

import mmvicreg as mm
from mmvicreg.exploration.searcher import Searcher
from mmvicreg.runs.run import read_run

COUNT = 12


@dataclass(frozen=True)
class Config(mm.TrainConfig):
    """Tones and captions of single letters, a step or two."""

    batch_size: int = COUNT
    epochs: float = 2.0
    cpu: bool = True
    threads: int = 1
    sound: mm.AudioModality = mm.AudioModality(seconds=1.0, rate=8000, bins=32, width=8, projector=(16,))
    text: mm.TextModality = mm.TextModality(
        encoder="gru", word_width=8, state_width=8, length=4, projector=(16,)
    )


def objective(config: Config) -> mm.Objective:
    return mm.Objective(mm.Invariance(25.0), {name: mm.VICReg() for name in ("sound", "text")})


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    folder = tmp_path_factory.mktemp("sound")
    shards = str(folder / "tones-000.tar")
    with TarWriter(shards) as writer:
        for number in range(COUNT):
            writer.write(
                {"__key__": f"{number:02d}", "ogg": tone(200 + 150 * number), "txt": chr(97 + number)}
            )
    words = str(folder / "words.json")
    mm.make_vocabulary(shards, ("txt",), words, min_count=1)
    config = Config(train=shards, out=str(folder / "run"))
    run = mm.train(replace(config, text=replace(config.text, vocabulary=words)), objective)
    return Searcher(read_run(run.folder), shards, device="cpu", threads=1)


def test_a_recording_finds_itself_first_and_a_sample_for_every_caption(
    searcher: Searcher, tmp_path: Path
) -> None:
    (tmp_path / "query.ogg").write_bytes(tone(200 + 150 * 7))
    query = searcher.embed_file(tmp_path / "query.ogg")
    first, second = searcher.nearest(query, "sound", k=2)
    assert first.keys == ("07",) and first.cosine > 0.9999 > second.cosine
    captions = searcher.nearest(query, "text", k=COUNT)
    assert sorted(str(found.shown.content) for found in captions) == [
        chr(97 + number) for number in range(COUNT)
    ]


def test_what_is_no_recording_is_refused_in_words(searcher: Searcher, tmp_path: Path) -> None:
    (tmp_path / "query.ogg").write_bytes(b"OggS, and then nothing of the kind")
    with pytest.raises(ValueError, match="query.ogg"):
        searcher.embed_file(tmp_path / "query.ogg")
