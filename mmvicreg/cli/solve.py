"""``mmvicreg solve``: heads in closed form for the encoders of a run or for published towers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmvicreg.cli.model_options import Model, ModelOptions, Out
from mmvicreg.cli.output import Output

if TYPE_CHECKING:
    from mmvicreg.runs.run import Run
    from mmvicreg.solvers.config import AnySolver
    from mmvicreg.solvers.statistics.feature_maps import FeatureMap


@dataclass(frozen=True)
class SolveOptions(ModelOptions):
    """Solve heads on the representations of frozen encoders, in one pass and without gradient steps."""

    model: Model
    """run directory (its encoders are kept, its heads replaced), published model, or IMAGE+TEXT: two published towers,
    as timm/NAME:WEIGHTS+transformers/NAME:WEIGHTS"""
    out: Out
    """run directory to write"""
    train: str
    """shards of paired samples, with {000..099} and * expanded"""
    validation: str = ""
    """held-out shards that choose ridges, powers and bandwidth; empty takes the defaults"""
    test: str = ""
    """held-out shards that are scored at the end"""
    solver: Literal["cca", "ridge", "pls", "procrustes", "maxvar"] = "cca"
    """how the heads are solved; see docs/solvers"""
    kernel: Literal["none", "nystrom", "fourier"] = "none"
    """Gaussian kernel of every branch; none is linear"""
    landmarks: int = 1500
    """landmarks or random features of the kernel"""
    unit: bool = True
    """bring representations to unit length first"""
    width: int = 384
    """width of the embeddings, of cca, pls and maxvar"""
    caption: str = ""
    """where captions are, a member suffix or json:FIELD; where the model's own are if empty"""
    concept_power: float = 0.0
    """weight of a pair: 1 / (matches of its caption or picture) to this power"""
    seed: int = 0
    """seed of landmarks and random features"""
    resume: Literal["auto", "never", "restart"] = "auto"
    """if OUT holds a run: continue it, refuse, or move it aside"""


def solve(config: SolveOptions) -> Output:
    """Solve, and score the test shards where there are any."""
    import json

    from mmvicreg.evaluation.evaluate import score_splits, scores_table, summarize_splits
    from mmvicreg.solvers.config import SolveConfig
    from mmvicreg.solvers.solve import RESULT, solve_run
    from mmvicreg.solvers.statistics.pairing import PairingConfig

    source = _towers(config)
    settings = SolveConfig(
        train=config.train,
        validation=config.validation,
        out=config.out,
        solver=_solver(config),
        features={name: _feature_map(config) for name in source.modalities},
        pairing=PairingConfig(concept_power=config.concept_power),
        seed=config.seed,
        threads=config.threads,
        resume=config.resume,
        cpu=config.device == "cpu",
    )
    run = solve_run(settings, source)
    solved = json.loads((run.folder / RESULT).read_text(encoding="utf-8"))
    line = (
        f"solved in {solved['solve_seconds']:.1f} s ({solved['settings_compared']} settings"
        + (
            f", validation mean recall {100 * solved['validation_mean_recall']:.1f}%"
            if config.validation
            else ""
        )
        + f"): {run.folder}"
    )
    data = {"run": str(run.folder), **{name: solved[name] for name in solved if name != "strengths"}}
    if not config.test:
        return Output(data, (line,))
    scores = score_splits(run, {"test": config.test}, device=config.device, threads=config.threads)
    summary = summarize_splits(run, scores, source="solve")
    summary.write(run.folder / "summary.json")
    return Output({**data, "scores": dict(summary.scores)}, (line, scores_table(scores)))


def _solver(config: SolveOptions) -> AnySolver:
    from mmvicreg.solvers.canonical import CCA, PLS, Procrustes
    from mmvicreg.solvers.maxvar import MaxVar
    from mmvicreg.solvers.ridge import Ridge

    match config.solver:
        case "cca":
            return CCA(width=config.width)
        case "ridge":
            return Ridge()
        case "pls":
            return PLS(width=config.width)
        case "procrustes":
            return Procrustes()
        case "maxvar":
            return MaxVar(width=config.width)


def _feature_map(config: SolveOptions) -> FeatureMap:
    from mmvicreg.solvers.statistics.feature_maps import FeatureMap

    return FeatureMap(("unit",) if config.unit else (), config.kernel, config.landmarks)


def _towers(config: SolveOptions) -> Run:
    """The run whose encoders are solved on."""
    from mmvicreg.cli.evaluate import captions_at

    image, plus, text = config.model.partition("+")
    run = _two_towers(image, text) if plus and "/" in text else config.load(config.model)
    return captions_at(run, config.caption) if config.caption else run


def _two_towers(image: str, text: str) -> Run:
    from mmvicreg.branches.model import Model as Branches
    from mmvicreg.modalities.image import ImageModality
    from mmvicreg.modalities.modality import Modality
    from mmvicreg.modalities.text import TextModality
    from mmvicreg.runs.run import Run
    from mmvicreg.shards.locations import cache_folder

    names = [tower.partition(":")[::2] for tower in (image, text)]
    (image_name, image_weights), (text_name, text_weights) = names
    modalities: dict[str, Modality] = {
        "image": ImageModality(encoder=image_name, weights=image_weights or "hub", frozen=True, projector=()),
        "text": TextModality(encoder=text_name, weights=text_weights or "hub", frozen=True, projector=()),
    }
    views = {name: name for name in modalities}
    model = Branches({name: modality.branch() for name, modality in modalities.items()}, views)
    return Run(Path(cache_folder()) / "towers", {}, modalities, model.eval(), 0)
