"""Published benchmarks read from small files in their own layout, with real pictures, and scored by their protocol."""

import csv
import io
import json
import tarfile
import wave
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import make_run
from towers_small import image_and_captions

import mmvicreg as mm
from mmvicreg.evaluation.benchmarks.benchmark import read_benchmark, score_benchmark
from mmvicreg.evaluation.benchmarks.paired import PairedMedia
from mmvicreg.evaluation.ranks import rank_queries
from mmvicreg.evaluation.scoring.comparison import Comparison, Scoring

SHARD = Path(__file__).parents[2] / "data/demo/concepts-000000.tar"
PICTURES = 12
LANGUAGES = ("de", "en", "ja")


@pytest.fixture(scope="module")
def demo():
    """Pictures of the demo data as JPEG, and the captions of each by language."""
    found = []
    with tarfile.open(SHARD) as tar:

        def read(name):
            member = tar.extractfile(name)
            assert member is not None
            return member.read()

        for member in tar:
            if member.name.endswith(".json"):
                captions = json.loads(read(member.name))["captions"]
                stem = member.name.removesuffix(".json")
                picture = Image.open(io.BytesIO(read(f"{stem}.webp"))).convert("RGB")
                data = io.BytesIO()
                picture.save(data, "JPEG")
                found.append((data.getvalue(), captions))
            if len(found) == PICTURES:
                return found


@pytest.fixture(scope="module")
def run(tmp_path_factory, demo):
    """Random towers of pictures, captions and recordings."""
    folder = tmp_path_factory.mktemp("run")
    words = sorted({word for _, captions in demo for each in captions.values() for word in each.split()})
    modalities = image_and_captions(folder, [*words, "a", "small", "large"])
    sound = mm.AudioModality(rate=8000, seconds=0.2, bins=32, width=4, projector=(6,))
    return make_run(folder, modalities | {"audio": sound})


def score(run, name, file, media, scoring=None, **options):
    _, parts = read_benchmark(f"{name}:{file}", str(media), **options)
    return score_benchmark(name, parts, Comparison(scoring or Scoring(), run, torch.device("cpu")))


def expected_recall(run, files, captions, media_of, k, view="image"):
    """Recall both ways from the whole matrix of cosines."""
    cosine = (run.encode(view, files) @ run.encode("text", captions).T).double().numpy()
    match = np.zeros_like(cosine, dtype=bool)
    match[media_of, np.arange(len(captions))] = True
    return [
        np.mean([m[np.argsort(-c, kind="stable")[:k]].any() for c, m in zip(scores, matches, strict=True)])
        for scores, matches in ((cosine, match), (cosine.T, match.T))
    ]


def save(folder, demo, names):
    """The pictures under these names."""
    for name, (data, _) in zip(names, demo, strict=False):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return [folder / name for name in names]


def karpathy_file(folder, demo, captions=6, first=0, **changes):
    """dataset_coco.json: one training picture, the rest test pictures with six captions each."""
    images = []
    for n, (_, texts) in enumerate(demo):
        raws = [
            f"{word} {texts['en']}" for word in ("a", "small", "large", "a small", "a large", "small large")
        ]
        sentences = [
            {"raw": raw, "tokens": raw.split(), "imgid": n, "sentid": first + 10 * n + i}
            for i, raw in enumerate(raws[:captions])
        ]
        images.append(
            {"filepath": "val2014", "filename": f"{n}.jpg", "split": "test", "cocoid": 100 + n, "imgid": n,
             "sentids": [s["sentid"] for s in sentences], "sentences": sentences} | changes
        )  # fmt: skip
    images[0]["split"] = "train"
    path = folder / "dataset_coco.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def test_karpathy_takes_five_captions_of_the_test_pictures(run, demo, tmp_path):
    path = karpathy_file(tmp_path, demo)
    files = save(tmp_path, demo, [f"val2014/{n}.jpg" for n in range(PICTURES)])[1:]
    found = score(run, "karpathy", path, tmp_path)
    assert found.sizes == {"karpathy": {"media": PICTURES - 1, "captions": 5 * (PICTURES - 1)}}
    captions = [s["raw"] for i in json.loads(path.read_text())["images"][1:] for s in i["sentences"][:5]]
    expected = expected_recall(run, files, captions, np.repeat(np.arange(PICTURES - 1), 5), 5)
    scores = found.retrieval["karpathy"]
    assert scores["image_to_text"].recall[5] == pytest.approx(expected[0])
    assert scores["text_to_image"].recall[5] == pytest.approx(expected[1])
    for file in files:  # Flickr30k has no folders
        file.rename(tmp_path / file.name)
    assert score(run, "karpathy", path, tmp_path).to_json() == found.to_json()


def test_crossmodal_and_xtd_are_scored_by_language(run, demo, tmp_path):
    names = [f"{n:016x}" for n in range(PICTURES)]
    files = save(tmp_path, demo, [f"{name}.jpg" for name in names])
    lines: list[dict[str, Any]] = [
        {"image/key": name, "image/locale": "de"}
        | {
            lang: {"caption": [texts[lang], f"a {texts[lang]}"], "caption/tokenized": []}
            for lang in LANGUAGES
        }
        for name, (_, texts) in zip(names, demo, strict=True)
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = score(run, "crossmodal", tmp_path / "captions.jsonl", tmp_path)
    assert list(found.retrieval) == [f"crossmodal_{lang}" for lang in LANGUAGES]
    captions = [text for line in lines for text in line["de"]["caption"]]
    expected = expected_recall(run, files, captions, np.repeat(np.arange(PICTURES), 2), 1)
    assert found.retrieval["crossmodal_de"]["image_to_text"].recall[1] == pytest.approx(expected[0])
    one = score(run, "crossmodal", tmp_path / "captions.jsonl", tmp_path, languages=["ja"])
    assert one.retrieval == {"crossmodal_ja": found.retrieval["crossmodal_ja"]}
    (tmp_path / "XTD10").mkdir()
    (tmp_path / "test_image_names.txt").write_text("".join(f"{file.name}\n" for file in files))
    for lang in ("de", "ja"):
        text = "".join(f"{texts[lang]}\n" for _, texts in demo)
        (tmp_path / f"XTD10/test_1kcaptions_{lang}.txt").write_text(text)
    xtd = score(run, "xtd", tmp_path, tmp_path)
    expected = expected_recall(run, files, [t["ja"] for _, t in demo], np.arange(PICTURES), 1)
    assert xtd.retrieval["xtd_ja"]["text_to_image"].recall[1] == pytest.approx(expected[1])
    assert list(xtd.retrieval) == ["xtd_de", "xtd_ja"]


def tone(path, hertz):
    """A fifth of a second of a sine."""
    values = (8000 * np.sin(np.arange(1600) * 2 * np.pi * hertz / 8000)).astype("<i2")
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(values.tobytes())
    return path


def write_csv(path, columns, rows):
    with open(path, "w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([columns, *rows])
    return path


def test_audiocaps_and_clotho_rank_recordings(run, demo, tmp_path):
    words = [texts["en"] for _, texts in demo][:4]
    files = [tone(tmp_path / f"Yid{n}.wav", 200 + 150 * n) for n in range(4)]
    columns = ("audiocap_id", "youtube_id", "start_time", "caption")
    rows = [(10 * n + c, f"id{n}", 30, f"{'a ' * c}{words[n]}, {c}") for c in range(2) for n in range(4)]
    found = score(run, "audiocaps", write_csv(tmp_path / "test.csv", columns, rows), tmp_path)
    expected = expected_recall(run, files, [row[3] for row in rows], [0, 1, 2, 3] * 2, 1, view="audio")
    scores = found.retrieval["audiocaps"]
    assert scores["audio_to_text"].recall[1] == pytest.approx(expected[0])
    assert scores["text_to_audio"].recall[1] == pytest.approx(expected[1])
    header = ["file_name", *(f"caption_{n}" for n in range(1, 6))]
    lines = [[f"Yid{n}.wav", *(f"{'a ' * c}{words[n]}" for c in range(5))] for n in range(4)]
    found = score(run, "clotho", write_csv(tmp_path / "clotho.csv", header, lines), tmp_path)
    assert found.sizes == {"clotho": {"media": 4, "captions": 20}}
    captions = [text for line in lines for text in line[1:]]
    expected = expected_recall(run, files, captions, np.repeat(np.arange(4), 5), 1, view="audio")
    assert found.retrieval["clotho"]["text_to_audio"].recall[1] == pytest.approx(expected[1])


def test_sugarcrepe_and_winoground_count_as_their_papers_do(run, demo, tmp_path):
    files = save(tmp_path, demo, [f"ex_{n // 2}_img_{n % 2}.png" for n in range(PICTURES)])
    texts = [captions["en"] for _, captions in demo]
    cosine = (run.encode("text", texts) @ run.encode("image", files).T).numpy()
    cases = {
        str(n): {"filename": files[n].name, "caption": a, "negative_caption": b}
        for n, (a, b) in enumerate(pairwise(texts))
    }
    (tmp_path / "swap_att.json").write_text(json.dumps(cases))
    (tmp_path / "add_obj.json").write_text(json.dumps({"0": cases["0"]}))
    (tmp_path / "swap").mkdir()
    (tmp_path / "swap_att.json").rename(tmp_path / "swap/swap_att.json")
    (tmp_path / "add_obj.json").rename(tmp_path / "swap/add_obj.json")
    found = score(run, "sugarcrepe", tmp_path / "swap", tmp_path)
    right = [cosine[n, n] > cosine[n + 1, n] for n in range(PICTURES - 1)]
    assert found.accuracies["sugarcrepe_swap_att"]["accuracy"] == pytest.approx(np.mean(right))
    assert found.sizes["sugarcrepe_add_obj"]["cases"] == 1
    lines = [
        {"id": n, "image_0": f"ex_{n}_img_0", "image_1": f"ex_{n}_img_1"}
        | {"caption_0": texts[2 * n], "caption_1": texts[2 * n + 1], "tag": "Object"}
        for n in range(PICTURES // 2)
    ]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = score(run, "winoground", tmp_path / "examples.jsonl", tmp_path).accuracies["winoground"]
    text, image = [], []
    for n in range(PICTURES // 2):
        s = cosine[2 * n : 2 * n + 2, 2 * n : 2 * n + 2]
        text.append(s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1])
        image.append(s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0])
    assert scores["text_score"] == pytest.approx(np.mean(text))
    assert scores["image_score"] == pytest.approx(np.mean(image))
    assert scores["group_score"] == pytest.approx(np.mean(np.array(text) & np.array(image)))
    same = [line | {"caption_1": line["caption_0"]} for line in lines]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in same))
    tied = score(run, "winoground", tmp_path / "examples.jsonl", tmp_path).accuracies["winoground"]
    assert tied["text_score"] == tied["group_score"] == 0  # a tie is wrong


@pytest.mark.filterwarnings("ignore:failed to import `ujson`")
def test_eccv_scores_are_those_of_its_authors_code(tmp_path):
    from eccv_caption import Metrics

    metrics = Metrics()  # its authors' code, and the judgements it carries
    images = metrics.coco_gts["i2t"]
    entries = [
        {"filename": f"{n}.jpg", "split": "test", "cocoid": n}
        | {"sentences": [{"raw": "x", "sentid": c} for c in captions]}
        for n, captions in images.items()
    ]
    (tmp_path / "coco.json").write_text(json.dumps({"images": entries}))
    for n in images:
        (tmp_path / f"{n}.jpg").touch()
    name, parts = read_benchmark(f"eccv:{tmp_path / 'coco.json'}", str(tmp_path))
    part = parts[""]
    assert isinstance(part, PairedMedia)
    sentences = [c for captions in images.values() for c in captions]
    generator = torch.Generator().manual_seed(0)
    z_i = torch.randn(5000, 4, generator=generator)
    z_t = z_i.repeat_interleave(5, dim=0) + 0.1 * torch.randn(25000, 4, generator=generator)
    unit = [torch.nn.functional.normalize(z, dim=1) for z in (z_i, z_t)]
    retrieved, ours = {}, {}
    for ends, (a, b), (queries, items), positives in (
        ("i2t", unit, (list(images), sentences), part.to_captions),
        ("t2i", unit[::-1], (sentences, list(images)), part.to_media),
    ):
        judged = np.flatnonzero(positives.counts)
        assert len(judged) == len(metrics.eccv_gts[ends])
        judged = judged[::8]
        best = (a[judged] @ b.T).topk(200).indices.tolist()
        retrieved[ends] = {queries[q]: [items[m] for m in row] for q, row in zip(judged, best, strict=True)}
        ours[ends] = rank_queries(a[judged], b, positives.select(judged, np.arange(len(b))))
        metrics.eccv_gts[ends] = {q: metrics.eccv_gts[ends][q] for q in retrieved[ends]}
    theirs = metrics.eccv_metrics(retrieved, "all")
    for ends, ranks in ours.items():
        for key, values in (
            ("eccv_r1", ranks.recall(1)),
            ("eccv_map_at_r", ranks.average_precision),
            ("eccv_rprecision", ranks.found(ranks.matches)),
        ):
            assert values.mean() == pytest.approx(theirs[key][ends], abs=2e-4), key
    assert name == "eccv"
