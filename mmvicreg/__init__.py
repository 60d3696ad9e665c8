"""Train encoders of several modalities together without contrastive negatives.

Names are imported on first use, so that ``import mmvicreg`` and ``--help`` stay fast.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Item": "mmvicreg.reader",
    "Reader": "mmvicreg.reader",
    "Sample": "mmvicreg.reader",
    "BadSample": "mmvicreg.reader",
    "open_index": "mmvicreg.shards",
    "Index": "mmvicreg.shards",
    "Plan": "mmvicreg.plan",
    "Cursor": "mmvicreg.plan",
    "Mixture": "mmvicreg.mixture",
    "having": "mmvicreg.subset",
    "Batch": "mmvicreg.stream",
    "evaluation_items": "mmvicreg.items",
    "Branch": "mmvicreg.model",
    "Model": "mmvicreg.model",
    "projector": "mmvicreg.model",
    "Modality": "mmvicreg.modality",
    "ImageModality": "mmvicreg.modalities.image",
    "TextModality": "mmvicreg.modalities.text",
    "AudioModality": "mmvicreg.modalities.audio",
    "TableModality": "mmvicreg.modalities.table",
    "VectorModality": "mmvicreg.modalities.vector",
    "SeriesModality": "mmvicreg.modalities.series",
    "RasterModality": "mmvicreg.modalities.raster",
    "OptimizerConfig": "mmvicreg.options",
    "GuardConfig": "mmvicreg.options",
    "StreamConfig": "mmvicreg.options",
    "ProbeConfig": "mmvicreg.options",
    "TrainConfig": "mmvicreg.config",
    "Run": "mmvicreg.runs",
    "load": "mmvicreg.runs",
    "make_vocabulary": "mmvicreg.modalities.vocabulary",
    "run": "mmvicreg.train",
    "NonFiniteLoss": "mmvicreg.guards",
    "Collapsed": "mmvicreg.guards",
    "Preempted": "mmvicreg.preemption",
    "compare_runs": "mmvicreg.compare",
    "score_run": "mmvicreg.scoring",
    "Alignment": "mmvicreg.alignments",
    "BarlowTwins": "mmvicreg.alignments",
    "Cosine": "mmvicreg.alignments",
    "MaxHinge": "mmvicreg.alignments",
    "MomentumQueue": "mmvicreg.alignments",
    "Prediction": "mmvicreg.alignments",
    "Prototypes": "mmvicreg.alignments",
    "Sigmoid": "mmvicreg.alignments",
    "Sum": "mmvicreg.alignments",
    "WhitenedMSE": "mmvicreg.alignments",
    "Coefficients": "mmvicreg.regularizers",
    "HSIC": "mmvicreg.regularizers",
    "SIGReg": "mmvicreg.regularizers",
    "SlicedWasserstein": "mmvicreg.regularizers",
    "VISReg": "mmvicreg.regularizers",
    "InfoNCE": "mmvicreg.alignments",
    "Invariance": "mmvicreg.alignments",
    "Objective": "mmvicreg.objective",
    "star": "mmvicreg.objective",
    "Regularizer": "mmvicreg.regularizers",
    "Terms": "mmvicreg.objective",
    "VarianceCovariance": "mmvicreg.regularizers",
    "Positives": "mmvicreg.evaluate.positives",
    "RetrievalScores": "mmvicreg.evaluate.retrieval",
    "retrieval": "mmvicreg.evaluate.retrieval",
    "retrieval_both": "mmvicreg.evaluate.retrieval",
    "from_pretrained": "mmvicreg.export",
    "save_pretrained": "mmvicreg.export",
    "push_to_hub": "mmvicreg.export",
    "load_subject": "mmvicreg.baselines",
    "clip_face": "mmvicreg.doors",
    "Report": "mmvicreg.report",
    "write_report": "mmvicreg.report",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"mmvicreg has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
