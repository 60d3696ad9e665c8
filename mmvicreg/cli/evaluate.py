"""Options of the tools that act on runs, and what each does with them. Heavy imports come after the options."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmvicreg.cli.model_options import Model, ModelOptions, named_splits
from mmvicreg.cli.output import Output
from mmvicreg.errors import InvalidValueError, UnknownNameError, WrongOptionError

if TYPE_CHECKING:
    from mmvicreg.evaluation.scoring.comparison import Scoring
    from mmvicreg.runs.run import Run


@dataclass(frozen=True)
class EvaluateConfig(ModelOptions):
    """Score a run on held-out shards: recall both ways beside chance, geometry, modality gap."""

    run: Model
    """run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
    data: tuple[str, ...] = ()
    """held-out shards, each NAME=SHARDS or SHARDS, with {000..009} and * expanded"""
    benchmark: str = ""
    """in place of --data, a published test set in its own layout: NAME:FILE, with a name of karpathy, eccv, cxc,
    crossmodal, xtd, audiocaps, clotho, sugarcrepe, winoground"""
    media: str = ""
    """folder of the benchmark's pictures or recordings"""
    languages: tuple[str, ...] = ()
    """languages of crossmodal and xtd; all if empty"""
    out: str = ""
    """JSON file to write; empty for RUN/evaluation.json, or RUN/evaluation-BENCHMARK.json"""
    caption: str = ""
    """where captions are, a member suffix or json:FIELD; where the run's own are if empty (published models: txt)"""
    folds: int = 0
    """also score this many equal folds of the pictures, averaged (5 for the COCO 1K protocol); 0 for none"""
    group_images: bool = False
    """pictures of identical bytes are one item, which matches all its captions (for data with a sample a caption)"""
    scoring: Literal["cosine", "prediction", "correlation"] = "cosine"
    """compare by cosine; by what the run's predictors predict, both ways; along axes weighted by their correlation"""
    correlation_data: str = ""
    """training shards that the axes of --scoring correlation are estimated on"""
    hubness: Literal["none", "csls", "inverted_softmax"] = "none"
    """correct for items that are near every query; uses all queries of the split together"""
    widths: tuple[int, ...] = ()
    """also score the first so many columns of the embeddings (Matryoshka), such as 64 128 256"""

    def __post_init__(self) -> None:
        if not self.data and not self.benchmark:
            raise WrongOptionError(
                "no shards to evaluate on; give --data 'folder/test-*.tar' or --data NAME=SHARDS ..., or --benchmark"
            )
        named_splits(self.data)
        scoring_of(self)
        if self.folds and self.hubness != "none":
            raise WrongOptionError(
                "--folds are scored without correction for hubs; leave out --folds or --hubness"
            )
        if self.benchmark:
            check_benchmark(self)


def evaluate(config: EvaluateConfig) -> Output:
    """Score every split and write the JSON file. Under a launcher its processes share the work."""
    scoring = scoring_of(config)
    if config.benchmark:
        return evaluate_benchmark(config, scoring)
    splits = named_splits(config.data)
    from mmvicreg import distributed
    from mmvicreg.evaluation.evaluate import score_splits, scores_table, summarize_splits

    run = config.load(config.run)
    if config.caption:
        run = captions_at(run, config.caption)
    distributed.join_processes(cpu=config.device == "cpu")
    scores = score_splits(
        run,
        splits,
        device=config.device,
        threads=config.threads,
        folds=config.folds,
        group_images=config.group_images,
        scoring=scoring,
    )
    if distributed.rank() > 0:
        return Output({}, ())
    path = Path(config.out) if config.out else run.folder / "evaluation.json"
    summary = summarize_splits(run, scores, source="evaluate", scoring=scoring)
    summary.write(path)
    return Output({"written": str(path), **asdict(summary)}, (scores_table(scores), f"written: {path}"))


def evaluate_benchmark(config: EvaluateConfig, scoring: Scoring) -> Output:
    """Score a published benchmark and write the JSON file."""
    import torch

    from mmvicreg.evaluation.benchmarks.benchmark import read_benchmark, score_benchmark
    from mmvicreg.evaluation.benchmarks.output import benchmark_tables, summarize_benchmark
    from mmvicreg.evaluation.scoring.comparison import comparison

    name, parts = read_benchmark(config.benchmark, config.media, languages=config.languages)
    run = config.load(config.run)
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    scores = score_benchmark(name, parts, comparison(run, scoring, device=device, threads=config.threads))
    path = Path(config.out) if config.out else run.folder / f"evaluation-{name}.json"
    summary = summarize_benchmark(run, scores, settings={**scoring.to_json(), "benchmark": config.benchmark})
    summary.write(path)
    data = {"written": str(path), **asdict(summary)}
    return Output(data, (*benchmark_tables(scores), f"written: {path}"))


def check_benchmark(config: EvaluateConfig) -> None:
    """Raise WrongOptionError for a benchmark of another name, and options that it has no use for."""
    from mmvicreg.evaluation.benchmarks.benchmark import name_and_file

    wrong = [name for name in ("data", "folds", "group_images", "caption") if getattr(config, name)]
    if wrong:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise WrongOptionError(f"--benchmark brings its own data and protocol; leave out {options}")
    try:
        name_and_file(config.benchmark)
    except UnknownNameError as error:
        raise WrongOptionError(str(error)) from None


def scoring_of(config: EvaluateConfig) -> Scoring:
    """The scoring that the options describe. Raises WrongOptionError where they do not go together."""
    from mmvicreg.evaluation.scoring.comparison import Scoring

    try:
        return Scoring(config.scoring, config.hubness, config.widths, config.correlation_data)
    except InvalidValueError as error:
        raise WrongOptionError(str(error)) from None


def captions_at(run: Run, caption: str) -> Run:
    """The run with every text branch reading its captions there."""
    from dataclasses import replace

    from mmvicreg.modalities.text import TextModality

    moved = {
        name: replace(m, members=(caption,))
        for name, m in run.modalities.items()
        if isinstance(m, TextModality)
    }
    if not moved:
        raise InvalidValueError(
            f"--caption {caption}: this run has no text branch; it has {', '.join(run.modalities)}"
        )
    return replace(run, modalities={**run.modalities, **moved})
