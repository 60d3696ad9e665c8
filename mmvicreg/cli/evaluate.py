"""Options of the tools that act on runs, and what each does with them. Heavy imports come after the options."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmvicreg.cli.model_options import Model, ModelOptions, named_splits
from mmvicreg.cli.output import Output
from mmvicreg.errors import InvalidValueError, WrongOptionError

if TYPE_CHECKING:
    from mmvicreg.runs.run import Run


@dataclass(frozen=True)
class EvaluateConfig(ModelOptions):
    """Score a run on held-out shards: recall both ways beside chance, geometry, modality gap."""

    run: Model
    """run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
    data: tuple[str, ...]
    """held-out shards, each NAME=SHARDS or SHARDS, with {000..009} and * expanded"""
    out: str = ""
    """JSON file to write; empty for RUN/evaluation.json"""
    caption: str = ""
    """where captions are, a member suffix or json:FIELD; where the run's own are if empty (published models: txt)"""
    folds: int = 0
    """also score this many equal folds of the pictures, averaged (5 for the COCO 1K protocol); 0 for none"""
    group_images: bool = False
    """pictures of identical bytes are one item, which matches all its captions (for data with a sample a caption)"""

    def __post_init__(self) -> None:
        if not self.data:
            raise WrongOptionError(
                "no shards to evaluate on; give --data 'folder/test-*.tar' or --data NAME=SHARDS ..."
            )
        named_splits(self.data)


def evaluate(config: EvaluateConfig) -> Output:
    """Score every split and write the JSON file. Under a launcher its processes share the work."""
    splits = named_splits(config.data)
    from mmvicreg import distributed
    from mmvicreg.evaluation.evaluate import score_splits, scores_table, summarize_splits

    run = config.load(config.run)
    if config.caption:
        run = captions_at(run, config.caption)
    _join_group(config.device)
    scores = score_splits(
        run,
        splits,
        device=config.device,
        threads=config.threads,
        folds=config.folds,
        group_images=config.group_images,
    )
    if distributed.rank() > 0:
        return Output({}, ())
    path = Path(config.out) if config.out else run.folder / "evaluation.json"
    summary = summarize_splits(run, scores, source="evaluate")
    summary.write(path)
    return Output({"written": str(path), **asdict(summary)}, (scores_table(scores), f"written: {path}"))


def _join_group(device: str) -> None:
    """The process group of ``accelerate launch`` or torchrun, where one of them started this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=device == "cpu" or not torch.cuda.is_available())


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
