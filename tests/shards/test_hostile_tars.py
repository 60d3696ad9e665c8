"""Every tar of the corpus gets its verdict from the index, from front-to-back reading, and from ``check``."""

import io
import shutil
import subprocess

import pytest
from hostile_tars import CORPUS, PLAIN, SOUND, tar

from mmvicreg.shards.index import open_index
from mmvicreg.shards.tar import BadShardError
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.sequential import sequential_samples

PLAIN_SAMPLES = {"a": {"txt": b"first", "cls": b"1"}, "b": {"txt": b"second", "cls": b"2"}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))


def read(path):
    index = open_index(str(path))
    fetch = Fetcher(index)
    samples = (fetch(*index.place(number), set(index.suffixes)) for number in range(len(index)))
    return {sample.key: dict(sample.members) for sample in samples}


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_tar_is_read_right_or_refused_by_name(tmp_path, name):
    build, kind = CORPUS[name]
    data = build()
    (tmp_path / "x.tar").write_bytes(data)
    if kind:
        with pytest.raises(BadShardError, match=kind):
            open_index(str(tmp_path / "x.tar"))
        with pytest.raises(BadShardError):
            list(sequential_samples([("x", io.BytesIO(data))]))
    else:
        expected = SOUND.get(name, PLAIN_SAMPLES)
        assert read(tmp_path / "x.tar") == expected
        forward = {s.key: dict(s.members) for s in sequential_samples([("x", io.BytesIO(data))])}
        assert forward == expected


def test_what_gnu_tar_writes_of_a_sparse_file_is_refused_in_every_format(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.write(b"begin")
        file.seek(1 << 20)
        file.write(b"end")
    tool = shutil.which("tar")
    assert tool is not None
    versions = [
        ["--format=gnu"],
        *(["--format=posix", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")),
    ]
    for number, options in enumerate(versions):
        command = [tool, "--sparse", *options, "-cf", f"{number}.tar", "a.jpg"]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
        with pytest.raises(BadShardError, match="unsupported member.*sparse"):
            open_index(str(tmp_path / f"{number}.tar"))


def test_names_that_are_not_utf8_become_text_that_can_be_written_anywhere(tmp_path):
    data = bytearray(tar({"cafe.txt": b"x"}, format=0))
    data[3:4] = b"\xe9"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "x.tar").write_bytes(data)
    (key,) = read(tmp_path / "x.tar")
    assert key == "caf\\xe9" and key.encode() == b"caf\\xe9"


def test_escape_sequences_in_names_are_not_printed(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar({"\x1b[31ma.txt": b"1", "b.txt": b"", "\x1b[31ma.cls": b"3"}))
    with pytest.raises(BadShardError, match="keys not adjacent") as raised:
        open_index(str(tmp_path / "x.tar"))
    assert "\x1b" not in str(raised.value) and "\\x1b[31ma" in str(raised.value)


def test_the_corpus_holds_sound_and_damaged_tars():
    assert len(CORPUS) > 30 and PLAIN and {kind == "" for _, kind in CORPUS.values()} == {True, False}
