"""Which objective trains both encoders best from random weights, on the pairs of ``studies/pairs.py``.

    python studies/encode_pairs.py --pairs "PAIRS/*.tar" --first pixels --second tokens --views 2 --out pixels.npz
    MMVICREG_PAIRS=pixels.npz python studies/scratch.py all --workers 2

A small residual network on 48 x 48 pixels and a transformer of two layers, 2 million weights beside the word vectors,
three epochs; the same crops, captions, encoders and trials for every method. Chance is 1%.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from pair_features import Division, check_kind
from pair_heads import TrainingSettings, seed_weights, train_on
from pair_methods import WAYS, Trained, features_file, finish, keep, pairs_of, with_infonce
from pair_scores import score_model, scores
from pair_spaces import MIX, START, Settings
from safetensors.torch import load_file
from scratch_encoders import Encoders

from mmvicreg.studies.command import main
from mmvicreg.studies.space import Choice, Space, Uniform
from mmvicreg.studies.study import Method, Study, Trial

TRIALS = int(os.environ.get("MMVICREG_TRIALS", "3"))
EPOCHS = float(os.environ.get("MMVICREG_EPOCHS", "3"))
WEIGHT_DECAY = 0.05
TRAINING: Space = {
    "learning_rate": Uniform(3e-4, 1e-2, log=True),
    "batch": Choice((128, 256)),
    "width": Choice((128, 256)),
}
FIRST: Settings = {**START, "learning_rate": 2e-3, "batch": 128, "width": 256}


def ways() -> dict[str, tuple[str, Trained, Space]]:
    """Family, objective, and what is tuned about it: seven of the comparison of heads, four with InfoNCE beside."""
    found: dict[str, tuple[str, Trained, Space]] = {}
    for name in ("infonce", "siglip", "vicreg", "visreg", "sigreg", "prediction+sigreg", "vicreg+infonce"):
        family, way, space = WAYS[name]
        assert isinstance(way, Trained)
        found[name] = (family, way, space)
    for name in ("visreg", "sigreg", "prediction+sigreg"):
        family, way, space = found[name]
        found[f"{name}+infonce"] = (
            family,
            Trained(with_infonce(way.objective), predict=way.predict),
            {**space, **MIX},
        )
    return found


WAYS_FROM_SCRATCH = ways()


def encoders_of(trial: Trial) -> Encoders:
    """Encoders with random weights for the settings of a trial."""
    way = WAYS_FROM_SCRATCH[trial.method][1]
    return Encoders(way.objective(trial.settings), width=int(trial.settings["width"]), predict=way.predict)


def train(trial: Trial) -> None:
    """Train both encoders, keep them, and score validation pairs."""
    check_kind(features_file(), 5, "--pairs SHARDS --first pixels --second tokens")
    division = pairs_of(trial.regime, trial.seed)
    seed_weights(trial.seed)
    model = encoders_of(trial)
    settings = training_settings(division, trial.settings)
    train_on(division.train, model, settings, score=score_of(model, division), seed=trial.seed)
    keep(model, trial, "encoders")
    finish(trial, model, "studies/scratch.py")


def training_settings(division: Division, settings: Settings) -> TrainingSettings:
    """Crops and captions drawn at random, EPOCHS times the training pairs."""
    batch = int(settings["batch"])
    steps = max(1, round(EPOCHS * len(division.train) / batch))
    return TrainingSettings(float(settings["learning_rate"]), WEIGHT_DECAY, batch, steps, augment=True)


def score_of(model: Encoders, division: Division) -> Callable[[], float]:
    """What scores the validation pairs."""
    pairs = division.validation
    names = pairs.distinct_captions()[0]

    @torch.no_grad()
    def score() -> float:
        image, text = model.embed(pairs.image[:, 0], names)
        return scores(image, text, pairs, text).mean_recall

    return score


def test(trial: Trial) -> dict[str, float]:
    """Scores of the kept encoders on test pairs."""
    division, model = pairs_of(trial.regime, trial.seed), encoders_of(trial)
    model.load_state_dict(load_file(trial.out / "encoders.safetensors"))
    return score_model(model.eval(), division.test, division.train).to_json()


def method(name: str) -> Method:
    """A method of the study, with the space of all and its own."""
    family, _, space = WAYS_FROM_SCRATCH[name]
    whole = {**TRAINING, **space}
    return Method(train, whole, TRIALS, family, {key: FIRST[key] for key in whole})


STUDY = Study(
    name="scratch",
    description="Which objective trains both encoders best from random weights, each tuned alike.",
    methods={name: method(name) for name in WAYS_FROM_SCRATCH},
    regimes=("pairs-all-split-0",),
    metrics=("validation.mean_recall",),
    test=test,
    test_metrics=("mean_recall",),
    seeds=(1, 2),
    baseline="infonce",
)

if __name__ == "__main__":
    main(STUDY, out="studies/scratch")
