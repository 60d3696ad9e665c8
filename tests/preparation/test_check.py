"""Check: every fault is found under its name, nothing sound is; exit status, quarantine, resumption."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from photographs import crop, encoded, write_shards
from PIL import Image
from webdataset import TarWriter

from mmvicreg.cli.check import check as check_command
from mmvicreg.cli.main import main as command_line
from mmvicreg.preparation import check_members
from mmvicreg.preparation.check import CheckConfig, check, exclusions
from mmvicreg.shards import index_file
from mmvicreg.shards.index import open_index
from mmvicreg.stream.fetcher import Fetcher


def main(config):
    """Show what the command gives, as the command line does; its exit status."""
    output = check_command(config)
    output.show(as_json=False)
    return output.status


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))


def holed(number):
    data = bytearray(encoded(number, width=320, height=256))
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    return bytes(data)


def bomb():
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


def ppm():
    buffer = io.BytesIO()
    crop(1).save(buffer, "PPM")
    return buffer.getvalue()


SAMPLES = {
    "sound": ({"jpg": encoded(1), "txt": b"fine", "json": b"{}"}, None),
    "latin": ({"jpg": encoded(1), "txt": "prüfung".encode("latin-1")}, "caption not UTF-8"),
    "blank": ({"jpg": encoded(1), "txt": b" \n"}, "caption empty"),
    "nul": ({"jpg": encoded(1), "txt": bytes(5)}, "caption empty"),
    "huge": ({"jpg": encoded(1), "txt": b"x" * 200_000}, "caption huge"),
    "nojson": ({"jpg": encoded(1), "txt": b"x", "json": b"{'a': 1"}, "json not readable"),
    "deepjson": ({"jpg": encoded(1), "txt": b"x", "json": b"[" * 200_000}, "json not readable"),
    "html": ({"jpg": b"<html>403</html>", "txt": b"x"}, "not a picture"),
    "zero": ({"jpg": b"", "txt": b"x"}, "not a picture"),
    "ppm": ({"jpg": ppm(), "txt": b"x"}, "not a picture"),
    "bomb": ({"png": bomb(), "txt": b"x"}, "too many pixels"),
    "tiny": ({"jpg": encoded(1, width=4), "txt": b"x"}, "tiny picture"),
    "hole": ({"jpg": holed(2), "txt": b"x"}, "damaged picture"),
    "half": ({"jpg": encoded(3, width=320)[:1000], "txt": b"x"}, "damaged picture"),
    "alone": ({"jpg": encoded(1)}, "missing member"),
    "swapped": ({"jpg": encoded(1, format="PNG"), "txt": b"x"}, "another format"),
}


def every_fault(folder):
    path = str(folder / "faults-0.tar")
    with TarWriter(path) as writer:
        for key, (members, _) in SAMPLES.items():
            writer.write({"__key__": key, **members})
    return path


def test_every_sample_fault_is_found_by_name_and_nothing_else(tmp_path):
    path = every_fault(tmp_path)
    report = check(CheckConfig(path, depth="decode", require=("jpg,png", "txt"), processes=1))
    found = {
        p.where: p.kind for p in report.shards[0].findings if p.where != "html" or p.kind == "not a picture"
    }
    expected = {key: kind for key, (_, kind) in SAMPLES.items() if kind}
    assert {k: v for k, v in found.items() if k not in ("zero", "ppm")} == {
        k: v for k, v in expected.items() if k not in ("zero", "ppm")
    }
    assert {"zero", "ppm"} <= set(report.shards[0].bad)
    assert "sound" not in report.shards[0].bad and "swapped" not in report.shards[0].bad


def test_quarantine_leaves_out_what_is_unusable(tmp_path, capsys):
    bad = every_fault(tmp_path)
    good = write_shards(tmp_path, [3, 3], prefix="good")
    os.truncate(good[1], 2000)
    out = str(tmp_path / "leave-out.json")
    pattern = f"{tmp_path}/*.tar"
    assert (
        main(CheckConfig(pattern, depth="decode", require=("jpg,png", "txt"), quarantine=out, processes=1))
        == 1
    )
    assert "UNUSABLE: truncated, 1 times" in capsys.readouterr().out
    index = open_index(pattern, exclude=out)
    assert index.counts.tolist() == [2, 3]  # sound and swapped; the first good shard
    fetch = Fetcher(index)
    assert [fetch(0, row, {"jpg"}).key for row in range(2)] == ["sound", "swapped"]
    assert [fetch(*index.place(n), ()).number for n in range(5)] == list(range(5))
    assert index.fingerprint != open_index([bad, good[0]]).fingerprint


def test_what_cannot_be_done_is_said_before_anything_is_read(tmp_path, capsys):
    write_shards(tmp_path, [2])
    for options, said in {
        ("pipe:cat x.tar", "", ""): "shell command, which is refused",
        (str(tmp_path), "", ""): "is a folder",
        (f"{tmp_path}/nothing-*.tar", "", ""): "no shard matches",
        (f"{tmp_path}/*.tar", f"{tmp_path}/none/report.json", ""): "its folder does not exist",
        (f"{tmp_path}/*.tar", "", f"{tmp_path}/none/out.json"): "its folder does not exist",
    }.items():
        shards, report, quarantine = options
        files = ["--report", report, "--quarantine", quarantine, "--processes", "1"]
        assert command_line(["check", shards, *files]) == 1
        captured = capsys.readouterr()
        assert said in captured.err and not captured.out
    assert not (tmp_path / "train.index").exists()


def test_clean_shards_exit_with_zero_and_leave_their_index(tmp_path, capsys):
    write_shards(tmp_path, [4, 5])
    report = tmp_path / "report.json"
    assert main(CheckConfig(f"{tmp_path}/*.tar", report=str(report), processes=1)) == 0
    assert "clean" in capsys.readouterr().out and (tmp_path / "train.index").exists()
    assert [s["count"] for s in json.loads(report.read_text())["shards"]] == [4, 5]


def test_only_changed_shards_are_looked_at_again(tmp_path, monkeypatch):
    paths = write_shards(tmp_path, [4, 5, 2])
    config = CheckConfig(f"{tmp_path}/*.tar", processes=1)
    check(config)
    Path(paths[1]).write_bytes(b"<html>")
    seen = recorded(monkeypatch, check_members, "scan_file")
    report = check(config)
    assert seen == [paths[1]] and [s.count for s in report.shards] == [4, 0, 2]
    assert exclusions(report) == {"shards": ["train-000001.tar"], "samples": {}}


def recorded(monkeypatch, module, name):
    """Make a function of ``module`` note the first argument of its calls; the list of them."""
    original, first = getattr(module, name), []

    def noting(*given):
        first.append(given[0])
        return original(*given)

    monkeypatch.setattr(module, name, noting)
    return first


def test_interrupted_check_goes_on(tmp_path, monkeypatch):
    paths = write_shards(tmp_path, [1, 1, 1, 1])
    original = check_members.scan_file
    seen: list[str] = []

    def interrupted(path):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(path)
        return original(path)

    monkeypatch.setattr(check_members, "scan_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check(CheckConfig(f"{tmp_path}/*.tar", processes=1))
    monkeypatch.setattr(check_members, "scan_file", original)
    rest = recorded(monkeypatch, check_members, "scan_file")
    assert [s.count for s in check(CheckConfig(f"{tmp_path}/*.tar", processes=1)).shards] == [1, 1, 1, 1]
    assert seen + rest == paths


@pytest.mark.parametrize("shards", [4, 16])
def test_index_files_are_written_once_and_read_as_often_whatever_the_number_of_shards(
    tmp_path, monkeypatch, shards
):
    write_shards(tmp_path, [1] * shards)
    written = recorded(monkeypatch, index_file, "write_with")
    read = recorded(monkeypatch, index_file, "read_footer")
    config = CheckConfig(f"{tmp_path}/*.tar", processes=1)
    assert check(config).unusable == 0
    assert len(written) == 1 and len(read) == 1  # no report of an earlier check: only keys are compared
    written.clear()
    read.clear()
    assert check(config).unusable == 0
    assert not written and len(read) == 2
    assert not list((tmp_path / "cache").rglob("*.table"))


@pytest.mark.slow
def test_processes_find_the_same(tmp_path):
    every_fault(tmp_path)
    write_shards(tmp_path, [3, 3])
    config = CheckConfig(f"{tmp_path}/*.tar", processes=1, again=True)
    assert check(config) == check(CheckConfig(f"{tmp_path}/*.tar", processes=2, again=True))


def test_notes_do_not_change_the_exit_status(tmp_path, capsys):
    write_shards(tmp_path, [2], prefix="a")
    write_shards(tmp_path, [2], prefix="b")
    with TarWriter(str(tmp_path / "c.tar")) as writer:
        writer.write({"__key__": "img", "v2.jpg": encoded(1)})
    with tarfile.open(tmp_path / "d.tar", "w") as tar:
        for name in ("README", "x.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("y.txt")
        link.type, link.linkname = tarfile.LNKTYPE, "x.txt"
        tar.addfile(link)
    tarfile.open(tmp_path / "e.tar", "w").close()
    assert main(CheckConfig(f"{tmp_path}/*.tar", processes=1)) == 0
    out = capsys.readouterr().out
    assert "note: key in two shards, 2 times" in out
    assert "note: link, 1 times" in out and "note: no samples, 1 times" in out
    assert main(CheckConfig(f"{tmp_path}/e.tar", processes=1)) == 1  # not one sample in all
    assert "note: dots in keys, 1 times" in out and "note: no suffix, 1 times" in out
