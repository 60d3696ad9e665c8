"""What is searched about the methods of the comparison, and the settings of the first trial."""

from __future__ import annotations

from collections.abc import Mapping

from mmvicreg.studies.space import Choice, Space, Uniform, Value

Settings = Mapping[str, Value]
HEADS: Space = {
    "learning_rate": Uniform(1e-4, 1e-2, log=True),
    "weight_decay": Uniform(1e-4, 1.0, log=True),
    "batch": Choice((64, 128, 256, 512)),
    "steps": Choice((100, 200, 400)),
    "width": Choice((128, 256, 384)),
    "hidden": Choice((0, 512)),
    "image_map": Choice(("root", "unit")),
    "augment": Choice((True, False)),
}
MAPS: Space = {
    "image_map": Choice(("root", "unit")),
    "augment": Choice((True, False)),
    "concept_power": Choice((0.0, 0.5, 1.0)),
}
KERNELS: Space = {
    "landmarks": Choice((500, 1000, 1500)),
    "image_bandwidth": Uniform(0.3, 3.0, log=True),
    "text_bandwidth": Uniform(0.3, 3.0, log=True),
}
AXES: Space = {
    "image_ridge": Uniform(1e-3, 10.0, log=True),
    "text_ridge": Uniform(1e-3, 10.0, log=True),
    "axis_power": Uniform(0.0, 1.5),
    "width": Choice((128, 256, 384)),
}
RIDGES: Space = {
    "image_ridge": Uniform(1e-3, 10.0, log=True),
    "text_ridge": Uniform(1e-3, 10.0, log=True),
    "target_ridge": Uniform(1e-3, 10.0, log=True),
    "target_power": Uniform(0.0, 1.0),
}
TEMPERATURE: Space = {"temperature": Uniform(0.02, 0.2, log=True)}
VICREG: Space = {"variance": Uniform(5.0, 100.0, log=True), "covariance": Uniform(0.2, 30.0, log=True)}
INVARIANCE: Space = {"invariance": Uniform(0.3, 100.0, log=True)}
MIX: Space = {"infonce": Uniform(0.1, 10.0, log=True)}
"""Weight of InfoNCE beside another alignment."""
SIGREG: Space = {"sigreg": Uniform(1e-3, 1.0, log=True)}

START: Settings = {
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "batch": 256,
    "steps": 400,
    "width": 256,
    "hidden": 512,
    "image_map": "root",
    "augment": True,
    "concept_power": 0.0,
    "temperature": 0.07,
    "margin": 0.2,
    "variance": 25.0,
    "covariance": 1.0,
    "invariance": 1.0,
    "shape": 1.0,
    "sigreg": 0.05,
    "redundancy": 5e-3,
    "infonce": 1.0,
    "landmarks": 1000,
    "image_bandwidth": 1.0,
    "text_bandwidth": 1.0,
    "image_ridge": 0.1,
    "text_ridge": 0.1,
    "target_ridge": 0.1,
    "target_power": 0.5,
    "axis_power": 0.5,
}
"""The first trial of every method: the papers' defaults of a loss, round numbers for the rest."""
