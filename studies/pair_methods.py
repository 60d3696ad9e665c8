"""The methods of the comparison: how each is fitted and scored, and what is tuned about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from pair_features import Division, divide, parse_regime
from pair_heads import CHECKS, Heads, HeadSettings, make_heads, settings_of, train_heads
from pair_scores import Embedder, Ensemble, score_model
from pair_solutions import SolvedHeads, solve_heads
from pair_spaces import (
    AXES,
    HEADS,
    INVARIANCE,
    KERNELS,
    MAPS,
    MIX,
    RIDGES,
    SIGREG,
    START,
    TEMPERATURE,
    VICREG,
    Settings,
)
from safetensors.torch import load_file
from torch import nn

import mmvicreg as mm
from mmvicreg.evaluation.summary import Summary
from mmvicreg.files import write_tensors
from mmvicreg.studies.space import Choice, Space, Uniform
from mmvicreg.studies.study import Trial

BATCH_OF_STEPS = 256
"""For which the searched steps are, where the regime has the batch."""


def features_file() -> Path:
    """What ``studies/encode_pairs.py`` wrote: $MMVICREG_PAIRS."""
    return Path(os.environ.get("MMVICREG_PAIRS", "studies/features.npz"))


def pairs_of(regime: str, seed: int) -> Division:
    """The pairs of a regime; ``seed`` draws those that train."""
    return divide(features_file(), parse_regime(regime), seed=seed)


def finish(trial: Trial, model: Embedder, source: str = "studies/pairs.py") -> None:
    """Score validation pairs and write the summary of a trial."""
    division = pairs_of(trial.regime, trial.seed)
    found = score_model(model, division.validation, division.train)
    named = {f"validation.{name}": value for name, value in found.to_json().items()}
    Summary(source, str(trial.out), 0, named, settings=dict(trial.settings)).write(trial.out / "summary.json")


def keep(model: nn.Module, trial: Trial, name: str) -> None:
    """Write the weights of a trial to NAME.safetensors."""
    trial.out.mkdir(parents=True, exist_ok=True)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    write_tensors(trial.out / f"{name}.safetensors", state)


@dataclass(frozen=True)
class Trained:
    """Heads trained by gradient."""

    objective: Callable[[Settings], mm.Objective]
    """from all settings of a trial"""
    predict: bool = False
    """score with predictions both ways"""
    identities: bool = False
    """tell the objective which pairs have the same caption"""
    members: int = 1
    """models trained with different seeds, whose cosines are added"""
    shared: ClassVar[Space] = HEADS
    """what is tuned about every method of this kind"""
    first: ClassVar[Settings] = START
    """settings of the first trial"""

    def fit(self, trial: Trial) -> list[Heads]:
        """The heads of every member."""
        division, settings = pairs_of(trial.regime, trial.seed), head_settings(trial)
        return [
            train_heads(
                division,
                settings,
                self.objective(trial.settings),
                predict=self.predict,
                identities=self.identities,
                seed=1000 * trial.seed + member,
            )
            for member in range(self.members)
        ]

    def train(self, trial: Trial) -> None:
        """Train, keep the heads, and score validation pairs."""
        found = self.fit(trial)
        for number, heads in enumerate(found):
            keep(heads, trial, f"heads-{number}")
        finish(trial, joined(found))

    def test(self, trial: Trial) -> dict[str, float]:
        """Scores of the kept heads on test pairs."""
        division, settings = pairs_of(trial.regime, trial.seed), head_settings(trial)
        found = []
        for number in range(self.members):
            heads = make_heads(division, settings, self.objective(trial.settings), predict=self.predict)
            heads.load_state_dict(load_file(trial.out / f"heads-{number}.safetensors"))
            found.append(heads.eval())
        return score_model(joined(found), division.test, division.train).to_json()


def head_settings(trial: Trial) -> HeadSettings:
    """Those of a trial. Where the regime has the batch, the steps are as many as see the same number of pairs as the
    searched steps do with a batch of ``BATCH_OF_STEPS``."""
    settings, batch = settings_of(HeadSettings, trial.settings), parse_regime(trial.regime).batch
    if batch is None:
        return settings
    return replace(settings, batch=batch, steps=max(CHECKS, round(settings.steps * BATCH_OF_STEPS / batch)))


def joined(found: Sequence[Embedder]) -> Embedder:
    """One model, or several as one."""
    return Ensemble(found) if len(found) > 1 else found[0]


@dataclass(frozen=True)
class Solved:
    """Heads in closed form."""

    solver: Callable[[Settings], mm.CCA | mm.Ridge]
    kernel: bool = False
    """behind a Gaussian kernel of each branch, by Nyström landmarks"""
    shared: ClassVar[Space] = {}
    first: ClassVar[Settings] = START

    def fit(self, trial: Trial) -> SolvedHeads:
        """The heads."""
        solver = self.solver(trial.settings)
        return solve_heads(
            pairs_of(trial.regime, trial.seed), trial.settings, solver, kernel=self.kernel, seed=trial.seed
        )

    def train(self, trial: Trial) -> None:
        """Solve and score validation pairs."""
        finish(trial, self.fit(trial))

    def test(self, trial: Trial) -> dict[str, float]:
        """Solve as the trial did, and score test pairs."""
        division = pairs_of(trial.regime, trial.seed)
        return score_model(self.fit(trial), division.test, division.train).to_json()


def regularized(alignment: mm.Alignment, regularizer: Callable[[], mm.Regularizer]) -> mm.Objective:
    """One regularizer a branch, of the same kind."""
    return mm.Objective(alignment, {"image": regularizer(), "text": regularizer()})


def contrastive(s: Settings) -> mm.Objective:
    """InfoNCE."""
    return mm.Objective(mm.InfoNCE(temperature=float(s["temperature"])))


def vicreg(s: Settings) -> mm.Objective:
    """Invariance and VICReg."""
    return regularized(mm.Invariance(25.0), lambda: mm.VICReg(float(s["variance"]), float(s["covariance"])))


def visreg(s: Settings) -> mm.Objective:
    """Invariance and VISReg."""
    return regularized(
        mm.Invariance(float(s["invariance"])), lambda: mm.VISReg(1.0, float(s["shape"]), 1.0, slices=256)
    )


def sigreg(s: Settings) -> mm.Objective:
    """Invariance and SIGReg."""
    return regularized(
        mm.Invariance(float(s["invariance"])), lambda: mm.SIGReg(float(s["sigreg"]), slices=256)
    )


def with_infonce(objective: Callable[[Settings], mm.Objective]) -> Callable[[Settings], mm.Objective]:
    """The same objective with InfoNCE beside its alignment."""

    def mixed(s: Settings) -> mm.Objective:
        alone = objective(s)
        assert alone.shared is not None
        parts = {name: part for name, part in alone.regularizers.items() if isinstance(part, mm.Regularizer)}
        return mm.Objective(mm.SumAlignment(alone.shared, mm.InfoNCE(float(s["infonce"]))), parts)

    return mixed


def prediction(s: Settings) -> mm.Prediction:
    """Linear predictors into the other branch, behind a stop-gradient."""
    width = int(s["width"])
    return mm.Prediction(widths=(width, width), hidden=())


CONTRASTIVE, REGULARIZED, CLOSED = "contrastive", "per-branch regularized", "closed form"

WAYS: dict[str, tuple[str, Trained | Solved, Space]] = {
    "infonce": (CONTRASTIVE, Trained(contrastive), TEMPERATURE),
    "infonce_two_models": (CONTRASTIVE, Trained(contrastive, members=2), TEMPERATURE),
    "infonce_identities": (CONTRASTIVE, Trained(contrastive, identities=True), TEMPERATURE),
    "siglip": (CONTRASTIVE, Trained(lambda s: mm.Objective(mm.Sigmoid())), {}),
    "vse++": (
        CONTRASTIVE,
        Trained(lambda s: mm.Objective(mm.MaxHinge(margin=float(s["margin"])))),
        {"margin": Uniform(0.05, 0.5)},
    ),
    "vicreg": (REGULARIZED, Trained(vicreg), VICREG),
    "visreg": (REGULARIZED, Trained(visreg), {**INVARIANCE, "shape": Uniform(0.3, 30.0, log=True)}),
    "sigreg": (REGULARIZED, Trained(sigreg), {**INVARIANCE, **SIGREG}),
    "barlow": (
        REGULARIZED,
        Trained(lambda s: mm.Objective(mm.BarlowTwins(redundancy=float(s["redundancy"])))),
        {"redundancy": Uniform(5e-4, 0.1, log=True)},
    ),
    "wmse": (REGULARIZED, Trained(lambda s: mm.Objective(mm.WhitenedMSE(size=512))), {}),
    "prediction+sigreg": (
        REGULARIZED,
        Trained(
            lambda s: regularized(prediction(s), lambda: mm.SIGReg(float(s["sigreg"]), slices=256)),
            predict=True,
        ),
        SIGREG,
    ),
    "prediction+vicreg": (
        REGULARIZED,
        Trained(
            lambda s: regularized(
                prediction(s), lambda: mm.VICReg(float(s["variance"]), float(s["covariance"]))
            ),
            predict=True,
        ),
        VICREG,
    ),
    "vicreg+infonce": (
        REGULARIZED,
        Trained(with_infonce(vicreg)),
        {**VICREG, **MIX},
    ),
    "cca": (CLOSED, Solved(lambda s: cca(s)), {**MAPS, **AXES}),
    "kernel_cca": (CLOSED, Solved(lambda s: cca(s), kernel=True), {**MAPS, **KERNELS, **AXES}),
    "ridge_into_text": (CLOSED, Solved(lambda s: ridge(s, "first")), {**MAPS, **RIDGES}),
    "two_way_ridge": (CLOSED, Solved(lambda s: ridge(s, "both")), {**MAPS, **RIDGES}),
    "two_way_kernel_ridge": (
        CLOSED,
        Solved(lambda s: ridge(s, "both"), kernel=True),
        {**MAPS, **KERNELS, **RIDGES},
    ),
    "two_way_kernel_ridge_3000": (
        CLOSED,
        Solved(lambda s: ridge(s, "both"), kernel=True),
        {**MAPS, **KERNELS, **RIDGES, "landmarks": Choice((3000,))},
    ),
}
"""Family, how it is fitted, and what is tuned about it alone."""


def cca(s: Settings) -> mm.CCA:
    """Canonical correlation analysis with its own ridge for each branch."""
    branches = {name: mm.Whitening(ridge=float(s[f"{name}_ridge"])) for name in ("image", "text")}
    return mm.CCA(branches=branches, axis_power=float(s["axis_power"]), width=int(s["width"]))


def ridge(s: Settings, direction: Literal["both", "first"]) -> mm.Ridge:
    """Ridge regression into the whitened other branch; "first": of the text from the image alone."""
    target = mm.Whitening(ridge=float(s["target_ridge"]), power=float(s["target_power"]))
    ridges = {name: float(s[f"{name}_ridge"]) for name in ("image", "text")}
    return mm.Ridge(branches=ridges, target=target, direction=direction)
