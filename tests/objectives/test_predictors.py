"""A run trained to predict is scored by its predictors, which come back with it and without its recipe."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import toy
from safetensors.torch import load_file, save_file
from toy import Numbers
from webdataset import TarWriter

import mmvicreg as mm
from mmvicreg.branches.model import projector
from mmvicreg.evaluation.evaluate import score_splits
from mmvicreg.evaluation.scoring.comparison import Scoring
from mmvicreg.exploration.searcher import Searcher
from mmvicreg.interop.open_clip import to_open_clip
from mmvicreg.runs.run import read_log

WIDTHS = (16, 16)


def objective(config):
    """Prediction with a stop-gradient, and variance and covariance against collapse."""
    kept = mm.VICReg(variance=1.0, covariance=0.1)
    return mm.Objective(
        mm.SumAlignment(mm.Prediction(widths=WIDTHS, hidden=(32,), weight=5.0)), {"a": kept, "b": kept}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trained for some hundred steps."""
    folder = tmp_path_factory.mktemp("predicting")
    train = toy.write_shards(folder / "data", shards=2, samples=256, missing=0)
    config = toy.Config(
        train=train,
        out=str(folder / "run"),
        epochs=30,
        batch_size=64,
        log_every=50,
        checkpoint_every=1000,
        optimizer=mm.OptimizerConfig(learning_rate=3e-3, warmup_epochs=1),
        guard=mm.GuardConfig(diagnose_every=0, compare_every=0),
    )
    return mm.train(config, objective), train


@pytest.mark.slow
def test_predictors_are_scored_beside_the_raw_cosine_and_find_far_more(run):
    trained, train = run
    scores = score_splits(trained, {"toy": train}, device="cpu")["toy"]
    for ends in ("a_to_b", "b_to_a"):
        raw, predicted = scores.retrieval[ends], scores.retrieval[f"{ends}_by_predictor"]
        assert predicted.recall[1] > 20 * predicted.chance[1]
        assert predicted.recall[10] > 2 * raw.recall[10]
    assert set(scores.to_json()) >= {"a_to_b", "a_to_b_by_predictor", "b_to_a_by_predictor", "independence"}
    both = score_splits(trained, {"toy": train}, device="cpu", scoring=Scoring("prediction"))["toy"].retrieval
    assert set(both) == {"a_to_b", "b_to_a"} and both["a_to_b"].recall[1] > 20 * both["a_to_b"].chance[1]


@pytest.mark.slow
def test_they_come_back_with_the_run_and_only_if_they_fit(run, tmp_path):
    trained, _ = run
    folder = shutil.copytree(trained.folder, tmp_path / "run")
    back = mm.load(folder, recipe=toy.__file__)
    x = torch.randn(9, 16)
    with torch.inference_mode():
        for ends in (("a", "b"), ("b", "a")):
            expected = trained.predictors[ends].eval()(x)
            torch.testing.assert_close(back.predictors[ends](x), expected, rtol=0, atol=0)
    file = folder / "predictors.json"
    saved = json.loads(file.read_text())
    for change, message in (
        ({"widths": [16, 31, 16]}, "do not fit its widths"),
        ({"widths": [16, -1, 16]}, "two widths or more"),
        ({"widths": [16, 10**9, 16]}, "two widths or more"),
        ({"widths": [16, 2**20, 2**20, 16]}, "there are .* bytes of weights"),
        ({"tensors": "objective.elsewhere"}, "do not fit its widths"),
    ):
        file.write_text(json.dumps([saved[0] | change]))
        with pytest.raises(ValueError, match=message):
            mm.load(folder, recipe=toy.__file__)


def test_views_of_one_branch_predict_nothing_across_modalities(tmp_path):
    """As SimSiam does: there is no second modality to retrieve from."""
    from mmvicreg.objectives.predictors import predictors_of

    model = mm.Model({"a": Numbers().branch()}, {"one": "a", "two": "a"})
    assert predictors_of(mm.Objective(mm.Prediction(widths=WIDTHS), {}), model.views) == {}


@pytest.fixture
def predicting(small_run):
    """A picture and a text branch with a predictor between them."""
    torch.manual_seed(4)
    small_run.predictors["image", "text"] = projector(6, (5, 6)).eval()
    return small_run


def test_exports_carry_them_and_refuse_what_does_not_fit(predicting, tmp_path):
    folder = predicting.save_pretrained(tmp_path / "export")
    back = mm.load(folder)
    x = torch.randn(4, 6)
    with torch.inference_mode():
        expected = predicting.predictors["image", "text"](x)
        torch.testing.assert_close(back.predictors["image", "text"](x), expected, rtol=0, atol=0)
    file = folder / "predictors.safetensors"
    whole = load_file(file)
    save_file(
        {name: value[..., :3].contiguous() if value.ndim else value for name, value in whole.items()}, file
    )
    with pytest.raises(ValueError, match="do not fit its widths"):
        mm.load(folder)
    file.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is no safetensors file"):
        mm.load(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="incomplete export"):
        mm.load(folder)
    config = json.loads((folder / "config.json").read_text())
    config["predictors"][0]["to"] = "../elsewhere"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="which are not there"):
        mm.load(folder)


def test_adapters_and_searches_use_them_when_asked(predicting, tmp_path):
    from photographs import crop

    crop(3).save(tmp_path / "picture.png")
    plain, transform, _ = to_open_clip(predicting)
    predicted, _, _ = to_open_clip(predicting, predicted=True)
    x = transform(crop(3))[None]
    with torch.inference_mode():
        expected = predicting.predictors["image", "text"](plain.encode_image(x))
        torch.testing.assert_close(predicted.encode_image(x), expected)
    with TarWriter(str(tmp_path / "one.tar")) as writer:
        writer.write({"__key__": "0", "png": (tmp_path / "picture.png").read_bytes(), "txt": b"a red bird"})
    searcher = Searcher(predicting, str(tmp_path / "one.tar"), device="cpu")
    found = searcher.embed_file(tmp_path / "picture.png", to="text")
    torch.testing.assert_close(found, expected[0])
    with pytest.raises(
        ValueError, match="no predictor from 'text' to 'image' in this run; it has image to text"
    ):
        searcher.embed_text("a red bird", to="image")


@pytest.mark.slow
def test_probes_score_predictors_change_no_bit_and_the_best_is_kept_wherever_it_falls(run, tmp_path):
    """Probes of every 5 steps, checkpoints of every 7: the best is one of the probes'."""
    _, train = run
    best = "a_to_b_by_predictor/recall_at_10"
    config = toy.Config(
        train=train,
        out=str(tmp_path / "run"),
        batch_size=64,
        epochs=4,
        checkpoint_every=7,
        keep_checkpoints=1,
        optimizer=mm.OptimizerConfig(learning_rate=3e-3, warmup_epochs=0),
        validation=mm.ValidationConfig(data=train, every=5, samples=256),
        best_metric=best,
    )
    with_probe = mm.train(config, objective)
    log = {line["step"]: line["validation"] for line in read_log(with_probe.folder) if "validation" in line}
    top = max(log, key=lambda step: (log[step][best], step))
    assert len(log) > 4 and {"a_to_b/recall_at_10", "b_to_a_by_predictor/median_rank"} <= set(log[top])
    assert mm.load(with_probe.folder, recipe=toy.__file__, step="best").step == top
    # The last probe and the evaluation of the finished run count the same.
    shown = score_splits(with_probe, {"toy": train}, device="cpu")["toy"].retrieval["a_to_b_by_predictor"]
    assert shown.num_queries == 512
    plain = mm.train(
        replace(config, out=str(tmp_path / "plain"), validation=mm.ValidationConfig(), best_metric=""),
        objective,
    )
    for ends, module in plain.predictors.items():
        for name, value in module.state_dict().items():
            torch.testing.assert_close(with_probe.predictors[ends].state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("best", ["a_to_b/median_rank", "a/knn", "b_to_c/recall_at_1"])
@pytest.mark.slow
def test_a_number_that_names_no_best_checkpoint_is_refused_before_the_first_step(run, tmp_path, best):
    _, train = run
    probe = mm.ValidationConfig(data=train)
    with pytest.raises(ValueError, match="expected one of a_to_b/recall_at_1, "):
        mm.train(
            toy.Config(train=train, out=str(tmp_path / "run"), validation=probe, best_metric=best), objective
        )
    mm.train(
        toy.Config(train=train, out=str(tmp_path / "run"), epochs=0.1), objective
    )  # nothing to continue there
