"""What a hostile member may take: the peak of resident memory, measured by the kernel in a process of its own."""

import io
import re
import tarfile
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from command_processes import CONTEXT
from hostile_members import CORPUS, MODALITIES
from PIL import Image

from mmvicreg.shards.index import open_index
from mmvicreg.stream.evaluation_items import RejectedItem, evaluation_items
from mmvicreg.stream.reader import BadSampleError, Sample

STATUS = Path("/proc/self/status")
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel is not Linux")


def memory(name: str) -> int:
    """Bytes: VmRSS, resident now; VmHWM, the most since it was reset."""
    (kilobytes,) = re.findall(rf"{name}:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))
    return 1024 * int(kilobytes)


class Peak:
    """``with`` it: ``bytes`` is the most that was resident inside, above what was resident before."""

    def __enter__(self) -> "Peak":
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM begins again
        self.before = memory("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = memory("VmHWM") - self.before


def in_child(measure, *arguments):
    """What ``measure`` sends, from a process that has decoded nothing before."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=measure, args=(theirs, *arguments))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def read_corpus(answers: Connection) -> None:
    warnings.simplefilter("ignore")
    found = {}
    for kind, cases in CORPUS.items():
        reader = MODALITIES[kind].reader()
        suffix, build, _ = next(iter(cases.values()))
        reader.items(Sample("x", 0, {suffix: build()}))  # loads its libraries
        for name, (suffix, build, _) in cases.items():
            sample = Sample("x", 0, {suffix: build()})
            with Peak() as peak:
                try:
                    reader.items(sample)
                except BadSampleError:
                    pass
            found[f"{kind}: {name}"] = peak.bytes
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(buffer, "PNG")
    with Peak() as peak:
        Image.open(buffer).load()
    answers.send((found, peak.bytes))


@pytest.mark.slow
def test_no_hostile_member_takes_more_than_100_mb():
    found, known = in_child(read_corpus)
    assert {name: size for name, size in found.items() if size > 100_000_000} == {}
    assert 40_000_000 < known < 100_000_000  # the measurement sees 48 MB of pixels


def read_sparse(answers: Connection, path: str) -> None:
    index, readers = open_index(path), {"image": MODALITIES["image"].reader()}
    with Peak() as peak:
        found = list(evaluation_items(index, readers, threads=1))
    (reason,) = [item.reason for item in found if isinstance(item, RejectedItem)]
    answers.send((reason, peak.bytes))


@pytest.mark.slow
def test_a_sparse_picture_of_2_gb_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))
    info = tarfile.TarInfo("0.jpg")
    info.size = 2_000_000_000
    with open(tmp_path / "x.tar", "wb") as file:
        file.write(info.tobuf())
        file.truncate(-(-(512 + info.size) // 512) * 512 + 1024)
    reason, size = in_child(read_sparse, str(tmp_path / "x.tar"))
    assert reason.startswith("member too large: jpg has 2,000,000,000 bytes") and size < 100_000_000
