"""``mmvicreg diagnose``: what the branches of a run have in common, and what closed-form heads would make of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmvicreg.cli.model_options import Model, ModelOptions, check_figure
from mmvicreg.cli.output import Output
from mmvicreg.errors import InvalidValueError

if TYPE_CHECKING:
    from mmvicreg.solvers.diagnosis import Diagnosis


@dataclass(frozen=True)
class DiagnoseConfig(ModelOptions):
    """Shared dimensions beside chance, aligning or predicting, and what more pairs would give."""

    run: Model
    """run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
    data: str
    """shards of paired samples, with {000..009} and * expanded; training or held-out ones"""
    out: str = ""
    """picture to write (.png, .svg or .pdf); empty for RUN/diagnosis.png"""
    ridge: float = 0.3
    """ridge of the whitening and the regression, in units of the mean eigenvalue"""
    permutations: int = 20
    """shuffled pairings that show what chance gives"""
    seed: int = 0
    """seed of the shuffles and of the halves"""

    def __post_init__(self) -> None:
        check_figure(self.out)


def diagnose(config: DiagnoseConfig) -> Output:
    """Embed the shards once, diagnose every pair of branches, and draw it."""
    import numpy as np

    from mmvicreg.evaluation.embed import embed_split
    from mmvicreg.shards.index import open_index
    from mmvicreg.solvers.diagnosis import diagnose_pair, restricted
    from mmvicreg.solvers.statistics.pairing import PairedRows

    run = config.load(config.run)
    store = embed_split(run, open_index(config.data), device=config.device, threads=config.threads)
    samples = {name: found.samples for name, found in store.views.items()}
    h = PairedRows({name: np.asarray(found.h) for name, found in store.views.items()}, samples)
    z = PairedRows({name: np.asarray(found.z) for name, found in store.views.items()}, samples)
    found = {}
    for first, second in combinations(store.views, 2):
        found[first, second] = diagnose_pair(
            restricted(h, first, second),
            restricted(z, first, second),
            ridge=config.ridge,
            permutations=config.permutations,
            seed=config.seed,
        )
    if not found:
        raise InvalidValueError(
            f"the run has one branch ({', '.join(store.views)}); a diagnosis compares two"
        )
    path = _draw(found, Path(config.out) if config.out else run.folder / "diagnosis.png")
    data = {" and ".join(pair): _plain(each) for pair, each in found.items()}
    lines = [line for pair, each in found.items() for line in in_words(pair, each)]
    return Output({"pairs": data, "written": str(path)}, (*lines, f"written: {path}"))


def _plain(found: Diagnosis) -> dict[str, Any]:
    values = asdict(found)
    return values | {name: values[name].tolist() for name in ("correlations", "chance")}


def in_words(pair: tuple[str, str], found: Diagnosis) -> list[str]:
    """The diagnosis of a pair of branches in plain words."""
    first, second = pair
    lines = [
        f"{first} and {second}, {found.pairs:,} pairs",
        f"  shared: {found.shared_dimensions} dimensions are more correlated than chance "
        f"({found.chance[0]:.2f} at most when pairs are shuffled, {found.correlations[0]:.2f} as they are); they "
        f"count as {found.effective_dimensions:.0f} equally strong ones",
    ]
    difference = found.predicting - found.aligning
    if abs(difference) < found.margin:
        verdict = "aligning (CCA) and predicting (ridge) do equally well: take CCA, which is one cosine"
    elif difference > 0:
        verdict = "predicting (ridge) does better: the branches share nuisance that aligning keeps"
    else:
        verdict = "aligning (CCA) does better: the targets are too noisy to be predicted"
    lines.append(
        f"  {verdict} (mean recall on held-out samples: {100 * found.aligning:.1f}% aligning, "
        f"{100 * found.predicting:.1f}% predicting, +- {100 * found.margin:.1f})"
    )
    steps = ", ".join(f"{pairs:,}: {100 * score:.1f}%" for pairs, score in found.curve)
    lines.append(
        f"  more pairs: mean recall by training pairs {steps}; "
        f"twice as many would give about {100 * found.twice:.1f}%"
    )
    near = found.mutual_neighbours
    lines.append(
        f"  neighbours that both branches share: {100 * near['representations']:.1f}% of the 10 nearest by "
        f"representations, {100 * near['embeddings']:.1f}% by embeddings"
    )
    return lines


def _draw(found: dict[tuple[str, str], Diagnosis], path: Path) -> Path:
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure

    from mmvicreg.evaluation.report.figures import PAPER, STYLE, cycle, label_axes, save

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.8, 2.8 * len(found)), layout="constrained", facecolor=PAPER)
        axes = figure.subplots(len(found), 2, squeeze=False)
        measured, chance = cycle(2)
        for (left, right), (pair, each) in zip(axes, found.items(), strict=True):
            number = np.arange(1, len(each.correlations) + 1)
            left.plot(number, each.correlations, color=measured, linewidth=1.8, label="as they are")
            left.plot(
                number[: len(each.chance)], each.chance, color=chance, linewidth=1.8, label="shuffled, 95%"
            )
            left.axvline(each.shared_dimensions, color=measured, linewidth=0.8, linestyle=":")
            left.set_xscale("log")
            left.legend(frameon=False, fontsize=8)
            label_axes(left, f"{pair[0]} and {pair[1]}: canonical correlations", "axis")
            sizes, scores = zip(*each.curve, strict=True)
            right.plot(sizes, [100 * score for score in scores], "o-", color=measured, linewidth=1.8)
            right.plot([sizes[-1], 2 * sizes[-1]], [100 * scores[-1], 100 * each.twice], ":", color=measured)
            right.set_xscale("log", base=2)
            label_axes(right, "mean recall on held-out samples, %", "training pairs")
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, path)
