import dataclasses
from dataclasses import dataclass

import pytest

from mmvicreg.modalities.image import ImageModality
from mmvicreg.modalities.text import TextModality
from mmvicreg.runs.config import OptimizerConfig, TrainConfig, differences, from_json, to_json


@dataclass(frozen=True)
class Config(TrainConfig):
    image: ImageModality = ImageModality(projector=(8, 4), crop_scale=(0.5, 1.0))
    text: TextModality = TextModality(encoder="gru", languages=("en", "fr"))


def test_a_modality_survives_json() -> None:
    for value in (Config().image, Config().text, OptimizerConfig(name="lars")):
        assert from_json(to_json(value)) == value


def test_views_are_the_modalities() -> None:
    assert Config().views() == {"image": "image", "text": "text"}


def test_differences_name_the_field_and_both_values() -> None:
    other = dataclasses.replace(Config(), batch_size=512, image=ImageModality(projector=(16, 4)), threads=9)
    found = differences(to_json(Config()), to_json(other))
    assert "batch_size: 256 -> 512" in found
    assert any(line.startswith("image.projector: [8, 4] -> [16, 4]") for line in found)
    assert not any("threads" in line for line in found)


def test_a_strangers_class_is_refused() -> None:
    for path in (
        "os:system",
        "subprocess:Popen",
        "mmvicreg.runs.config:to_json",
        "mmvicreg.runs.run:subprocess",
    ):
        with pytest.raises(ValueError, match="recipe|no dataclass"):
            from_json({"class": path})


def test_a_field_of_another_version_is_named() -> None:
    saved = to_json(OptimizerConfig()) | {"momentum_9": 1}
    with pytest.raises(ValueError, match="momentum_9"):
        from_json(saved)


def test_a_choice_that_is_none_is_named() -> None:
    saved = to_json(OptimizerConfig()) | {"name": "sgd"}
    with pytest.raises(ValueError, match="'sgd'.*adamw"):
        from_json(saved)
