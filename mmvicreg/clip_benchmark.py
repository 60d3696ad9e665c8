"""CLIP_benchmark on runs, unchanged: its own command line with one more model type.

    python -m mmvicreg.clip_benchmark eval --model_type mmvicreg --model RUN --pretrained none ...

``--model`` is a run directory or an exported folder; ``--pretrained predictor`` scores what its images predict of the
texts, for runs trained with predictors.
"""

from __future__ import annotations

from typing import Any

from mmvicreg.baselines import load_subject
from mmvicreg.doors import clip_face


def load_run(model_name: str, pretrained: str = "", cache_dir: str | None = None, device: str = "cpu") -> Any:
    """CLIP_benchmark's loader: (model, transform, tokenizer)."""
    model, transform, tokenizer = clip_face(load_subject(model_name), predicted=pretrained == "predictor")
    return model.to(device), transform, tokenizer


def main() -> None:
    """Its command line, with our loader among its model types."""
    from clip_benchmark import cli, models

    models.TYPE2FUNC["mmvicreg"] = load_run
    models.MODEL_TYPES.append("mmvicreg")
    cli.main()


if __name__ == "__main__":
    main()
