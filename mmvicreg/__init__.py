"""Train encoders of several modalities together without contrastive negatives.

Names are imported on first use, so that ``import mmvicreg`` and ``--help`` stay fast.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Item": "mmvicreg.stream.reader",
    "Reader": "mmvicreg.stream.reader",
    "Sample": "mmvicreg.stream.reader",
    "BadSampleError": "mmvicreg.stream.reader",
    "open_index": "mmvicreg.shards.index",
    "ShardIndex": "mmvicreg.shards.index",
    "Plan": "mmvicreg.plan.plan",
    "Cursor": "mmvicreg.plan.plan",
    "Mixture": "mmvicreg.plan.mixture",
    "with_members": "mmvicreg.shards.subset",
    "Batch": "mmvicreg.stream.stream",
    "evaluation_items": "mmvicreg.stream.evaluation_items",
    "Branch": "mmvicreg.branches.model",
    "Model": "mmvicreg.branches.model",
    "projector": "mmvicreg.branches.model",
    "Modality": "mmvicreg.modalities.modality",
    "ImageModality": "mmvicreg.modalities.image",
    "TextModality": "mmvicreg.modalities.text",
    "AudioModality": "mmvicreg.modalities.audio",
    "TableModality": "mmvicreg.modalities.table",
    "VectorModality": "mmvicreg.modalities.vector",
    "SeriesModality": "mmvicreg.modalities.series",
    "RasterModality": "mmvicreg.modalities.raster",
    "OptimizerConfig": "mmvicreg.runs.options",
    "GuardConfig": "mmvicreg.runs.options",
    "StreamConfig": "mmvicreg.runs.options",
    "ValidationConfig": "mmvicreg.runs.options",
    "TrainConfig": "mmvicreg.runs.config",
    "Run": "mmvicreg.runs.run",
    "load": "mmvicreg.runs.run",
    "make_vocabulary": "mmvicreg.modalities.vocabulary",
    "train": "mmvicreg.training.train",
    "NonFiniteLossError": "mmvicreg.training.monitoring.guards",
    "CollapseError": "mmvicreg.training.monitoring.guards",
    "Preempted": "mmvicreg.training.monitoring.preemption",
    "solve": "mmvicreg.solvers.solve",
    "solve_run": "mmvicreg.solvers.solve",
    "SolveConfig": "mmvicreg.solvers.config",
    "Grid": "mmvicreg.solvers.grid",
    "FeatureMap": "mmvicreg.solvers.feature_maps",
    "PairingConfig": "mmvicreg.solvers.pairing",
    "Whitening": "mmvicreg.solvers.whitening",
    "CCA": "mmvicreg.solvers.canonical",
    "PLS": "mmvicreg.solvers.canonical",
    "Procrustes": "mmvicreg.solvers.canonical",
    "Ridge": "mmvicreg.solvers.ridge",
    "MaxVar": "mmvicreg.solvers.maxvar",
    "compare_runs": "mmvicreg.cli.compare",
    "evaluate": "mmvicreg.evaluation.evaluate",
    "Alignment": "mmvicreg.objectives.alignments",
    "BarlowTwins": "mmvicreg.objectives.alignments",
    "Cosine": "mmvicreg.objectives.alignments",
    "MaxHinge": "mmvicreg.objectives.alignments",
    "MomentumQueue": "mmvicreg.objectives.alignments",
    "Prediction": "mmvicreg.objectives.alignments",
    "Prototypes": "mmvicreg.objectives.alignments",
    "Sigmoid": "mmvicreg.objectives.alignments",
    "SumAlignment": "mmvicreg.objectives.alignments",
    "WhitenedMSE": "mmvicreg.objectives.alignments",
    "VICRegCoefficients": "mmvicreg.objectives.regularizers",
    "HSIC": "mmvicreg.objectives.regularizers",
    "SIGReg": "mmvicreg.objectives.regularizers",
    "SlicedWasserstein": "mmvicreg.objectives.regularizers",
    "VISReg": "mmvicreg.objectives.regularizers",
    "InfoNCE": "mmvicreg.objectives.alignments",
    "Invariance": "mmvicreg.objectives.alignments",
    "Objective": "mmvicreg.objectives.objective",
    "star_pairs": "mmvicreg.objectives.objective",
    "Regularizer": "mmvicreg.objectives.regularizers",
    "LossTerms": "mmvicreg.objectives.objective",
    "VICReg": "mmvicreg.objectives.regularizers",
    "Summary": "mmvicreg.evaluation.summary",
    "Positives": "mmvicreg.evaluation.positives",
    "RetrievalScores": "mmvicreg.evaluation.retrieval",
    "retrieval_metrics": "mmvicreg.evaluation.retrieval",
    "cross_modal_metrics": "mmvicreg.evaluation.retrieval",
    "from_pretrained": "mmvicreg.interop.hub",
    "save_pretrained": "mmvicreg.interop.hub",
    "push_to_hub": "mmvicreg.interop.hub",
    "load_subject": "mmvicreg.interop.pretrained",
    "to_open_clip": "mmvicreg.interop.open_clip",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"mmvicreg has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
