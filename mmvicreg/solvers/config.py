"""The configuration of a solved run: plain fields, which are its command line, its help and its saved JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mmvicreg.modalities.modality import modalities_of
from mmvicreg.solvers.canonical import CCA, PLS, Procrustes
from mmvicreg.solvers.grid import Grid
from mmvicreg.solvers.maxvar import MaxVar
from mmvicreg.solvers.ridge import Ridge
from mmvicreg.solvers.statistics.feature_maps import FeatureMap
from mmvicreg.solvers.statistics.pairing import PairingConfig

AnySolver = CCA | PLS | Procrustes | Ridge | MaxVar


@dataclass(frozen=True)
class SolveConfig:
    """The base configuration of a solved run; a recipe adds its modalities as fields."""

    train: str = ""
    """shards to solve on: a path in which {000..099} and * are expanded"""
    validation: str = ""
    """held-out shards that choose among the settings of ``grid``; empty takes the solver's settings as they are"""
    out: str = "runs/solved"
    """run directory"""
    solver: AnySolver = field(default_factory=CCA)
    """how the heads are solved"""
    features: dict[str, FeatureMap] = field(default_factory=dict)
    """feature map of each branch; the identity for branches that are not named"""
    grid: Grid = field(default_factory=Grid)
    """settings to choose among"""
    pairing: PairingConfig = field(default_factory=PairingConfig)
    """what of the data enters the moments"""
    augmented_views: dict[str, int] = field(default_factory=dict)
    """branch and how many augmented views (crops, captions) of each sample enter beside its evaluation items"""
    pairs: tuple[tuple[str, str], ...] = ()
    """pairs of branches that are aligned; empty for all"""
    seed: int = 0
    """seed of landmarks, random features and augmented views"""
    feature_cache: str = ""
    """folder for the representations, to be shared by runs; empty keeps them in the run directory"""
    threads: int = 2
    """threads of each process that read and decode"""
    resume: Literal["auto", "never", "restart"] = "auto"
    """if the run directory holds a run: continue it, refuse, or move it aside and start again"""
    allow_change: tuple[str, ...] = ()
    """fields that may differ from those of the run that is continued"""
    cpu: bool = False
    """solve on the CPU even if there is a GPU"""

    def views(self) -> dict[str, str]:
        """Each view's modality: one view a modality."""
        return {name: name for name in modalities_of(self)}
