"""CLIP_benchmark on runs, unchanged: its own command line with one more model type.

    python -m mmvicreg.interop.clip_benchmark eval --model_type mmvicreg --model RUN --pretrained none ...

``--model`` is a run directory or an exported folder; ``--pretrained predictor`` scores what its images predict of the
texts, for runs trained with predictors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmvicreg.interop.loading import load


def load_run(model_name: str, pretrained: str = "", cache_dir: str | None = None, device: str = "cpu") -> Any:
    """CLIP_benchmark's loader: (model, transform, tokenizer)."""
    model, transform, tokenizer = load(model_name).to_open_clip(predicted=pretrained == "predictor")
    return model.to(device), transform, tokenizer


def accuracy(output: Tensor, target: Tensor, topk: Sequence[int] = (1,)) -> list[float]:
    """Fraction of rows whose class is among the k best. CLIP_benchmark 1.6 makes a number of an array of one element,
    which NumPy refuses from 2.4 on."""
    best = output.topk(max(topk), dim=1).indices == target[:, None]
    return [float(best[:, :k].any(1).double().mean()) for k in topk]


def main() -> None:
    """Its command line, with our loader among its model types."""
    from clip_benchmark import cli, models
    from clip_benchmark.metrics import linear_probe, zeroshot_classification

    zeroshot_classification.accuracy = linear_probe.accuracy = accuracy
    models.TYPE2FUNC["mmvicreg"] = load_run
    models.MODEL_TYPES.append("mmvicreg")
    cli.main()


if __name__ == "__main__":
    main()
