"""The training configuration: frozen dataclasses of plain fields, which are command line, help and saved JSON."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.modalities.modality import modalities_of
from mmvicreg.runs.options import GuardConfig, OptimizerConfig, StreamConfig, ValidationConfig
from mmvicreg.shards.locations import redact

BatchSize = int | Literal["auto"]
"""A number of samples, or "auto" for the largest power of two that fits the memory."""

Precision = Literal["fp32", "bf16", "fp16"]
"""What the encoders compute in."""

CLASS = "class"
"""Key under which a saved dataclass names its class, as ``module:Name``."""


@dataclass(frozen=True)
class TrainConfig:
    """The base training configuration; a recipe adds its modalities as fields."""

    train: str = ""
    """shards to train on: a path in which {000..099} and * are expanded"""
    out: str = "runs/run"
    """run directory"""
    init: str = ""
    """run directory whose weights the branches start from (trained or solved), with its heads where it was solved;
    empty for the modalities' own initial weights"""
    batch_size: BatchSize = 256
    """global batch: samples of a step over all processes; auto takes the largest power of two that fits"""
    gradient_cache_size: int = 0
    """gradient caching: samples that each process encodes at a time; 0 encodes the whole batch at once. The gradient
    is that of the whole batch either way: encoders run twice, objectives see every row"""
    epochs: float = 10.0
    """passes over the data"""
    seed: int = 0
    """seed of the initial weights, the order of the data, augmentation and random directions"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """optimizer and learning-rate schedule"""
    precision: Precision = "fp32"
    """precision of the encoders; statistics of objectives are fp32 in any case"""
    activation_checkpointing: bool = False
    """recompute the activations inside the blocks of the encoders in the backward pass instead of keeping them"""
    compile: bool = False
    """torch.compile the encoders"""
    parallel: Literal["ddp", "fsdp", "column_parallel"] = "ddp"
    """several processes: DDP, FSDP2, or DDP whose projectors have a column-parallel last layer (each process owns some
    of its outputs)"""
    ema_decay: float = 0.0
    """decay of the moving average of the weights, which is kept beside them; 0 for none"""
    order: Literal["lanes", "global"] = "lanes"
    """order of samples: lanes and windows (reads neighbouring bytes), or one permutation of all samples"""
    feature_cache: str = ""
    """folder for the representations of frozen encoders, to be shared by runs one after another (their augmented views
    are then the same for every seed); empty keeps them in the run directory"""
    threads: int = 2
    """threads of each process that read and decode"""
    stream: StreamConfig = field(default_factory=StreamConfig)
    """mixtures, excluded samples, remote shards, rejected samples"""
    log_every: int = 10
    """steps between lines of the log"""
    checkpoint_every: int = 1000
    """steps between checkpoints; one is written at the end in any case"""
    checkpoint_minutes: float = 0.0
    """minutes between checkpoints, besides those by steps; 0 for none"""
    keep_checkpoints: int = 2
    """how many of the newest checkpoints are kept"""
    best_metric: str = ""
    """a validation score, such as image_to_text/recall_at_1 (or image_to_text_by_predictor/...): a checkpoint follows
    every validation, and the one with the highest score is kept"""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """checks while training, and what happens when one fails"""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """scores on held-out samples during training"""
    trackers: tuple[str, ...] = ()
    """Accelerate's trackers in addition to the log: tensorboard, wandb, trackio, ..."""
    peak_tflops: float = 0.0
    """peak of one device in this precision, for model FLOPs utilization (MFU); 0 looks known GPUs up"""
    resume: Literal["auto", "never", "restart"] = "auto"
    """if the run directory holds a run: continue it, refuse, or move it aside and start again"""
    allow_change: tuple[str, ...] = ()
    """fields that may differ from those of the run that is continued, such as epochs or optimizer.learning_rate"""
    cpu: bool = False
    """train on the CPU even if there is a GPU"""

    def views(self) -> dict[str, str]:
        """Each view's modality; a recipe overrides this for several views of one modality."""
        return {name: name for name in modalities_of(self)}

    def readers(self) -> dict[str, str]:
        """The modality that reads each view: its own, unless a recipe overrides this, as for the small crops of
        multi-crop, which a modality of another crop size reads and the same branch encodes."""
        return self.views()


RESUMABLE = frozenset(
    "out threads log_every checkpoint_every checkpoint_minutes keep_checkpoints best_metric resume allow_change cpu "
    "validation trackers peak_tflops stream.workers stream.wait_warning stream.shard_cache "
    "stream.shard_cache_gigabytes stream.max_rejected_fraction "
    "guard.absent_after guard.stall_warning guard.stall_stop guard.process_group_timeout guard.compare_every".split()
)
"""Fields that may differ when a run is continued: they change neither the data nor the mathematics."""


def to_json(value: Any) -> Any:
    """A dataclass as JSON values, each nested dataclass with the import path of its class.

    URLs lose their passwords and query values: what is saved, logged or published holds no secrets.
    """
    if is_dataclass(value) and not isinstance(value, type):
        plain = {item.name: to_json(getattr(value, item.name)) for item in fields(value)}
        return {CLASS: f"{type(value).__module__}:{type(value).__qualname__}", **plain}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, int | float | bool):
        return value
    raise TypeError(f"a configuration holds plain values; found {value!r} of type {type(value).__name__}")


def from_json(value: Any, *, recipe: types.ModuleType | None = None) -> Any:
    """The dataclass that :func:`to_json` saved.

    Only classes of this package are imported, unless ``recipe`` is given: the module of the recipe that made
    the run, for classes defined there (see :func:`import_recipe`). Raises ValueError for any other class.
    """
    if isinstance(value, list):
        return tuple(from_json(item, recipe=recipe) for item in value)
    if not isinstance(value, dict):
        return value
    if CLASS not in value:
        return {key: from_json(item, recipe=recipe) for key, item in value.items()}
    cls = _find_class(value[CLASS], recipe)
    known = {item.name for item in fields(cls)}
    extra = sorted(set(value) - known - {CLASS})
    if extra:
        raise InvalidValueError(
            f"{value[CLASS]} has no field {extra}; it has {sorted(known)}. Was it saved by a newer version?"
        )
    plain = {key: from_json(item, recipe=recipe) for key, item in value.items() if key != CLASS}
    return cls(**_checked(cls, plain))


def _find_class(path: str, recipe: types.ModuleType | None) -> Any:
    module_name, _, name = path.partition(":")
    if module_name.partition(".")[0] == "mmvicreg":
        module: Any = importlib.import_module(module_name)
    elif recipe is not None:
        module = recipe
    else:
        raise InvalidValueError(
            f"the saved configuration uses {path}, which this package does not have; name the recipe file that "
            "defines it (load(run, recipe='recipes/mine.py'), or --recipe): it will be executed"
        )
    cls = vars(module).get(name)
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise InvalidValueError(
            f"{module.__name__} defines no dataclass {name!r}, which the saved configuration uses"
        )
    return cls


def _checked(cls: Any, plain: dict[str, Any]) -> dict[str, Any]:
    """Literal fields hold one of their choices: saved files come from strangers and from older versions."""
    hints = get_type_hints(cls, vars(sys.modules[cls.__module__]))
    for name, value in plain.items():
        if get_origin(hints.get(name)) is Literal and value not in get_args(hints[name]):
            raise InvalidValueError(
                f"{cls.__name__}.{name} is {value!r}; expected one of {get_args(hints[name])}"
            )
    return plain


def import_recipe(path: str | Path) -> types.ModuleType:
    """Execute a recipe file as a module, without running its main part."""
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"recipe {str(path)!r}: no such file")
    name = f"recipe_{file.stem}"  # not the file's own name: that may be a module of this process
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def differences(saved: Any, given: Any, *, allowed: Iterable[str] = ()) -> list[str]:
    """Lines ``field: saved -> given`` for every field that a continued run may not change.

    ``allowed`` names further fields that may differ, whole or nested: "optimizer", "optimizer.max_gradient_norm".
    """
    before, after = flatten(saved), flatten(given)
    free = RESUMABLE | set(allowed)
    return [
        f"{name}: {before.get(name, '(none)')!r} -> {after.get(name, '(none)')!r}"
        for name in {**before, **after}
        if before.get(name) != after.get(name) and not free & set(_parents(name))
    ]


def _parents(name: str) -> list[str]:
    """ "a.b.c" to ["a", "a.b", "a.b.c"]."""
    parts = name.split(".")
    return [".".join(parts[:number]) for number in range(1, len(parts) + 1)]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Saved values by dotted path: {"optimizer": {"max_gradient_norm": 1}} to {"optimizer.max_gradient_norm": 1}."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        # A recipe run as a script and the same recipe imported are one class.
        plain = item.rpartition(":")[2] if key == CLASS and isinstance(item, str) else item
        flat.update(flatten(plain, f"{prefix}.{key}" if prefix else key))
    return flat
