"""Why heads trained with VICReg stay below the solution in closed form: one change at a time to the chosen settings.

    python studies/pair_gap.py                             # two divisions of 1,000 pairs, three seeds
    python studies/pair_gap.py --seeds 1 --variants chosen "linear heads"

It starts from the settings of ``vicreg`` that ``studies/pairs.py choose`` wrote down and changes one thing, with no
search after the change. Every run is scored by cosine with the best of its four checks, which is how all methods of the
comparison are kept, with its last weights, and along axes weighted by their correlation. Scores are of validation
pairs: the test pairs are not read. Finished runs are kept, and skipped when the command is given again. Written to
``studies/recorded/gap-1000.json``, shown by ``studies/results.py``.

The towers are frozen, so the whole training set fits as one batch, which is what gradient caching would give exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

import tyro
from pair_features import Division, Pairs, mapped
from pair_heads import Heads, HeadSettings, make_heads, seed_weights, settings_of, train_on, warmup_cosine
from pair_inputs import (
    MappedHeads,
    RunningVICReg,
    kernel_features,
    mapped_heads,
    scaled_to_one,
    whitened_features,
)
from pair_methods import WAYS, Solved, Trained, pairs_of, regularized, ridge
from pair_record import read_scores, write_scores
from pair_scores import Embedder, score_model
from pair_scorings import CORRELATED, score_by
from pair_solutions import solve_heads
from pair_spaces import Settings
from pair_starts import SOLUTION, MappedSolution, embedded_pairs

import mmvicreg as mm
from mmvicreg.errors import show_messages_alone
from mmvicreg.progress import bar
from mmvicreg.studies.folder import StudyFolder

RECORDED = Path(__file__).parent / "recorded"
METHOD = "vicreg"


@dataclass(frozen=True)
class Variant:
    """One change to the chosen settings of a method."""

    settings: Settings = field(default_factory=dict)
    """settings that replace the chosen ones"""
    inputs: Literal["features", "whitened", "kernel", "whitened kernel", "solution", "scaled solution"] = (
        "features"
    )
    """what the heads are given: features, or those of the chosen solution's kernels, whitened or not; or its
    embeddings, of which each head is at first the identity"""
    times: float = 1.0
    """steps, as a multiple of the chosen ones"""
    constant: bool = False
    """keep the learning rate constant"""
    running: bool = False
    """covariance as a moving average over batches"""
    method: str = METHOD
    """another one is a reference"""


START = {"steps": 100}
"""Steps of heads that start from the solution, a quarter of the chosen 400: its embeddings are so wide that each takes
four times as long."""

VARIANTS: dict[str, Variant] = {
    "chosen": Variant(),
    **{f"reference: {name}": Variant(method=name) for name in ("infonce", "cca", "kernel_cca", SOLUTION)},
    "batch of 64": Variant({"batch": 64}),
    "batch of 256": Variant({"batch": 256}),
    "covariance averaged over batches": Variant(running=True),
    "no weight decay": Variant({"weight_decay": 0.0}),
    "weight decay 1": Variant({"weight_decay": 1.0}),
    "constant learning rate": Variant(constant=True),
    "half the steps": Variant(times=0.5),
    "linear heads": Variant({"hidden": 0}),
    "hidden layer of 512": Variant({"hidden": 512}),
    "without crops and captions": Variant({"augment": False}),
    "with crops and captions": Variant({"augment": True}),
    "image features of unit length alone": Variant({"image_map": "unit"}),
    "signed square root of image features": Variant({"image_map": "root"}),
    "whitened inputs": Variant(inputs="whitened"),
    "whitened inputs, linear heads": Variant({"hidden": 0}, "whitened"),
    "kernel features": Variant(inputs="kernel"),
    "kernel features, linear heads": Variant({"hidden": 0}, "kernel"),
    "whitened kernel features, linear heads": Variant({"hidden": 0}, "whitened kernel"),
    "InfoNCE: whitened kernel features, linear heads": Variant(
        {"hidden": 0}, "whitened kernel", method="infonce"
    ),
    "from the solution, learning rate 1e-5": Variant({**START, "learning_rate": 1e-5}, "solution"),
    "from the solution, learning rate 1e-4": Variant({**START, "learning_rate": 1e-4}, "solution"),
    "from the solution, learning rate 1e-3": Variant({**START, "learning_rate": 1e-3}, "solution"),
    "from the scaled solution, learning rate 1e-3": Variant(
        {**START, "learning_rate": 1e-3}, "scaled solution"
    ),
    "outputs of 1,024": Variant({"width": 1024}),
    "twice the steps": Variant(times=2.0),
    "batch of the whole training set": Variant({"batch": 1 << 30}),
    "four times the steps": Variant(times=4.0),
    "weight decay 0.1": Variant({"weight_decay": 0.1}),
    "weight decay 0.01": Variant({"weight_decay": 0.01}),
}
"""Each change by its name."""


@dataclass(frozen=True)
class Config:
    """Which changes, in how many divisions, with how many seeds."""

    choices: Path = RECORDED / "pairs"
    """folder with choices.json"""
    size: str = "1000"
    """training pairs"""
    divisions: int = 2
    """divisions by concept"""
    seeds: int = 3
    """seeds of the weights, the batches and the landmarks; the training pairs are those of the search"""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """names of changes"""
    out: Path = RECORDED / "gap-1000.json"
    """file to write"""


@dataclass(frozen=True)
class Chosen:
    """The training pairs of a regime and the settings that were chosen for each method."""

    division: Division
    settings: Mapping[str, Settings]

    @staticmethod
    def of(regime: str, choices: Mapping[str, Mapping[str, Any]]) -> Chosen:
        """Of a regime; the seed of the pairs is that of the search."""
        mine = {key.partition("/"): value["settings"] for key, value in choices.items()}
        return Chosen(
            pairs_of(regime, 0), {name: each for (name, _, of), each in mine.items() if of == regime}
        )

    def with_change(self, variant: Variant) -> Settings:
        """All settings of a variant."""
        settings = {**self.settings[variant.method], **variant.settings}
        return {**settings, "steps": round(variant.times * int(settings["steps"]))}

    def is_changed_by(self, variant: Variant) -> bool:
        """False where the chosen settings have the value already."""
        unchanged = Variant(settings=variant.settings) == variant
        return not (variant.settings and unchanged) or self.with_change(variant) != self.settings[METHOD]


def score_variant(variant: Variant, chosen: Chosen, seed: int) -> dict[str, float]:
    """Scores of validation pairs by kind: validation, last (weights), correlated (axes)."""
    way, division = WAYS[variant.method][1], chosen.division
    if isinstance(way, Solved):
        settings = chosen.settings[variant.method]
        heads = solve_heads(division, settings, way.solver(settings), kernel=way.kernel, seed=seed)
        return {"validation": score_model(heads, division.validation, division.train).mean_recall}
    model, last = train_variant(variant, chosen, seed)
    found = {
        "validation": score_model(model, division.validation, division.train).mean_recall,
        "last": last,
    }
    if "solution" not in variant.inputs:
        found["correlated"] = score_by(CORRELATED, model, division)[CORRELATED]
    return found


def train_variant(variant: Variant, chosen: Chosen, seed: int) -> tuple[Embedder, float]:
    """The heads that scored best on validation pairs, and the score of the last ones."""
    settings = chosen.with_change(variant)
    model, train = start(variant, chosen, seed)
    checks: list[float] = []

    def score() -> float:
        checks.append(score_model(model, chosen.division.validation, chosen.division.train).mean_recall)
        return checks[-1]

    schedule = constant if variant.constant else warmup_cosine
    train_on(train, model, settings_of(HeadSettings, settings), score=score, schedule=schedule, seed=seed)
    return model, checks[-1]


def constant(step: int, steps: int) -> float:
    """The learning rate as a fraction of its largest."""
    return 1.0


def start(variant: Variant, chosen: Chosen, seed: int) -> tuple[Heads | MappedHeads | MappedSolution, Pairs]:
    """Heads before the first step, and the training pairs as they read them."""
    division, settings = chosen.division, chosen.with_change(variant)
    objective, heads = objective_of(variant, settings), settings_of(HeadSettings, settings)
    if variant.inputs == "features":
        seed_weights(seed)
        return make_heads(division, heads, objective, predict=False), mapped(division.train, heads.image_map)
    inputs = inputs_of(variant, chosen, settings, seed)
    train = embedded_pairs(division.train, inputs)
    if "solution" in variant.inputs:
        return MappedSolution(inputs, train.image.shape[-1], objective), train
    return mapped_heads(inputs, train, heads, objective, seed), train


def inputs_of(variant: Variant, chosen: Chosen, settings: Settings, seed: int) -> Embedder:
    """What the heads of a variant are given."""
    division, solution = chosen.division, chosen.settings[SOLUTION]
    if variant.inputs == "whitened":
        return whitened_features(division, settings, seed)
    if variant.inputs == "whitened kernel":
        return whitened_features(division, solution, seed, kernel=True)
    if variant.inputs == "kernel":
        return kernel_features(division, solution, seed)
    solved = solve_heads(division, solution, ridge(solution, "both"), kernel=True, seed=seed)
    return scaled_to_one(solved, division.train) if variant.inputs == "scaled solution" else solved


def objective_of(variant: Variant, settings: Settings) -> mm.Objective:
    """The objective of a variant."""
    if variant.running:
        weights = float(settings["variance"]), float(settings["covariance"])
        return regularized(mm.Invariance(25.0), lambda: RunningVICReg(*weights))
    way = WAYS[variant.method][1]
    assert isinstance(way, Trained)
    return way.objective(settings)


def main(config: Config) -> None:
    """Train, score, write after every run."""
    choices = StudyFolder(config.choices).read_choices()
    regimes = [f"pairs-{config.size}-split-{split}" for split in range(config.divisions)]
    chosen = {regime: Chosen.of(regime, choices) for regime in regimes}
    kept = read_scores(config.out)
    command = f"python studies/pair_gap.py --divisions {config.divisions} --seeds {config.seeds}"
    with bar("gap", config.seeds * len(regimes) * len(config.variants)) as advance:
        for seed, name, regime in product(range(config.seeds), config.variants, regimes):
            variant, run = VARIANTS[name], f"{regime}/{seed}"
            if run not in kept.get(name, {}) and chosen[regime].is_changed_by(variant):
                kept.setdefault(name, {})[run] = score_variant(variant, chosen[regime], seed)
                write_scores(config.out, kept, command)
            advance(1, name)


if __name__ == "__main__":
    show_messages_alone()
    main(tyro.cli(Config))
