"""``mmvicreg new``: write a recipe for images and texts, a Python file to run and to edit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated

import tyro

from mmvicreg.cli.output import Output
from mmvicreg.errors import InvalidValueError, MissingFileError, WrongOptionError
from mmvicreg.files import write_text
from mmvicreg.shards.index import open_index

RECIPE = Template('''"""Images and their texts in one space: a projector over a frozen encoder for each.

    python $file
    python $file --help
    accelerate launch --multi_gpu $file

Written by mmvicreg new, to be edited: towers, objective, and what is scored at the end.
"""

from dataclasses import dataclass, replace

import mmvicreg as mm


@dataclass(frozen=True)
class Config(mm.TrainConfig):
    """Every field can be set from the command line."""

    train: str = $train
    validation: mm.ValidationConfig = mm.ValidationConfig(data=$validation)
    out: str = $out
    epochs: float = 30.0
    batch_size: mm.BatchSize = 256
    optimizer: mm.OptimizerConfig = mm.OptimizerConfig(learning_rate=1e-3, weight_decay=1e-2)
    image: mm.ImageModality = replace(
        mm.EFFICIENTNET_LITE0,  # or mm.ImageModality(encoder="timm/resnet50", weights="hub")
        members=$image,
        projector=(1024, 1024),
        dropout=0.1,
        precomputed_views=2,
    )
    text: mm.TextModality = replace(
        mm.MINILM,  # or mm.TextModality(encoder="open_clip/ViT-B-32", weights="openai")
        members=$text,
        length=64,
        projector=(1024, 1024),
        dropout=0.1,
        precomputed_views=1,
    )


def objective(config: Config) -> mm.Objective:
    """Invariance pulls matching embeddings together; VICReg keeps those of each branch spread out."""
    regularizer = mm.VICReg(variance=25.0, covariance=1.0)
    return mm.Objective(mm.Invariance(25.0), {"image": regularizer, "text": regularizer})


if __name__ == "__main__":
    config = mm.parse_command_line(Config)
    run = mm.train(config, objective)
    mm.evaluate(run, {"validation": config.validation.data})  # scores, and the report in RUN/report.html
''')


@dataclass(frozen=True)
class NewConfig:
    """Write a recipe that trains on images and texts, scores held-out pairs and writes the report."""

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]
    """Python file to write; it must not be there yet"""
    train: str
    """shards to train on, with {000..099} and * expanded"""
    validation: str
    """held-out shards, which are scored during training and at its end"""
    image: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    """member suffixes that hold the image"""
    text: tuple[str, ...] = ("txt",)
    """where captions are: a member suffix, or json:FIELD such as json:captions"""

    def __post_init__(self) -> None:
        if Path(self.recipe).suffix != ".py":
            raise WrongOptionError(f"{self.recipe}: a recipe is a Python file; give a name that ends in .py")


def new(config: NewConfig) -> Output:
    """Write the recipe; say what to type next.

    Raises InvalidValueError where the file is there already, or where the shards hold no such members.
    """
    path = Path(config.recipe)
    if path.exists():
        raise InvalidValueError(f"{path} is there already, and is not overwritten; give another name")
    notices = [
        notice
        for option in ("train", "validation")
        for notice in _check(option, vars(config)[option], config)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, recipe_text(config))
    data = {"written": str(path), "notices": notices}
    return Output(
        data, (f"written: {path}", *notices, "next:", f"  python {path} --help", f"  python {path}")
    )


def recipe_text(config: NewConfig) -> str:
    """The recipe as Python source."""
    path = Path(config.recipe)
    values = {"train": config.train, "validation": config.validation, "out": f"runs/{path.stem}"}
    written = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    members = {"image": config.image, "text": config.text}
    written |= {name: _tuple(value) for name, value in members.items()}
    return RECIPE.substitute(file=path.name, **written)


def _tuple(values: tuple[str, ...]) -> str:
    quoted = [json.dumps(value, ensure_ascii=False) for value in values]
    return f"({', '.join(quoted)}{',' * (len(quoted) == 1)})"


def _check(option: str, shards: str, config: NewConfig) -> list[str]:
    """Refuse members that the shards do not hold; a notice where there are no such shards on this machine yet."""
    try:
        index = open_index(shards)
    except MissingFileError as error:
        return [f"--{option}: {error}; make them before the recipe is run"]
    for name, members in (("image", config.image), ("text", config.text)):
        suffixes = {place.partition(":")[0] for place in members}
        if not suffixes & set(index.suffixes):
            raise InvalidValueError(
                f"--{name} {' '.join(members)}: the samples of --{option} {shards} have no such member; they have "
                f"{', '.join(index.suffixes)}: choose among those"
            )
    return []
