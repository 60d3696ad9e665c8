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
    from matplotlib.axes import Axes

    from mmvicreg.solvers.diagnosis import Diagnosis
    from mmvicreg.solvers.layers import LayerAlignment

Pair = tuple[str, str]


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
    from mmvicreg.solvers.layers import align_layers
    from mmvicreg.solvers.statistics.pairing import PairedRows

    run = config.load(config.run)
    index = open_index(config.data)
    store = embed_split(run, index, device=config.device, threads=config.threads)
    samples = {name: found.samples for name, found in store.views.items()}
    h = PairedRows({name: np.asarray(found.h) for name, found in store.views.items()}, samples)
    z = PairedRows({name: np.asarray(found.z) for name, found in store.views.items()}, samples)
    found, layers = {}, {}
    for first, second in combinations(store.views, 2):
        found[first, second] = diagnose_pair(
            restricted(h, first, second),
            restricted(z, first, second),
            ridge=config.ridge,
            permutations=config.permutations,
            seed=config.seed,
        )
        readers = {name: run.modalities[name].reader() for name in (first, second)}
        aligned = align_layers(run.model, readers, index, device=config.device or "cpu")
        if aligned:
            layers[first, second] = aligned
    if not found:
        raise InvalidValueError(
            f"the run has one branch ({', '.join(store.views)}); a diagnosis compares two"
        )
    path = _draw(found, layers, Path(config.out) if config.out else run.folder / "diagnosis.png")
    data = {" and ".join(pair): _plain(each, layers.get(pair)) for pair, each in found.items()}
    lines = []
    for pair, each in found.items():
        lines += in_words(pair, each)
        if pair in layers:
            lines.append(layers_in_words(pair, layers[pair]))
    return Output({"pairs": data, "written": str(path)}, (*lines, f"written: {path}"))


def _plain(found: Diagnosis, layers: LayerAlignment | None) -> dict[str, Any]:
    values = asdict(found)
    values |= {name: values[name].tolist() for name in ("correlations", "chance")}
    if layers:
        values["layers"] = asdict(layers) | {"shared": layers.shared.tolist(), "best": list(layers.best)}
    return values


def layers_in_words(pair: Pair, found: LayerAlignment) -> str:
    """Which layers see the same neighbours."""
    row, column, best = found.best
    last = 100 * float(found.shared[-1, -1])
    advice = (
        "the representations are among the best"
        if 100 * best - last < 1
        else "heads on those layers may align better than on the representations"
    )
    return (
        f"  layers: {row} of {pair[0]} and {column} of {pair[1]} share most neighbours, {100 * best:.1f}% of the 10 "
        f"nearest ({last:.1f}% the representations, {100 * found.chance:.1f}% chance; {found.samples:,} samples): "
        f"{advice}"
    )


def in_words(pair: tuple[str, str], found: Diagnosis) -> list[str]:
    """The diagnosis of a pair of branches in plain words."""
    first, second = pair
    lines = [
        f"{first} and {second}, {found.pairs:,} pairs",
        f"  shared: {found.shared_dimensions} dimensions are more correlated than chance "
        f"({found.chance[0]:.2f} at most when pairs are shuffled, {found.correlations[0]:.2f} as they are); by "
        f"strength they amount to {found.effective_dimensions:.0f} equal ones",
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


def _draw(found: dict[Pair, Diagnosis], layers: dict[Pair, LayerAlignment], path: Path) -> Path:
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure

    from mmvicreg.evaluation.report.figures import PAPER, STYLE, cycle, label_axes, save

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.4, 2.8 * len(found)), layout="constrained", facecolor=PAPER)
        axes = figure.subplots(len(found), 3, squeeze=False)
        measured, chance = cycle(2)
        for (left, right, grid), (pair, each) in zip(axes, found.items(), strict=True):
            number = np.arange(1, len(each.correlations) + 1)
            left.plot(number, each.correlations, color=measured, linewidth=1.8, label="as they are")
            left.plot(
                number[: len(each.chance)], each.chance, color=chance, linewidth=1.8, label="shuffled, 95%"
            )
            above = f"{each.shared_dimensions} above chance"
            left.axvline(each.shared_dimensions, color=measured, linewidth=0.8, linestyle=":", label=above)
            left.set_xscale("log")
            left.xaxis.set_major_formatter("{x:,.0f}")
            left.legend(frameon=False, fontsize=8)
            label_axes(left, f"{pair[0]} and {pair[1]}: canonical correlations", "axis")
            sizes, scores = zip(*each.curve, strict=True)
            right.plot(sizes, [100 * score for score in scores], "o-", color=measured, linewidth=1.8)
            right.plot([sizes[-1], 2 * sizes[-1]], [100 * scores[-1], 100 * each.twice], ":", color=measured)
            right.set_xscale("log", base=2)
            ticks = (*sizes, 2 * sizes[-1])
            right.set_xticks(ticks, [f"{size:,}" for size in ticks])
            label_axes(right, "mean recall on held-out samples, %", "training pairs (dotted: expected)")
            _draw_layers(grid, pair, layers.get(pair))
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, path)


def _draw_layers(axes: Axes, pair: Pair, found: LayerAlignment | None) -> None:
    from mmvicreg.evaluation.report.figures import label_axes

    if found is None:
        axes.set_axis_off()
        return
    shown = axes.imshow(100 * found.shared, origin="lower", cmap="Blues", vmin=0, aspect="auto")
    label_axes(axes, "shared neighbours by layer, %", f"layer of {pair[1]}")
    axes.set_ylabel(f"layer of {pair[0]}")
    axes.grid(False)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(shown, ax=axes)
