"""Class labels as people write them: each is read right, or refused in words."""

import io
import json
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

from mmvicreg.evaluation.transfer.dense.masks import check_classes
from mmvicreg.evaluation.transfer.label_files import (
    check_same_classes,
    open_labelled,
    pack_folder,
    read_lines,
)
from mmvicreg.evaluation.transfer.labels import LabelReader, labels_of
from mmvicreg.shards.index import open_index
from mmvicreg.stream.evaluation_items import EvaluationItem, evaluation_items
from mmvicreg.stream.fetcher import Fetcher
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


def folders(root, *names):
    """An image folder whose picture of class NAME is of one grey: the place of the name in ``names``."""
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 4, 3), place, np.uint8)).save(root / name / "a.png")
    return str(root)


def greys_by_label(found):
    """The grey of every picture in the order of class numbers, and the numbers."""
    fetch = Fetcher(found.index)
    order = np.argsort(found.single())
    places = [found.index.place(int(number)) for number in order]
    samples = [fetch(shard, place, ("png",)) for shard, place in places]
    greys = [int(np.asarray(Image.open(io.BytesIO(each.members["png"])))[0, 0, 0]) for each in samples]
    return greys, found.single()[order].tolist()


def test_folders_called_by_numbers_are_classes_by_their_sorted_names(tmp_path):
    data = folders(tmp_path / "flowers", "1", "10", "11", "2")  # Flowers-102 begins so
    found = open_labelled(data, cache=tmp_path / "cache")
    assert found.names == ["1", "10", "11", "2"] and greys_by_label(found) == ([0, 1, 2, 3], [0, 1, 2, 3])
    items = list(evaluation_items(found.index, {"label": found.reader}, threads=1))
    values = [int(item.value) for item in items if isinstance(item, EvaluationItem)]
    assert values == found.single().tolist()


def test_a_list_of_names_in_another_order_numbers_the_folders(tmp_path):
    data = folders(tmp_path / "set", "bird", "boat")
    names = ["boat", "cat", "bird"]
    found = open_labelled(data, cache=tmp_path / "cache", names=names)
    assert found.names == names and greys_by_label(found) == ([1, 0], [0, 2])
    synsets = open_labelled(data, cache=tmp_path / "cache", names=["a bird", "a boat"])
    assert synsets.names == ["a bird", "a boat"] and greys_by_label(synsets) == ([0, 1], [0, 1])
    for wrong in (["boat", "cat"], ["a bird", "a boat", "a cat"]):
        with pytest.raises(ValueError, match="of 2 class folders are not among the [23] class names"):
            open_labelled(data, cache=tmp_path / "cache", names=wrong)


def test_a_folder_beside_shards_of_bare_numbers_needs_the_names_of_both(tmp_path):
    with TarWriter(str(tmp_path / "data-000000.tar")) as writer:
        for number in range(2):
            writer.write({"__key__": str(number), "cls": str(number).encode()})
    data, shards = folders(tmp_path / "set", "bird", "boat"), str(tmp_path / "data-000000.tar")
    for names, refused in (([], True), (["boat", "bird"], False)):
        both = [open_labelled(each, cache=tmp_path / "cache", names=names) for each in (data, shards)]
        with pytest.raises(ValueError, match="give --names FILE") if refused else nullcontext():
            check_same_classes(*both)


def test_a_name_of_two_classes_is_no_label(tmp_path):
    assert read(b"1", names=("crane", "crane")) == [1]
    with pytest.raises(
        BadSampleError, match="'crane' is the name of several classes; expected a class number"
    ):
        read(b"crane", names=("crane", "crane"))


def test_only_line_breaks_end_a_name(tmp_path):
    (tmp_path / "names.txt").write_text("a\fb\u2028c\x85d\r\nboat\rbird\n")
    assert read_lines(tmp_path / "names.txt") == ["a\fb\u2028c\x85d", "boat", "bird"]


def test_masks_of_0_and_255_are_refused_for_one_class_would_be_left():
    masks = np.zeros((2, 4, 4), np.uint8)
    masks[:, :2] = 255
    with pytest.raises(ValueError, match="one class is left.*Write class numbers then, 0 and 1"):
        check_classes(masks)
    masks[0, 3] = 1
    check_classes(masks)
