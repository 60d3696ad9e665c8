"""What makes the closed form retrieve: each part removed from the chosen solution, and added alone to the plainest.

    python studies/pair_ablation.py                      # regimes pairs-1000, three divisions
    python studies/pair_ablation.py --size all

It starts from the settings of ``two_way_kernel_ridge`` that ``studies/pairs.py choose`` wrote down and changes one
part at a time, with no search after the change. Scores are of validation pairs: the test pairs are not read. About ten
minutes of one core at 1,000 pairs. Written to ``studies/recorded/ablation-SIZE.json``, shown by ``studies/results.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Literal

import tyro
from pair_methods import pairs_of, ridge
from pair_scores import score_model
from pair_solutions import solve_heads

from mmvicreg.errors import show_messages_alone
from mmvicreg.files import write_text
from mmvicreg.progress import bar
from mmvicreg.studies.folder import StudyFolder
from mmvicreg.studies.space import Value

RECORDED = Path(__file__).parent / "recorded"
METHOD = "two_way_kernel_ridge"
PARTS: Mapping[str, Mapping[str, Value]] = {
    "Gaussian kernel of each branch": {"kernel": False},
    "whitened targets": {"target_power": 0.0},
    "regression both ways": {"both_ways": False},
    "more crops and captions": {"augment": False},
    "signed square root of image features": {"image_map": "unit"},
    "concepts weighted alike": {"concept_power": 0.0},
}
"""Each part by the settings that leave it out."""


@dataclass(frozen=True)
class Config:
    """Which chosen solution, on how many pairs."""

    choices: Path = RECORDED / "pairs"
    """folder with choices.json"""
    size: Literal["1000", "all"] = "1000"
    """training pairs"""
    divisions: int = 3
    """divisions by concept"""
    out: Path | None = None
    """file to write; studies/recorded/ablation-SIZE.json if absent"""


def variants(
    whole: Mapping[str, Value], parts: Mapping[str, Mapping[str, Value]]
) -> dict[str, dict[str, Value]]:
    """Settings by name: the whole, the whole without each part, the plainest, the plainest with each part.

    ``parts``: each by the settings that leave it out.
    """
    plain = dict(whole)
    for left_out in parts.values():
        plain.update(left_out)
    found = {"everything": dict(whole), "nothing": plain}
    for name, left_out in parts.items():
        found[f"without: {name}"] = {**whole, **left_out}
        found[f"only: {name}"] = {**plain, **{key: whole[key] for key in left_out}}
    return found


def validation_score(settings: Mapping[str, Value], regime: str) -> float:
    """Mean recall of validation pairs, a fraction."""
    division = pairs_of(regime, 0)
    solver = ridge(settings, "both" if settings["both_ways"] else "first")
    heads = solve_heads(division, settings, solver, kernel=bool(settings["kernel"]), seed=0)
    return score_model(heads, division.validation, division.train).mean_recall


def main(config: Config) -> None:
    """Solve, score, write."""
    choices = StudyFolder(config.choices).read_choices()
    regimes = [f"pairs-{config.size}-split-{split}" for split in range(config.divisions)]
    regimes = [regime for regime in regimes if f"{METHOD}/{regime}" in choices]
    found: dict[str, list[float]] = {}
    with bar("ablation", len(regimes) * (2 + 2 * len(PARTS))) as advance:
        for regime in regimes:
            whole = {"kernel": True, "both_ways": True, **choices[f"{METHOD}/{regime}"]["settings"]}
            for name, settings in variants(whole, PARTS).items():
                found.setdefault(name, []).append(validation_score(settings, regime))
                advance(1, name)
    out = config.out or RECORDED / f"ablation-{config.size}.json"
    write_text(out, json.dumps({"regimes": regimes, "scores": found}, indent=1) + "\n")
    print(json.dumps({name: round(mean(values), 4) for name, values in found.items()}))


if __name__ == "__main__":
    show_messages_alone()
    main(tyro.cli(Config))
