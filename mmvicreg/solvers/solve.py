"""A configuration to a run directory: encode once, count moments, choose settings, write the heads as a run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmvicreg import distributed
from mmvicreg.branches import head
from mmvicreg.branches.model import Branch, Model
from mmvicreg.errors import InvalidValueError, UnknownNameError, show_messages_alone
from mmvicreg.evaluation.embed import embed_samples
from mmvicreg.files import lock, write_json, write_tensors, write_text
from mmvicreg.modalities.modality import Modality, modalities_of
from mmvicreg.runs import checkpoint, directory
from mmvicreg.runs.config import to_json
from mmvicreg.runs.run import CHECKPOINTS, LOG, Run, rebuild
from mmvicreg.runs.tensors import tensors_of
from mmvicreg.shards.index import ShardIndex, open_index
from mmvicreg.solvers.config import SolveConfig
from mmvicreg.solvers.selection import SPECTRUM, Candidate, Choice, Problem, choose
from mmvicreg.solvers.solution import Solution, make_head
from mmvicreg.solvers.statistics.pairing import PairedRows
from mmvicreg.solvers.statistics.views import AugmentedReader
from mmvicreg.stream.reader import Reader

RESULT = "solution.json"
"""Of a solved run: chosen settings, their score, strengths of the axes, seconds."""
EXACT = "solution.safetensors"
"""Of a solved run: mean and matrix of every part of every head in fp64; the checkpoint holds them in fp32."""


@dataclass(frozen=True)
class Towers:
    """Encoders by branch, and the modalities that they belong to."""

    modalities: Mapping[str, Modality]
    model: Model


def solve(config: SolveConfig) -> Run:
    """Solve what ``config`` describes and return the finished run; one that is finished already is read back.

    Raises ValueError, KeyError or FileNotFoundError for what cannot be solved.
    """
    show_messages_alone()
    modalities = modalities_of(config)
    if len(modalities) < 2:
        raise InvalidValueError(
            f"{type(config).__name__} has the modalities {sorted(modalities) or 'none'}; two or more are aligned"
        )
    torch.manual_seed(
        config.seed
    )  # of encoders without published weights, which must be alike on all processes
    branches = {name: _encoder_alone(modality.branch()) for name, modality in modalities.items()}
    views = {name: name for name in branches}
    return solve_towers(config, Towers(modalities, Model(branches, views)))


def solve_run(config: SolveConfig, run: Run) -> Run:
    """Solve heads on the representations of a trained run; its encoders come along, its projectors are replaced."""
    branches = {name: _encoder_alone(run.model.branch_named(name)) for name in run.modalities}
    return solve_towers(config, Towers(run.modalities, Model(branches, {name: name for name in branches})))


def _encoder_alone(branch: Branch) -> Branch:
    made = Branch(
        branch.encoder,
        nn.Identity(),
        frozen=True,
        learning_rate=branch.learning_rate,
        ignores_padding=branch.ignores_padding,
    )
    return made.eval()


def solve_towers(config: SolveConfig, towers: Towers) -> Run:
    """Encode, choose, solve and write; every process calls this."""
    device = distributed.join_processes(cpu=config.cpu)
    check(config, tuple(towers.modalities))
    description = _describe(config, towers.modalities)
    with ExitStack() as held:
        distributed.on_main_process(lambda: directory.check_folder(config, given=description.config))
        done = distributed.on_main_process(lambda: _begin(config, description, held))
        if not done:
            _solve_into(Path(config.out), config, towers, device)
        distributed.barrier()
    return load_solved(Path(config.out), description.to_json(), towers.modalities)


def _solve_into(folder: Path, config: SolveConfig, towers: Towers, device: torch.device) -> None:
    train, consumed = encode(config, towers, config.train, "train", device=device, augmented=True)
    validation = None
    if config.validation:
        validation, _ = encode(config, towers, config.validation, "validation", device=device)
    started, started_cpu = time.perf_counter(), time.process_time()
    problem = Problem(train, config.features, config.pairs, config.pairing, config.seed, device)
    chosen = choose(problem, validation, config.solver, config.grid)
    seconds = {
        "solve_seconds": time.perf_counter() - started,
        "solve_cpu_seconds": time.process_time() - started_cpu,
    }
    model = with_heads(towers, chosen.solution, chosen.features)
    if distributed.rank() == 0:
        write_run(folder, model, chosen, consumed=consumed, seconds=seconds)


def _begin(config: SolveConfig, description: directory.RunDescription, held: ExitStack) -> bool:
    """Lock the run directory until ``held`` is closed and write what the run is; whether it is finished already."""
    directory.move_aside(config)
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(lock(folder, purpose="solving"))
    if directory.is_continued(config):
        return True
    directory.begin(folder, description)
    return False


def load_solved(folder: Path, saved: dict[str, Any], modalities: Mapping[str, Modality]) -> Run:
    """The run that was written, with modalities that may be a recipe's own."""
    return rebuild(folder, saved, dict(modalities))


def check(config: SolveConfig, branches: tuple[str, ...]) -> None:
    """Raise ValueError or KeyError for settings that no data could make right."""
    if not config.train:
        raise InvalidValueError("no shards to solve on; give --train 'folder/train-{000..099}.tar'")
    named = {
        "features": config.features,
        "augmented_views": config.augmented_views,
        "pairs": {name for pair in config.pairs for name in pair},
        "solver.branches": vars(config.solver).get("branches", ()),
    }
    for field_name, names in named.items():
        unknown = sorted(set(names) - set(branches))
        if unknown:
            raise UnknownNameError(
                f"{field_name} names the branches {unknown}; there are {', '.join(branches)}"
            )
    if "width" in vars(config.solver) and vars(config.solver)["width"] < 1:
        raise InvalidValueError(f"solver.width is {vars(config.solver)['width']}; it is at least 1")
    for name, draws in config.augmented_views.items():
        if draws < 0:
            raise InvalidValueError(f"augmented_views of {name} is {draws}; it is at least 0")


def encode(
    config: SolveConfig,
    towers: Towers,
    shards: str,
    title: str,
    *,
    device: torch.device,
    augmented: bool = False,
) -> tuple[PairedRows, ShardIndex]:
    """Representations of every item of ``shards``, computed once and kept; and the index of the shards."""
    index = open_index(shards)
    readers: dict[str, Reader] = {}
    for name, modality in towers.modalities.items():
        draws = config.augmented_views.get(name, 0) if augmented else 0
        reader = modality.reader()
        readers[name] = AugmentedReader(reader, draws, config.seed) if draws else reader
    folder = Path(config.feature_cache or Path(config.out) / "features")
    store = embed_samples(
        towers.model,
        index,
        readers,
        folder=folder,
        device=device,
        threads=config.threads,
        title=f"encode {title}",
    )
    rows = {name: np.asarray(found.h) for name, found in store.views.items()}
    samples = {name: found.samples for name, found in store.views.items()}
    return PairedRows(rows, samples), index


def with_heads(towers: Towers, solution: Solution, features: Mapping[str, nn.Sequential]) -> Model:
    """The encoders with the solved heads."""
    branches = {}
    for name in towers.modalities:
        before = towers.model.branch_named(name)
        made = make_head(solution.branches[name], features)
        branches[name] = Branch(
            before.encoder,
            made,
            frozen=True,
            learning_rate=before.learning_rate,
            ignores_padding=before.ignores_padding,
        )
    return Model(branches, towers.model.views).eval()


def _describe(config: SolveConfig, modalities: Mapping[str, Modality]) -> directory.RunDescription:
    """The configuration and the modalities, whose own projector is left out: the head replaces it."""
    plain = {name: to_json(_without_projector(modality)) for name, modality in modalities.items()}
    views = {name: name for name in modalities}
    return directory.RunDescription({**to_json(config), **plain}, views, views, {}, {})


def _without_projector(modality: Any) -> Modality:
    if any(item.name == "projector" for item in fields(modality)):
        return replace(modality, projector=())
    return modality


def write_run(
    folder: Path,
    model: Model,
    chosen: Choice,
    *,
    consumed: ShardIndex,
    seconds: Mapping[str, float],
) -> None:
    """heads.json, log, solution.json, and the checkpoint last: a run that was killed before is solved again."""
    head.write(folder, {name: model.branch_named(name).projector for name in model.branches})
    write_log(folder, chosen.candidates)
    write_exact(folder, chosen.solution)
    write_json(
        folder / RESULT,
        {
            "solver": to_json(chosen.solver),
            "features": to_json(dict(chosen.feature_maps)),
            "validation_mean_recall": chosen.score,
            "settings_compared": len(chosen.candidates),
            "strengths": [float(value) for value in chosen.solution.strengths[:SPECTRUM]],
            **seconds,
        },
    )
    tensors = {f"model.{name}": value for name, value in tensors_of(model).items()}
    position = checkpoint.Position(
        step=1,
        consumed=len(consumed),
        processes=distributed.world_size(),
        plan="every sample once",
        data=consumed.fingerprint,
        score=chosen.score,
        seconds=seconds["solve_seconds"],
    )
    checkpoint.write(folder / CHECKPOINTS, checkpoint.Snapshot(position, {checkpoint.WEIGHTS: tensors}))


def write_exact(folder: Path, solution: Solution) -> None:
    """solution.safetensors: {branch.part.mean: (F,), branch.part.matrix: (F, D)}, fp64."""
    found = {}
    for branch, parts in solution.branches.items():
        for number, part in enumerate(parts):
            found[f"{branch}.{number}.mean"] = part.mean.double().cpu().clone()
            found[f"{branch}.{number}.matrix"] = part.matrix.double().cpu().contiguous().clone()
    write_tensors(folder / EXACT, found)


def write_log(folder: Path, candidates: list[Candidate]) -> None:
    """log.jsonl: a line a setting in the order of the comparison, worst first, so that the last line is the chosen one.

    ``total`` is the error on the validation data, 1 - mean recall.
    """
    lines = []
    for number, candidate in enumerate(reversed(candidates)):
        settings = to_json(candidate.solver)
        terms = {"all/validation_mean_recall": candidate.score}
        record = {"step": number, "total": 1 - candidate.score, "terms": terms, "solver": settings}
        lines.append(json.dumps(record) + "\n")
    write_text(folder / LOG, "".join(lines))
