"""``mmvicreg evaluate --benchmark`` as a user runs it, and on files that are not what they should be."""

import json

import pytest
from photographs import encoded
from scores import numbers
from small_runs import make_run
from towers_small import image_and_captions

from mmvicreg.cli.main import main
from mmvicreg.errors import UserError
from mmvicreg.evaluation.benchmarks.benchmark import BENCHMARKS, read_benchmark
from mmvicreg.evaluation.summary import read_summary
from mmvicreg.interop.export import save_pretrained

WORDS = ["a", "red", "bird", "blue", "boat"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An export, four pictures, and benchmarks of them."""
    folder = tmp_path_factory.mktemp("place")
    for n in range(4):
        (folder / f"{n}.jpg").write_bytes(encoded(n, format="JPEG"))
    images = [karpathy(f"{n}.jpg", f"a {WORDS[n + 1]}") for n in range(4)]
    (folder / "karpathy.json").write_text(json.dumps({"images": images}))
    cases = {"0": {"filename": "0.jpg", "caption": "a bird", "negative_caption": "a boat"}}
    (folder / "swap_obj.json").write_text(json.dumps(cases))
    save_pretrained(make_run(folder, image_and_captions(folder, WORDS)), folder / "export")
    return folder


def karpathy(name, caption, split="test"):
    return {"filename": name, "split": split, "sentences": [{"raw": caption, "sentid": 1}]}


def evaluate(place, benchmark, *options):
    return main(["evaluate", f"{place}/export", "--benchmark", benchmark, "--media", str(place), "--device", "cpu",
                 *options])  # fmt: skip


def test_the_command_writes_scores_settings_and_a_table(place, capsys):
    out = str(place / "out.json")
    options = ("--hubness", "csls", "--widths", "2", "--out", out)
    assert evaluate(place, f"karpathy:{place}/karpathy.json", *options) == 0
    found = read_summary(out)
    assert found.settings["scoring"] == "cosine" and found.settings["hubness"] == "csls"
    assert found.scores["karpathy.image_to_text.num_items"] == 4
    assert 0 <= numbers(found, "karpathy")["text_to_image_width_2.ndcg_at_10"] <= 1
    assert "image to text width 2" in capsys.readouterr().out
    assert evaluate(place, f"sugarcrepe:{place}/swap_obj.json") == 0
    scores = read_summary(place / "export/evaluation-sugarcrepe.json").scores
    assert (
        scores["sugarcrepe_swap_obj.accuracy"] in (0, 1)
        and scores["sugarcrepe_swap_obj.accuracy_chance"] == 0.5
    )
    assert "hard negatives" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("benchmark", "options", "status", "message"),
    [
        ("karpathy", (), 2, "expected NAME:FILE with a name of karpathy, eccv"),
        ("coco:x.json", (), 2, "expected NAME:FILE"),
        ("karpathy:none.json", (), 1, "none.json: no such file"),
        ("karpathy:{}/karpathy.json", ("--media", "nowhere"), 1, "--media nowhere: no such folder"),
        ("karpathy:{}/karpathy.json", ("--folds", "5"), 2, "leave out --folds"),
        ("karpathy:{}/karpathy.json", ("--languages", "de"), 1, "has no languages"),
        ("karpathy:{}/karpathy.json", ("--widths", "7"), 1, "--widths 7: the compared rows have 6 columns"),
        ("karpathy:{}/karpathy.json", ("--scoring", "prediction"), 1, "predicts nothing"),
        ("karpathy:{}/karpathy.json", ("--scoring", "correlation"), 2, "--correlation-data"),
        ("sugarcrepe:{}/swap_obj.json", ("--hubness", "csls"), 1, "leave out --hubness"),
    ],
)
def test_wrong_options_are_answered_with_what_to_do(place, capsys, benchmark, options, status, message):
    assert evaluate(place, benchmark.format(place), *options) == status
    assert message in " ".join(capsys.readouterr().err.split())


def images(*entries):
    return json.dumps({"images": list(entries)})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("karpathy", "{", "expected JSON"),
        ("karpathy", "[" * 100_000, "expected JSON"),
        ("karpathy", "[]", "expected an object with 'images', found list"),
        ("karpathy", '{"annotations": []}', "expected 'images' of type list, found the keys annotations"),
        ("karpathy", images(), "no image of split 'test' in it"),
        ("karpathy", images(karpathy("1.jpg", "x", split="val")), "no image of split 'test' in it"),
        (
            "karpathy",
            images({"split": "test"}),
            "image 0: expected 'filename' of type str, found the keys split",
        ),
        ("karpathy", images(karpathy("1.jpg", "")), "image 0: 'raw' is empty"),
        (
            "karpathy",
            images(karpathy("gone.jpg", "x"), karpathy("1.jpg", "x")),
            "gone.jpg: no such file; 1 of 2",
        ),
        ("karpathy", images(karpathy("../1.jpg", "x")), "'../1.jpg', which is not inside --media"),
        ("karpathy", images(karpathy("/etc/passwd", "x")), "'/etc/passwd', which is not inside --media"),
        ("karpathy", images(karpathy("1.jpg", "x") | {"filepath": "a/../.."}), "which is not inside --media"),
        ("karpathy", images(karpathy("a\0.jpg", "x")), "which is not inside --media"),
        ("eccv", images(karpathy("1.jpg", "x")), "no caption of COCO's test set"),
        ("crossmodal", "", "no picture in it"),
        ("crossmodal", '{"image/key": "1"}', "no caption in it"),
        ("crossmodal", '{"image/key": "../1", "de": {"caption": ["x"]}}', "which is not inside --media"),
        (
            "crossmodal",
            '\n{"image/key": "1", "de": {"text": 1}}',
            "line 2, language 'de': expected 'caption'",
        ),
        ("crossmodal", '{"image/key": 1}', "line 1: expected 'image/key' of type str, found 1"),
        ("audiocaps", "a,b\n1,2\n", "expected the columns youtube_id, start_time, caption; found a, b"),
        ("audiocaps", "youtube_id,start_time,caption\n", "no recording in it"),
        ("audiocaps", "youtube_id,start_time,caption\nx,3\n", "line 2: expected 'caption' of type str"),
        ("audiocaps", 'youtube_id,start_time,caption\nx,3,"y\n', "comma-separated values"),
        ("audiocaps", "youtube_id,start_time,caption\nx,3,y\n", "x.wav: no such file (nor Yx.wav, x_3.wav"),
        ("clotho", "file_name,caption_1\n", "expected the columns file_name, caption_1, caption_2"),
        ("sugarcrepe", "{}", "no case in it"),
        ("sugarcrepe", '{"0": {"filename": "1.jpg", "caption": "x"}}', "case 0: expected 'negative_caption'"),
        ("winoground", '{"image_0": "1.jpg", "caption_0": "x"}', "line 1: expected 'image_1'"),
        ("winoground", "\udce9", "expected UTF-8 text"),
    ],
)
def test_files_that_are_wrong_are_named_with_what_was_expected(place, tmp_path, name, text, message):
    file = tmp_path / "file"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError) as raised:
        read_benchmark(f"{name}:{file}", str(place))
    assert message in str(raised.value)


def test_xtd_names_the_folder_and_the_file_that_are_wrong(place, tmp_path):
    for change, message in (
        (lambda: None, "test_image_names.txt: no such file"),
        (
            lambda: (tmp_path / "test_image_names.txt").write_text("0.jpg\n1.jpg\n"),
            "no file test_1kcaptions_",
        ),
        (
            lambda: (tmp_path / "test_1kcaptions_de.txt").write_text("ein Vogel\n"),
            "1 captions for the 2 pictures",
        ),
    ):
        change()
        with pytest.raises(UserError, match=message):
            read_benchmark(f"xtd:{tmp_path}", str(place))
    with pytest.raises(UserError, match="no such folder"):
        read_benchmark(f"xtd:{tmp_path}/none", str(place))


def test_a_picture_that_cannot_be_read_is_named(place, tmp_path, capsys):
    (place / "broken.jpg").write_bytes(b"not a picture")
    file = tmp_path / "karpathy.json"
    file.write_text(images(karpathy("broken.jpg", "x")))
    assert evaluate(place, f"karpathy:{file}") == 1
    assert "broken.jpg" in capsys.readouterr().err


def test_every_benchmark_is_in_the_help_and_on_the_page():
    from pathlib import Path

    from mmvicreg.cli import evaluate as command

    page = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()
    for name in BENCHMARKS:
        assert name in Path(command.__file__).read_text(encoding="utf-8") and f"`{name}`" in page
