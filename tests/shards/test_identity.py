"""What an index calls the same data has the same content: names and sizes alone do not identify a shard."""

import io
import multiprocessing
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from mmvicreg.shards.content import WHOLE
from mmvicreg.shards.index import open_index
from mmvicreg.shards.index_file import read_footer, read_table
from mmvicreg.shards.locations import index_paths, redact
from mmvicreg.shards.tar import BadShardError
from mmvicreg.stream.fetcher import Fetcher


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))


def write(path, features, *, when=1):
    with tarfile.open(path, "w") as tar:
        for number, array in enumerate(features):
            buffer = io.BytesIO()
            np.save(buffer, array)
            info = tarfile.TarInfo(f"{number}.npy")
            info.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(info, buffer)
    os.utime(path, ns=(when, when))
    return str(path)


SMALL = np.zeros((4, 1000), np.float32)
LARGE = np.zeros((2, WHOLE // 4), np.float32)  # two members, together above what is hashed whole


def changed(array, *places):
    array = array.copy()
    for place in places:
        array[place] = 1
    return array


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SMALL, changed(SMALL, (2, 500))),
        (LARGE, changed(LARGE, (1, 0))),
        (LARGE, changed(LARGE, (1, -1))),
        (LARGE, LARGE + 1),
    ],
    ids=["one number", "a first number", "a last number", "another encoder"],
)
def test_a_shard_rewritten_with_members_of_equal_names_and_sizes_is_another(tmp_path, before, after):
    path = write(tmp_path / "a.tar", before)
    old = open_index(path)
    size = os.path.getsize(path)
    write(tmp_path / "a.tar", after, when=2)
    assert os.path.getsize(path) == size
    with pytest.raises(BadShardError, match="changed after it was indexed"):
        Fetcher(old)(0, 0, {"npy"})
    new = open_index(path)
    assert new.fingerprint != old.fingerprint and new.cache_key != old.cache_key


def test_a_copy_or_a_touched_shard_is_the_same_data(tmp_path):
    (tmp_path / "copy").mkdir()
    path, copy = write(tmp_path / "a.tar", SMALL), write(tmp_path / "copy/a.tar", SMALL, when=5)
    index = open_index(path)
    assert open_index(copy).fingerprint == index.fingerprint
    assert open_index(copy).cache_key == index.cache_key
    os.utime(path, (9, 9))
    assert len(Fetcher(index)(0, 0, {"npy"}).members["npy"]) > 4000
    assert open_index(path).fingerprint == index.fingerprint


def test_what_a_sample_of_the_content_misses_still_changes_the_key_of_caches(tmp_path):
    path = write(tmp_path / "a.tar", LARGE)
    old = open_index(path)
    write(tmp_path / "a.tar", changed(LARGE, (1, 70_000)), when=2)
    new = open_index(path)
    assert new.fingerprint == old.fingerprint and new.cache_key != old.cache_key


def index_one(path, barrier):
    barrier.wait()
    open_index(path)


def test_jobs_that_index_shards_of_one_folder_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    for turn in range(5):
        folder = tmp_path / str(turn)
        folder.mkdir()
        paths = [write(folder / f"train-{n}.tar", SMALL[: 1 + n % 4]) for n in range(6)]
        barrier = context.Barrier(len(paths))
        jobs = [context.Process(target=index_one, args=(path, barrier)) for path in paths]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join(60)
        assert [job.exitcode for job in jobs] == [0] * len(paths)
        file = index_paths(paths[0])[0]
        entries = read_footer(file)
        assert sorted(entries) == [os.path.basename(path) for path in paths]
        assert [len(read_table(file, e).keys) for _, e in sorted(entries.items())] == [1, 2, 3, 4, 1, 2]


FEW_FILES = """
import resource, sys
from mmvicreg.shards.index import open_index
from mmvicreg.stream.fetcher import Fetcher
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
index = open_index(sys.argv[1])
few, many = Fetcher(index), Fetcher(index, keep=512)
for fetch in (few, many):
    keys = [fetch(*index.place(n), {"npy"}).key for n in range(len(index))]
print(len(index.shards), len(keys), len(set(keys)))
"""


def test_two_hundred_shards_are_read_with_64_file_descriptors(tmp_path):
    for number in range(200):
        write(tmp_path / f"a-{number:03d}.tar", SMALL[:1, :10])
    command = [sys.executable, "-c", FEW_FILES, str(tmp_path / "*.tar")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["200", "200", "1"], done.stderr


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a-{000..009}.tar", "s3://bucket/a-{000..009}.tar"),
        ("https://u:p@host/a.tar?sig=1&part=2#x", "https://host/a.tar?sig=***&part=***"),
        ("cannot read 'https://host/a.tar?abc' (x)", "cannot read 'https://host/a.tar?***' (x)"),
        ("https://h/a.tar?t=1::https://h/b.tar", "https://h/a.tar?t=***::https://h/b.tar"),
        ("/data/a?b=c.tar", "/data/a?b=c.tar"),
    ],
)
def test_redaction_keeps_what_is_no_secret(url, shown):
    assert redact(url) == shown
