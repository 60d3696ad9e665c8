"""Packing what people have: every row is a sample or a reported line, and nothing is lost in silence."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from photographs import crop, encoded

from mmvicreg.cli.main import main
from mmvicreg.errors import WrongOptionError
from mmvicreg.modalities.decoding.formats import IMAGES
from mmvicreg.modalities.image import ImageModality
from mmvicreg.preparation.divide import Fractions
from mmvicreg.preparation.pack import PackConfig, pack
from mmvicreg.preparation.records import Columns, split_lines
from mmvicreg.preparation.tables import Row, read_table
from mmvicreg.shards.index import open_index
from mmvicreg.stream.fetcher import Fetcher


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.jpg").write_bytes(encoded(i))
    return folder


def run(folder, path="", **options):
    target = folder.parent / "out"
    return pack(PackConfig(str(folder / path), str(target), processes=1, **options))


def samples(folder, pattern="out/*.tar"):
    index = open_index(f"{folder.parent}/{pattern}")
    fetch = Fetcher(index)
    return [fetch(*index.place(n), index.suffixes) for n in range(len(index))]


def about(sample):
    return json.loads(sample.members["json"])


def rows_of(report):
    return {each.row: each.reason for each in report.left_out}


def test_an_unclosed_quote_costs_its_own_row_and_no_other(source):
    lines = ["image,caption", "0.jpg,zero", '1.jpg,"one', "2.jpg,two", '3.jpg,"a, b"', "4.jpg,four"]
    (source / "t.csv").write_text("\n".join(lines) + "\n")
    report = run(source, "t.csv")
    assert list(rows_of(report)) == [2] and "line 3: a quote is opened" in report.left_out[0].reason
    assert [about(s)["row"] for s in samples(source)] == [1, 3, 4, 5]
    assert [s.members["txt"].decode() for s in samples(source)] == ["zero", "two", "a, b", "four"]


def test_quotes_in_a_tsv_are_text(source):
    (source / "t.tsv").write_text('image\tcaption\n0.jpg\t"5 inch\n1.jpg\tone\n2.jpg\t"a ""b"""\n')
    assert run(source, "t.tsv").left_out == ()
    assert [s.members["txt"].decode() for s in samples(source)] == ['"5 inch', "one", 'a "b"']


@pytest.mark.parametrize("letter", ["\u2028", "\x85", "\f", "\x1c"])
def test_a_letter_that_only_python_takes_for_a_line_break_stays_in_its_caption(source, letter):
    text = f"a bird{letter} on a tree"
    for quoted in (text, f'"{text}"'):
        (source / "t.csv").write_text(f"image,caption\n0.jpg,{quoted}\n", encoding="utf-8", newline="")
        (row,) = read_table(source / "t.csv", encoding="utf-8")
        assert isinstance(row, Row) and row.values == {"image": "0.jpg", "caption": text}
    assert split_lines([text]) == [text]
    assert split_lines(["one\r\ntwo\rthree\n\nfour"]) == ["one", "two", "three", "four"]


def test_a_caption_over_two_lines_of_a_csv_is_two_captions(source):
    (source / "t.csv").write_text('image,caption\n0.jpg,"first\nsecond"\n1.jpg,one\n')
    assert run(source, "t.csv").left_out == ()
    assert about(samples(source)[0])["captions"] == ["first", "second"]


def test_surplus_and_missing_fields_are_reported_by_row(source):
    (source / "t.csv").write_text("image,caption\n0.jpg,a, b\n1.jpg,one\n2.jpg\n3.jpg,three,,\n")
    found = rows_of(run(source, "t.csv"))
    assert "3 fields, the header has 2" in found[1] and "1 fields" in found[3] and len(found) == 2


def test_a_row_a_caption_is_grouped_by_picture(source):
    rows = [f"{i}.jpg,caption {k} of {i}" for k in range(5) for i in range(3)]
    (source / "captions.csv").write_text("\n".join(["image,caption", *rows]))
    report = run(source, "captions.csv")
    found = samples(source)
    assert len(found) == 3 and about(found[1])["captions"] == [f"caption {k} of 1" for k in range(5)]
    assert about(found[1])["rows"] == [2, 5, 8, 11, 14]
    assert "15 rows name 3 pictures" in report.notices[0]


@pytest.mark.parametrize("suffix", [*IMAGES, "JPG", ""])
def test_every_format_that_is_packed_is_read(source, suffix):
    buffer = io.BytesIO()
    name = {"jpg": "JPEG", "tif": "TIFF", "": "PNG"}.get(suffix.lower(), suffix)
    crop(1).save(buffer, name)
    (source.parent / "one").mkdir()
    (source.parent / "one" / f"photo.{suffix}".rstrip(".")).write_bytes(buffer.getvalue())
    run(source.parent / "one")
    reader = ImageModality(encoder="timm/test_resnet", size=32).reader()
    assert len(samples(source)) == 1 and reader.items(samples(source)[0])[0].value.shape == (3, 32, 32)


def test_files_of_the_system_are_no_samples_and_other_formats_are_reported(source):
    (source / "._0.jpg").write_bytes(b"mac")
    (source / "__MACOSX").mkdir()
    (source / "__MACOSX" / "1.jpg").write_bytes(encoded(1))
    (source / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (source / "alone.txt").write_text("no picture")
    report = run(source)
    assert len(samples(source)) == 6
    assert {each.file: each.reason.split(" (")[0] for each in report.left_out} == {
        "a.heic": "a.heic is not a picture in a format that is read",
        "alone.txt": "no picture beside it has its name",
    }


def test_pictures_that_share_a_stem_are_two_samples(source):
    (source / "two.jpg").write_bytes(encoded(1))
    (source / "two.JPG").write_bytes(encoded(2))
    (source / "two.txt").write_text("both")
    run(source)
    found = [s for s in samples(source) if "two" in s.key]
    assert {about(s)["file"]: s.members["jpg"] for s in found} == {
        "two.JPG": encoded(2),
        "two.jpg": encoded(1),
    }
    assert [s.members["txt"] for s in found] == [b"both", b"both"]


def test_names_that_become_one_key_stay_apart(source):
    (source / "a").mkdir()
    (source / "a" / "b.jpg").write_bytes(encoded(1))
    (source / "a_b.jpg").write_bytes(encoded(2))
    run(source)
    found = {s.key: about(s)["file"] for s in samples(source) if "a_b" in s.key}
    assert found == {"train_a_b": "a_b.jpg", "train_a_b_2": "a/b.jpg"}


def test_linked_folders_are_followed_inside_and_refused_outside(source):
    (source / "sub").mkdir()
    (source / "sub" / "x.jpg").write_bytes(encoded(7))
    (source / "link").symlink_to(source / "sub")
    (source / "loop").symlink_to(source)
    outside = source.parent / "elsewhere"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(encoded(9))
    (source / "away").symlink_to(outside)
    (source / "one.jpg").symlink_to(outside / "secret.jpg")
    report = run(source)
    assert {about(s)["file"] for s in samples(source)} == {
        *(f"{i}.jpg" for i in range(6)),
        "sub/x.jpg",
        "link/x.jpg",
    }
    assert {each.file for each in report.left_out} == {"away", "one.jpg", "loop"}
    pack(PackConfig(str(source), str(source.parent / "all"), outside=True, processes=1))
    assert "away/secret.jpg" in {about(s)["file"] for s in samples(source, "all/*.tar")}


def test_a_table_reads_no_picture_outside_its_folder(source):
    (source.parent / "secret.jpg").write_bytes(encoded(9))
    (source / "t.csv").write_text(f"image,caption\n../secret.jpg,a\n{source.parent}/secret.jpg,b\n0.jpg,c\n")
    report = run(source, "t.csv")
    assert len(samples(source)) == 1 and all("lies outside" in reason for reason in rows_of(report).values())


def test_a_missing_picture_is_named_and_the_retry_packs_it(source):
    (source / "t.csv").write_text("image,caption\n0.jpg,zero\nlate.jpg,late\n1.jpg,one\n")
    report = run(source, "t.csv", samples=2)
    assert rows_of(report) == {2: f"no such picture: {source}/late.jpg"}
    assert json.loads((source.parent / "out/train-skipped.jsonl").read_text())["row"] == 2
    (source / "late.jpg").write_bytes(encoded(3))
    report = run(source, "t.csv", samples=2, resume=True)
    assert report.left_out == () and [s.members["txt"] for s in samples(source)] == [b"zero", b"late", b"one"]
    assert not (source.parent / "out/train-skipped.jsonl").exists()


def test_where_nothing_can_be_packed_nothing_is_left_behind(source):
    for i in range(6):
        (source / f"{i}.jpg").write_bytes(b"<html>404</html>")
    for _ in range(2):
        with pytest.raises(ValueError, match="no sample of .* could be packed; the first: not a picture"):
            run(source)
    assert not list((source.parent / "out").glob("*.tar"))


def test_resume_with_other_options_is_refused(source):
    run(source, samples=2)
    with pytest.raises(ValueError, match="other options would mix two packings: resize was 0, now 16"):
        run(source, samples=2, resize=16, resume=True)


def test_the_list_of_what_was_left_out_survives_a_resume(source):
    (source / "3.jpg").write_bytes(b"<html>")
    first = run(source, samples=2)
    (source.parent / "out/train-skipped.jsonl").unlink()
    os.unlink(first.shards[0])
    again = run(source, samples=2, resume=True)
    assert (
        again.left_out == first.left_out
        and "3.jpg" in (source.parent / "out/train-skipped.jsonl").read_text()
    )


def test_latin_1_a_byte_order_mark_utf_16_and_semicolons(source):
    text = "image;caption\n0.jpg;grün\n"
    (source / "latin.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"is not utf-8 .*byte 0xfc.*--encoding latin-1"):
        run(source, "latin.csv")
    for name, encoding, option in (
        ("a", "latin-1", "latin-1"),
        ("b", "utf-8-sig", "utf-8"),
        ("c", "utf-16", "utf-8"),
    ):
        (source / f"{name}.csv").write_bytes(text.encode(encoding))
        out = source.parent / name
        pack(PackConfig(str(source / f"{name}.csv"), str(out), encoding=option, processes=1))
        assert samples(source, f"{name}/*.tar")[0].members["txt"].decode() == "grün"


def test_instances_files_and_lists_of_objects(source):
    boxes = {
        "images": [{"id": 1, "file_name": "0.jpg"}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}],
    }
    (source / "instances.json").write_text(json.dumps(boxes))
    with pytest.raises(
        ValueError, match=r"no caption \(an instances file of COCO or LVIS\); give the captions"
    ):
        run(source, "instances.json")
    (source / "lines.json").write_text('{"image": "0.jpg"}\n{"image": "1.jpg"}\n')
    with pytest.raises(ValueError, match=r"a file with an object a line is called \.jsonl"):
        run(source, "lines.json")
    (source / "list.json").write_text(json.dumps([{"image": "0.jpg", "caption": "zero"}, 7]))
    assert rows_of(run(source, "list.json")) == {2: "int, expected an object"}


def test_parts_share_no_group_and_no_key_and_follow_the_seed(source):
    rows = [f"{i % 6}.jpg,{k},patient {i % 6 // 2}" for i in range(6) for k in range(2)]
    (source / "t.csv").write_text("\n".join(["image,caption,patient", *rows]))
    divide = Fractions(validation=0.3, test=0.3)
    run(source, "t.csv", divide=divide, columns=Columns(group="patient"))
    parts = {name: samples(source, f"out/{name}-*.tar") for name in ("train", "validation", "test")}
    assert [len(found) for found in parts.values()] == [2, 2, 2]
    patients = [{about(s)["patient"] for s in found} for found in parts.values()]
    assert len(set.union(*patients)) == 3 and all(len(each) == 1 for each in patients)
    assert len({s.key for found in parts.values() for s in found}) == 6
    with pytest.raises(WrongOptionError, match="expected fractions of 0 or more with a sum below 1"):
        Fractions(validation=0.6, test=0.4)


def test_captions_a_line_a_mask_and_a_class_beside_a_picture(source):
    (source / "0.txt").write_text("one\ntwo\n\nthree\n")
    (source / "0.mask.png").write_bytes(encoded(0, format="PNG"))
    (source / "0.cls").write_text("7")
    (source / "0.json").write_text('{"licence": "CC0"}')
    run(source)
    first = samples(source)[0]
    assert about(first) == {"file": "0.jpg", "captions": ["one", "two", "three"], "licence": "CC0"}
    assert first.members["txt"] == b"one" and first.members["cls"] == b"7" and first.members["mask.png"]


def test_a_label_column_gives_class_numbers(source):
    (source / "t.csv").write_text("image,caption,kind\n0.jpg,a,07\n1.jpg,b,2\n")
    run(source, "t.csv", columns=Columns(label="kind"))
    assert [s.members["cls"] for s in samples(source)] == [b"7", b"2"]
    (source / "n.csv").write_text("image,caption,kind\n0.jpg,a,dog\n1.jpg,b,cat\n")
    pack(
        PackConfig(
            str(source / "n.csv"), str(source.parent / "n"), columns=Columns(label="kind"), processes=1
        )
    )
    assert [s.members["cls"] for s in samples(source, "n/*.tar")] == [b"1", b"0"]
    assert (source.parent / "n/train-classes.txt").read_text() == "cat\ndog\n"


def test_paths_with_brackets_equals_signs_and_a_tilde(source, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(source.parent))
    assert main(["pack", "~/in", "~/dir[1]=x", "--processes", "1"]) == 0
    assert main(["check", "~/dir[1]=x/train-*.tar", "--processes", "1"]) == 0
    assert "6 samples" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_packing_goes_on_to_the_same_shards_and_its_workers_end(source):
    for i in range(300):
        (source / f"x{i:03d}.jpg").write_bytes(encoded(i))
    (source / "x007.jpg").write_bytes(b"<html>")
    options = ["--samples", "3", "--resize", "20"]
    command = [
        sys.executable,
        "-m",
        "mmvicreg.cli.main",
        "pack",
        str(source),
        str(source.parent / "killed"),
        *options,
    ]
    killed = subprocess.Popen(
        [*command, "--processes", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list((source.parent / "killed").glob("*.tar")):
        assert killed.poll() is None
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(killed.pid)], capture_output=True, text=True).stdout.split()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{child}") for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children and not any(os.path.exists(f"/proc/{child}") for child in children)
    fields: dict[str, Any] = {"samples": 3, "resize": 20, "processes": 1}
    again = pack(PackConfig(str(source), str(source.parent / "killed"), resume=True, **fields))
    whole = pack(PackConfig(str(source), str(source.parent / "whole"), **fields))
    assert again.left_out == whole.left_out and len(again.left_out) == 1
    assert [s.members for s in samples(source, "killed/*.tar")] == [
        s.members for s in samples(source, "whole/*.tar")
    ]
    assert not list((source.parent / "killed").glob("*.part"))


@pytest.mark.slow
def test_an_interrupted_packing_says_what_to_type_and_that_continues_it(source):
    for i in range(2500):
        (source / f"x {i:04d}.jpg").write_bytes(encoded(i))
    out = source.parent / "out"
    options = ["pack", str(source), str(out), "--samples", "3", "--resize", "20", "--processes", "1"]
    packing = subprocess.Popen(
        [sys.executable, "-m", "mmvicreg.cli.main", *options],
        stderr=subprocess.PIPE,
        text=True,
        # Started by a shell in the background, pytest ignores the signal, and so would the packing.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(out.glob("*.tar")):
        assert packing.poll() is None
        time.sleep(0.005)
    packing.send_signal(signal.SIGINT)
    errors = packing.communicate(timeout=60)[1]
    assert packing.returncode == 130 and "Traceback" not in errors
    hint = shlex.split(errors.splitlines()[-1])
    assert hint == ["mmvicreg", *options, "--resume"]
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert len(first) < 502 and main(hint[1:]) == 0
    assert len(samples(source)) == 2506
    assert all((out / name).stat().st_mtime_ns == written for name, written in first.items())


def test_help_says_what_may_lie_beside_an_image_and_how_data_is_divided(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["pack", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("x.txt (captions, one a line)", "x.mask.png (a mask)", "x.cls (a class number)",
                  "--divide.validation", "--divide.seed", "digits are class numbers", "--columns.group",
                  "row or rows"):  # fmt: skip
        assert words in shown, words
