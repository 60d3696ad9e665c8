"""Class labels as people write them: each is read right, or refused in words."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

from mmvicreg.evaluation.transfer.dense.masks import check_classes
from mmvicreg.evaluation.transfer.label_files import pack_folder, read_lines
from mmvicreg.evaluation.transfer.labels import LabelReader, labels_of
from mmvicreg.shards.index import open_index
from mmvicreg.stream.reader import BadSampleError, Sample


def read(data, **fields):
    reader = LabelReader(**fields)
    return [int(item.value) for item in reader.items(Sample("k", 0, {reader.members[0]: data}))]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"7", [7]),
        (b"00", [0]),
        (b"007\n", [7]),
        (b"\xef\xbb\xbf3", [3]),
        (b"tower", [1]),
        (b'"tower"', [1]),
        (b"[0, 2]", [0, 2]),
        (b'["flower", "tower"]', [0, 1]),
        (b"[]", []),
        (b"", []),
    ],
)
def test_numbers_and_names_are_read_with_and_without_zeros_quotes_and_marks(data, expected):
    assert read(data, names=("flower", "tower")) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"-1", "-1 is not between 0 and 999,999"),
        (b"123456789", "123456789 is not between"),
        (b"0.7", "'0.7' is not among class names: none were given"),
        (b"[0.7]", "0.7 is no class number"),
        (b"[true]", "True is no class number"),
        (b"[1e999]", "is no class number|not between"),
        (b"cat", "'cat' is not among class names: none were given"),
        (b"9" * 5000, "is not among class names"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_anything_else_is_a_rejected_sample_with_a_reason(data, message):
    with pytest.raises(BadSampleError, match=message):
        read(data)


def test_json_fields_may_be_missing_and_any_text_may_be_a_label():
    assert read(b'{"class": 3}', label="json:class") == [3]
    assert read(b'{"other": 3}', label="json:class") == read(b'{"class": null}', label="json:class") == []
    reader = LabelReader("json:class", any_name=True)
    (item,) = reader.items(Sample("k", 0, {"json": b'{"class": "smileys"}'}))
    assert (int(item.value), item.identity) == (-1, "smileys")


def test_labels_that_cannot_be_used_are_counted_in_a_notice(tmp_path, capsys):
    with TarWriter(str(tmp_path / "x-000000.tar")) as writer:
        for n, label in enumerate([b"00", b"01", b"-1", b"x"]):
            writer.write({"__key__": str(n), "cls": label})
    assert labels_of(open_index(str(tmp_path / "x-000000.tar"))) == [[0], [1], [], []]
    notice = " ".join(capsys.readouterr().err.split())
    assert "2 of 4 samples are left out" in notice and "sample 2: label: class number -1" in notice


@pytest.mark.parametrize(
    "content",
    [
        ["bird", "boat"],
        {"boat": 1, "bird": 0},
        {"0": "bird", "1": "boat"},
        {"0": ["n01", "bird"], "1": ["n02", "boat"]},
        {"model_type": "vit", "id2label": {"1": "boat", "0": "bird"}},
    ],
)
def test_every_usual_form_of_class_names_in_json_gives_the_names_in_order(tmp_path, content):
    (tmp_path / "names.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert read_lines(tmp_path / "names.json") == ["bird", "boat"]


def test_names_with_gaps_or_without_numbers_are_refused(tmp_path):
    for content, message in (
        ({"0": "bird", "2": "boat"}, "expected names for the classes 0 to 1"),
        ({"a": "b"}, "neither the keys nor the values"),
        (3, "expected a JSON list of class names"),
    ):
        (tmp_path / "names.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            read_lines(tmp_path / "names.json")
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfbird\r\nboat\n")
    assert read_lines(tmp_path / "names.txt") == ["bird", "boat"]


def test_folders_that_tools_leave_behind_are_no_classes(tmp_path, capsys):
    picture = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(picture, "PNG")
    for name in ("bird", "boat", ".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for file in ("a.png", "._a.png"):
            (tmp_path / "set" / name / file).write_bytes(picture.getvalue())
    assert pack_folder(tmp_path / "set", tmp_path / "set-000000.tar") == ["bird", "boat"]
    assert len(open_index(str(tmp_path / "set-000000.tar"))) == 2
    assert ".ipynb_checkpoints, __MACOSX" in capsys.readouterr().err
    (tmp_path / "set/empty").mkdir()
    with pytest.raises(ValueError, match="none in empty"):
        pack_folder(tmp_path / "set", tmp_path / "set-000000.tar")


def test_masks_of_0_and_255_are_refused_for_one_class_would_be_left():
    masks = np.zeros((2, 4, 4), np.uint8)
    masks[:, :2] = 255
    with pytest.raises(ValueError, match="one class is left.*Write class numbers then, 0 and 1"):
        check_classes(masks)
    masks[0, 3] = 1
    check_classes(masks)
