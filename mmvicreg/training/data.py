"""What a run reads: its data sets as one index, the order over them, and what happened to every sample."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmvicreg.errors import InvalidValueError, UserError
from mmvicreg.files import write_json
from mmvicreg.modalities.modality import Modality
from mmvicreg.plan.mixture import Mixture, Part, join, raise_fractions
from mmvicreg.plan.plan import Cursor, Plan
from mmvicreg.runs.config import TrainConfig
from mmvicreg.shards.index import ShardIndex, open_index
from mmvicreg.shards.shard_cache import ShardCache
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.reader import Reader
from mmvicreg.stream.sample_counts import REASONS, SampleCounts, coverage

SUMMARY = "data.json"
EXAMPLES = 20
"""samples that are read to say which members and fields the data have"""


class AbsentViewError(UserError, RuntimeError):
    """No sample so far had a view; the message names the members and fields that the samples have."""


def shard_cache_of(config: TrainConfig) -> ShardCache:
    """Where this machine keeps copies of shards."""
    options = config.stream
    cache = ShardCache(limit=int(options.shard_cache_gigabytes * 1e9), copy_local=options.copy_local_shards)
    return (
        replace(cache, folder=str(Path(options.shard_cache).expanduser())) if options.shard_cache else cache
    )


def open_parts(config: TrainConfig, modalities: Mapping[str, Modality]) -> tuple[Part, ...]:
    """The data sets of ``train``: one, or with ``stream.weights`` one for each weight, separated by ``::``; and the
    samples that ``stream.minimum_fraction`` asks to be drawn more often.

    Raises ValueError if their numbers differ or the fractions are impossible, and what
    :func:`mmvicreg.shards.index.open_index` raises.
    """
    weights = config.stream.weights or (1.0,)
    patterns = config.train.split("::") if config.stream.weights else [config.train]
    if len(patterns) != len(weights):
        raise InvalidValueError(
            f"stream.weights has {len(weights)} numbers, train names {len(patterns)} data sets ({config.train!r}); "
            "separate data sets with '::' and give each a weight"
        )
    options: dict[str, Any] = {
        "exclude": config.stream.exclude or None,
        "shard_cache": shard_cache_of(config),
    }
    parts = tuple(
        Part(open_index(pattern, **options), weight)
        for pattern, weight in zip(patterns, weights, strict=True)
    )
    wanted = config.stream.minimum_fraction
    unknown = sorted(set(wanted) - set(modalities))
    if unknown:
        raise InvalidValueError(
            f"stream.minimum_fraction names {unknown}; the modalities are {sorted(modalities)}"
        )
    members = {name: modalities[name].reader().members for name in wanted}
    return raise_fractions(parts, wanted, members) if wanted else parts


def whole(parts: tuple[Part, ...]) -> ShardIndex:
    """One index over all data sets."""
    return parts[0].index if len(parts) == 1 else join(parts)


def make_plan(
    parts: tuple[Part, ...], config: TrainConfig, batch_size: int, start: Cursor | None = None
) -> Plan:
    """The order of the samples of the run, from ``start`` on."""
    begin = Cursor() if start is None else start
    if len(parts) > 1:
        return Mixture(parts, seed=config.seed, global_batch=batch_size, order=config.order, start=begin)
    counts = parts[0].index.counts
    return Plan(counts, seed=config.seed, global_batch=batch_size, order=config.order, start=begin)


def check_presence(
    counts: SampleCounts, readers: Mapping[str, Reader], index: ShardIndex, *, cache: ShardCache
) -> None:
    """Raise AbsentViewError if a view was absent from every sample that ``counts`` is about. ``cache``: of remote
    shards."""
    absent = sorted(view for view in readers if counts.seen and counts.missing.get(view, 0) == counts.seen)
    if not absent:
        return
    wanted = {view: ", ".join(readers[view].members) or "stored representations" for view in absent}
    raise AbsentViewError(
        f"{counts.seen:,} samples were read and none of them has the view {', '.join(absent)} ("
        + "; ".join(f"{view} reads {members}" for view, members in wanted.items())
        + f"). The samples have {describe_members(index, cache)}; correct the member or field that its modality "
        "reads, or raise --guard.absent-after if the view is that rare"
    )


def describe_members(index: ShardIndex, cache: ShardCache) -> str:
    """The members of the first samples of ``index``, and the fields of their JSON."""
    members, names = sorted(index.suffixes), set()
    fetch = Fetcher(index, shard_cache=cache)
    for number in np.linspace(0, len(index) - 1, min(EXAMPLES, len(index))).astype(int).tolist():
        sample = fetch(*index.place(number), tuple(name for name in members if name.endswith("json")))
        for content in sample.members.values():
            try:
                value = json.loads(content)
            except (ValueError, RecursionError):
                continue
            names |= set(value) if isinstance(value, dict) else set()
    fields = ", ".join(sorted(map(str, names))[:20])
    return f"the members {', '.join(members[:20])}" + (f" and the JSON fields {fields}" if fields else "")


def data_counts(plan: Plan, step: int, counts: SampleCounts) -> dict[str, Any]:
    """What happened to the samples: ``counts`` of all processes, and the coverage of the data set by the plan.

    ``seen``, ``unique``, ``duplicate``, ``never_seen`` (samples), ``epochs``; ``recovered``, ``rejected`` by
    reason, ``missing`` by view, ``substituted`` (inputs).
    """
    found = asdict(coverage(plan, step))
    counted = {name: value for name, value in counts.state().items() if name not in ("seen", "shards")}
    return {**found, **counted}


def write_summary(folder: Path, plan: Plan, step: int, *, counts: SampleCounts) -> str:
    """Write ``data.json``: what happened to the samples, and the shards with the most rejections. Returns a line
    that says the same. The ledger in the run directory names every rejected sample."""
    counted = data_counts(plan, step, counts)
    write_json(folder / SUMMARY, {**counted, "worst_shards": counts.worst(REASONS)})
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counted["rejected"].items())
    return (
        f"{counted['seen']:,} samples seen: {counted['unique']:,} different ones, {counted['duplicate']:,} "
        f"again, {counted['never_seen']:,} of the data never; {counts.recovered:,} inputs recovered, "
        f"{counts.rejections:,} rejected" + (f" ({reasons})" if reasons else "")
    )
