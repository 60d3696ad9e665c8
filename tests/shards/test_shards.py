"""The shard index: every damaged tar is refused with what is wrong; sound ones open fast, anywhere, unchanged."""

import gc
import gzip
import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from photographs import encoded, write_shards
from webdataset import TarWriter, WebDataset

from mmvicreg.shards.index import expand, index_paths, open_index
from mmvicreg.shards.tar import BadShardError
from mmvicreg.stream.fetcher import Fetcher


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # webdataset leaves its files open
def test_every_member_equals_what_webdataset_reads(tmp_path):
    paths = write_shards(tmp_path, [5, 3])
    index = open_index(str(tmp_path / "train-{000000..000001}.tar"))
    assert index.counts.tolist() == [5, 3] and len(index) == 8
    assert index.suffixes == {"jpg": 8, "txt": 8}
    fetch = Fetcher(index)
    numbers = iter(range(8))
    for theirs in WebDataset(paths, shardshuffle=False, empty_check=False):
        ours = fetch(*index.place(next(numbers)), {"jpg", "txt"})
        assert (ours.key, ours.members["jpg"], ours.members["txt"]) == (
            theirs["__key__"],
            theirs["jpg"],
            theirs["txt"],
        )
    assert next(numbers, None) is None
    gc.collect()


def test_only_the_asked_members_are_read(tmp_path):
    write_shards(tmp_path, [2])
    sample = Fetcher(open_index(str(tmp_path / "*.tar")))(0, 1, {"txt", "flac"})
    assert dict(sample.members) == {"txt": b"photograph 1"} and sample.number == 1


def test_indices_stay_good_when_shards_are_added_beside_theirs(tmp_path):
    paths = write_shards(tmp_path, [5, 3, 4])
    first = open_index(paths[2:])
    every = open_index(paths)  # its first lines are old, the rest are new: the sidecar was written again
    for index, keys in ((first, range(8, 12)), (every, range(12))):
        fetch = Fetcher(index)
        found = [fetch(*index.place(number), {"txt"}) for number in range(len(index))]
        assert [sample.key for sample in found] == [f"{key:06d}" for key in keys]
        assert [sample.members["txt"].decode() for sample in found] == [f"photograph {key}" for key in keys]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["", "a/", "deep/" * 40, "long" * 30 + "/", "prüfung-日本/"])
def test_long_and_foreign_names_in_every_tar_format(tmp_path, format, folder):
    names = [f"{folder}{i}.{suffix}" for i in range(3) for suffix in ("JPG", "effect.ogg")]
    path = tmp_path / "x.tar"
    try:
        with tarfile.open(path, "w", format=format) as tar:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(name)
                tar.addfile(info, io.BytesIO(name.encode()[: info.size]))
    except ValueError:
        pytest.skip("ustar cannot hold this name")
    fetch = Fetcher(open_index(str(path)))
    for row in range(3):
        sample = fetch(0, row, {"jpg", "effect.ogg"})
        assert sample.key == f"{folder}{row}" and set(sample.members) == {"jpg", "effect.ogg"}


def test_second_opening_reads_the_sidecar_and_a_changed_shard_is_read_again(tmp_path):
    paths = write_shards(tmp_path, [4, 4])
    first = open_index(paths)
    side = index_paths(paths[0])[0]
    written = os.stat(side).st_mtime_ns
    assert open_index(paths).fingerprint == first.fingerprint
    assert open_index(paths[:1]).counts.tolist() == [4]
    assert os.stat(side).st_mtime_ns == written
    write_shards(tmp_path, [4, 6])
    second = open_index(paths)
    assert second.counts.tolist() == [4, 6] and second.fingerprint != first.fingerprint


def test_fingerprint_does_not_depend_on_the_folder(tmp_path):
    paths = write_shards(tmp_path, [3])
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert open_index(paths).fingerprint == open_index(str(tmp_path / "copy" / "*.tar")).fingerprint


def test_read_only_folder_puts_the_sidecar_in_the_cache(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    paths = write_shards(data, [3])
    data.chmod(0o555)
    try:
        index = open_index(paths)
        assert index.shards[0].index_file == index_paths(paths[0])[1]
        assert sorted(os.listdir(data)) == ["train-000000.tar"]
        assert len(open_index(paths)) == 3
    finally:
        data.chmod(0o755)


def test_damaged_sidecar_is_noticed(tmp_path):
    paths = write_shards(tmp_path, [3])
    index = open_index(paths)
    with open(index.shards[0].index_file, "r+b") as file:
        file.seek(index.shards[0].entry.at + 20)
        file.write(b"\xff")
    with pytest.raises(ValueError, match="damaged; delete the file"):
        Fetcher(index)(0, 0, {"txt"})


def test_shard_that_changed_after_indexing_is_refused(tmp_path):
    paths = write_shards(tmp_path, [3])
    index = open_index(paths)
    with open(paths[0], "ab") as file:
        file.write(bytes(512))
    with pytest.raises(BadShardError, match="changed after it was indexed"):
        Fetcher(index)(0, 0, {"txt"})


def test_shard_that_was_written_again_with_the_same_size_is_refused_and_a_touched_one_is_not(tmp_path):
    paths = write_shards(tmp_path, [3])
    index = open_index(paths)
    os.utime(paths[0], (1, 1))
    assert Fetcher(index)(0, 0, {"txt"}).members == {"txt": b"photograph 0"}
    data = Path(paths[0]).read_bytes()
    with tarfile.open(paths[0], "w") as tar:
        for key in ("x", "y"):
            info = tarfile.TarInfo(f"{key}.txt")
            tar.addfile(info, io.BytesIO(b""))
    with open(paths[0], "r+b") as file:
        file.truncate(len(data))
    with pytest.raises(BadShardError, match="changed after it was indexed"):
        Fetcher(index)(0, 0, {"txt"})


def test_patterns(tmp_path):
    paths = write_shards(tmp_path, [1, 1, 1])
    assert expand(f"{tmp_path}/train-*.tar") == paths
    assert expand(f"{tmp_path}/train-{{000000..000001}}.tar::{paths[2]}") == paths
    with pytest.raises(FileNotFoundError, match=r"has 3 \.tar files, the first is 'train-000000\.tar'"):
        expand(f"{tmp_path}/val-*.tar")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        expand(f"{tmp_path}/nowhere/*.tar")
    with pytest.raises(FileNotFoundError, match=r"train-000003\.tar"):
        open_index(f"{tmp_path}/train-{{000000..000003}}.tar")
    with pytest.raises(ValueError, match=r"is a folder; name the shards in it: .*/\*\.tar"):
        expand(str(tmp_path))
    with pytest.raises(ValueError, match="listed twice"):
        expand([paths[0], paths[0]])
    (tmp_path / "train-latest.tar").symlink_to(paths[0])
    with pytest.raises(ValueError, match="listed twice"):
        expand(f"{tmp_path}/train-*.tar")
    for shell in ("pipe:cat x.tar", "cat x.tar |", "| cat x.tar"):
        with pytest.raises(ValueError, match="shell command, which is refused"):
            expand(shell)


def headers_of(path):
    with tarfile.open(path) as tar:
        return [m.offset for m in tar.getmembers()]


def sort_by_suffix(path):
    with tarfile.open(path) as tar:
        rows = [(member, file.read()) for member in tar if (file := tar.extractfile(member))]
    with tarfile.open(path, "w") as tar:
        for member, data in sorted(rows, key=lambda row: row[0].name.split(".")[1]):
            tar.addfile(member, io.BytesIO(data))


def patched(path, at, data):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


DAMAGE = {
    "cut inside data": (lambda p: os.truncate(p, headers_of(p)[4] + 600), "truncated"),
    "cut inside a header": (lambda p: os.truncate(p, headers_of(p)[4] + 100), "truncated"),
    "cut between members": (lambda p: os.truncate(p, headers_of(p)[5]), "truncated"),
    "cut between samples": (lambda p: os.truncate(p, headers_of(p)[4]), "truncated"),
    "bit flipped in a header": (lambda p: patched(p, headers_of(p)[4] + 3, b"\xfe"), "damaged header"),
    "size field overwritten": (lambda p: patched(p, headers_of(p)[4] + 124, b"zzzzzz"), "damaged header"),
    "header zeroed": (lambda p: patched(p, headers_of(p)[4], bytes(512)), "data after the end"),
    "two tars concatenated": (lambda p: Path(p).write_bytes(2 * Path(p).read_bytes()), "data after the end"),
    "zero bytes": (lambda p: os.truncate(p, 0), "empty file"),
    "HTML": (lambda p: Path(p).write_bytes(b"<html>404</html>" * 100), "not a tar"),
    "zeros only": (lambda p: Path(p).write_bytes(bytes(20480)), "empty file"),
    "compressed": (
        lambda p: Path(p).write_bytes(gzip.compress(Path(p).read_bytes())),
        "not a tar.*compressed: unpack it",
    ),
    "short HTML": (lambda p: Path(p).write_bytes(b"<html>404</html>"), "not a tar"),
    "sorted by suffix": (sort_by_suffix, "keys not adjacent"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_tar_is_refused_with_its_kind(tmp_path, name):
    damage, kind = DAMAGE[name]
    paths = write_shards(tmp_path, [6])
    damage(paths[0])
    with pytest.raises(BadShardError, match=kind) as raised:
        open_index(paths)
    assert paths[0] in str(raised.value) and "mmvicreg check" in str(raised.value)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(FileNotFoundError, match="not a regular file"):
        open_index(str(tmp_path / "x.tar"))


def test_more_suffixes_than_an_index_holds_are_refused_by_name(tmp_path):
    members = [tarfile.TarInfo(f"image.{number}.jpg").tobuf() for number in range(65_537)]
    (tmp_path / "x.tar").write_bytes(b"".join(members) + bytes(1024))
    with pytest.raises(BadShardError, match=r"65537 different suffixes; dots in keys"):
        open_index(str(tmp_path / "x.tar"))


def test_duplicate_and_returning_keys_are_refused(tmp_path):
    for name, keys in {"duplicate member": ["a", "a", "b"], "keys not adjacent": ["a", "b", "a"]}.items():
        path = str(tmp_path / f"{name[:4]}.tar")
        with TarWriter(path) as writer:
            for key in keys:
                writer.write({"__key__": key, "jpg": encoded(1)})
        with pytest.raises(BadShardError, match=name):
            open_index(path)


def test_tar_without_samples_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    with pytest.raises(BadShardError, match="hold no samples"):
        open_index(str(tmp_path / "x.tar"))
