"""The recipes of several branches and views run at toy size, as a user runs them."""

import json
import os
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from photographs import encoded
from recordings import tone
from scores import numbers
from small_shards import small_shard
from webdataset import TarWriter

import mmvicreg as mm
from mmvicreg.evaluation.summary import read_summary
from mmvicreg.runs.config import import_recipe
from mmvicreg.training.preflight import resolve

ROOT = Path(__file__).parents[2]
TOY = ("--batch-size", "32", "--epochs", "1", "--log-every", "1", "--optimizer.warmup-epochs", "0", "--cpu",
       "--image.size", "32", "--threads", "1")  # fmt: skip
SMALL_IMAGE = ("--image.encoder", "timm/test_resnet", "--image.weights", "")


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first 64 samples of the demo's shards."""
    return small_shard(tmp_path_factory.mktemp("small") / "small-000.tar")


def start(recipe: str, *options: str, cwd: Path) -> mm.Summary:
    """The summary of a recipe's toy run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["python", str(ROOT / "recipes" / recipe), *TOY, *options, "--out", "run"]
    done = forked.run(command, cwd=cwd, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    log = [json.loads(line) for line in (cwd / "run/log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(value) for line in log if "terms" in line for value in line["terms"].values())
    return read_summary(cwd / "run/summary.json")


def spoken_shard(folder: Path) -> str:
    """Photographs, French captions, a tone as speech, and an effect in every fourth sample."""
    path = str(folder / "spoken-000.tar")
    with TarWriter(path) as writer:
        for number in range(40):
            texts = {"captions": {"fr": f"un chat {number}", "en": f"a cat {number}"}}
            members = {"json": json.dumps(texts).encode(), "ogg": tone(200 + 20 * number)}
            if number % 4 == 0:
                members["effect.ogg"] = tone(1000 + number)
            writer.write({"__key__": f"{number:03d}", "webp": encoded(number, format="WEBP"), **members})
    return path


@pytest.mark.slow
def test_speech_scores_every_direction_and_the_effect_where_it_is(tmp_path: Path) -> None:
    shard = spoken_shard(tmp_path)
    options = ("--batch-size", "16", "--speech.precomputed-views", "1", "--speech.seconds", "1",
               "--effect.encoder", "mel",
               "--effect.weights", "", "--effect.no-frozen", "--effect.precomputed-views", "0", "--effect.seconds", "1",
               "--image.no-frozen", "--image.precomputed-views", "0")  # fmt: skip
    found = start("speech.py", "--train", shard, "--held-out", shard, *SMALL_IMAGE, *options, cwd=tmp_path)
    for direction in (
        "speech_to_image",
        "speech_to_text",
        "image_to_text",
        "image_to_speech",
        "text_to_speech",
    ):
        scores = numbers(found, "held_out", direction)
        assert scores["num_queries"] == 40
        assert 0 <= scores["recall_at_1"] <= 1
    assert found.scores["held_out.effect_to_image.num_queries"] == 10


@pytest.mark.slow
def test_multilingual_aligns_languages_in_a_star(shard: str, tmp_path: Path) -> None:
    found = start("multilingual.py", *SMALL_IMAGE, "--image.no-frozen", "--image.precomputed-views", "0",
                  "--pairs", "star", "--train", shard, "--concepts", shard, "--style", shard, cwd=tmp_path)  # fmt: skip
    assert found.split("held_out_concepts", "image_to_french")
    assert found.split("held_out_concepts", "french_to_german")
    terms = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[0])["terms"]
    assert "image-french/invariance" in terms and not any("german-french" in name for name in terms)


@pytest.mark.slow
def test_image_ssl_trains_two_views_of_one_branch(shard: str, tmp_path: Path) -> None:
    found = start("image_ssl.py", "--train", shard, "--held-out", shard, cwd=tmp_path)
    assert found.scores["held_out.image_to_image.recall_at_1"] == 1.0  # it finds itself
    assert {name.partition(".")[0] for name in found.scores} == {"untrained", "held_out"}


@pytest.mark.slow
def test_small_crops_of_another_size_go_through_the_same_branch(shard: str, tmp_path: Path) -> None:
    found = start("image_ssl.py", "--train", shard, "--held-out", shard, "--small-crops", "2",
                  "--small.size", "24", cwd=tmp_path)  # fmt: skip
    assert {name.partition(".")[0] for name in found.scores} == {"untrained", "held_out"}
    terms = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[0])["terms"]
    pairs = {name.removesuffix("/invariance") for name in terms if name.endswith("invariance")}
    large, small = ("crop", "other_crop"), ("small_0", "small_1")
    assert pairs == {"crop-other_crop", *(f"{a}-{b}" for a in large for b in small)}
    assert all(f"{view}/variance" in terms for view in (*large, *small))
    recipe = ROOT / "recipes/image_ssl.py"
    run = mm.load(tmp_path / "run", recipe=recipe)
    assert list(run.modalities) == ["image"]  # one branch; "small" only reads
    readers = resolve(import_recipe(recipe).Config(small_crops=1)).readers
    assert [reader.shape for reader in readers.values()] == [(3, 64, 64), (3, 64, 64), (3, 32, 32)]


def test_readers_that_do_not_fit_the_views_are_named(shard: str, tmp_path: Path) -> None:
    recipe = import_recipe(ROOT / "recipes/image_ssl.py")

    class Wrong(recipe.Config):  # type: ignore[name-defined]
        reads: dict[str, str] = {"crop": "image"}  # noqa: RUF012

        def readers(self) -> dict[str, str]:
            return self.reads

    config = Wrong(train=shard, out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"readers\(\) names the views \['crop'\]; views\(\) has"):
        mm.train(config, recipe.objective)
    Wrong.reads = {"crop": "image", "other_crop": "tiny"}
    with pytest.raises(ValueError, match=r"readers\(\) names \['tiny'\]; the modalities are"):
        mm.train(config, recipe.objective)


@pytest.mark.parametrize("loss", ["vicreg", "visreg", "sigreg", "barlow", "simsiam"])
def test_every_loss_of_image_ssl_spreads_a_collapsed_branch(loss: str) -> None:
    recipe = import_recipe(ROOT / "recipes/image_ssl.py")
    goal = recipe.objective(recipe.Config(loss=loss))
    z = {view: (0.1 * torch.randn(64, recipe.WIDTH)).requires_grad_() for view in ("crop", "other_crop")}
    present = {view: torch.ones(64, dtype=torch.bool) for view in z}
    terms = goal(z, present, branches={view: "image" for view in z}, seed=0)
    terms.total.backward()
    assert all(value.isfinite() for value in terms.parts.values())
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in z.values())


@pytest.mark.slow
def test_slip_like_adds_the_second_view(shard: str, tmp_path: Path) -> None:
    found = start("slip_like.py", "--train", shard, "--style", shard, cwd=tmp_path)
    assert "recall_at_1" in found.split("held_out", "image_to_text")
    terms = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[0])["terms"]
    assert {"image-crop/invariance", "image-text/invariance", "crop/variance"} <= set(terms)
    assert "crop-text/invariance" not in terms
