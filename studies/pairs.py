"""Which objective aligns two frozen towers best on retrieval: contrastive, per-branch regularized, or closed form.

    python studies/encode_pairs.py --pairs "PAIRS/*.tar" --out studies/features.npz
    python studies/pairs.py search --workers 2
    python studies/pairs.py choose
    python studies/pairs.py repeat --workers 2
    python studies/pairs.py score
    python studies/pairs.py results

or ``python studies/pairs.py all``. Every method gets the same features, feature maps, augmented crops, captions,
heads and number of trials, on three divisions by concept. Selection is by validation pairs alone; ``score`` refuses to
start before the choice is written down, and counts every scoring of test pairs.
"""

from __future__ import annotations

import os

import pair_kernels
import pair_methods
import pair_starts
from pair_features import check_kind

from mmvicreg.studies.command import main
from mmvicreg.studies.space import Choice, Integer, Uniform, Value
from mmvicreg.studies.study import Method, Study, Trial

TRIALS = int(os.environ.get("MMVICREG_TRIALS", "8"))
"""Search budget of each method in each regime, for closed forms and trained heads alike."""

REGIMES = (
    *(f"pairs-{pairs}-split-{split}" for pairs in ("1000", "all") for split in range(3)),
    *(f"pairs-{pairs}-split-0" for pairs in (250, 500, 2000, 4000)),
    *(f"pairs-1000-shuffled-{fraction}-split-0" for fraction in (0.2, 0.4)),
)
"""Three divisions of the main sizes; other sizes and exchanged captions on the first division."""

WAYS = {**pair_methods.WAYS, **pair_starts.WAYS, **pair_kernels.WAYS_ON_KERNELS}


def train(trial: Trial) -> None:
    """Train a trial by its method."""
    check_kind(pair_methods.features_file(), 3, "--pairs SHARDS")
    WAYS[trial.method][1].train(trial)


def test(trial: Trial) -> dict[str, float]:
    """Score a repeated run on test pairs."""
    return WAYS[trial.method][1].test(trial)


def method(name: str) -> Method:
    """A method of the study, with the search space of its kind and its own."""
    family, way, space = WAYS[name]
    whole = {**way.shared, **space}
    return Method(train, whole, TRIALS, family, {key: first(way.first[key], whole[key]) for key in whole})


def first(value: Value, space: Uniform | Integer | Choice) -> Value:
    """The value of the first trial: the usual one, where the method may have it."""
    return space.values[0] if isinstance(space, Choice) and value not in space.values else value


STUDY = Study(
    name="pairs",
    description="Which objective aligns two frozen towers best on retrieval, each tuned alike.",
    methods={name: method(name) for name in WAYS},
    regimes=REGIMES,
    metrics=("validation.mean_recall",),
    test=test,
    test_metrics=("mean_recall",),
    baseline="infonce",
)

if __name__ == "__main__":
    main(STUDY, out="studies/pairs")
