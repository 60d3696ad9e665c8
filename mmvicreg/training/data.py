"""What a run reads: its data sets as one index, the order over them, and what became of every sample."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmvicreg.errors import InvalidValueError
from mmvicreg.files import write_json
from mmvicreg.modalities.modality import modalities_of
from mmvicreg.plan.mixture import Mixture, Part, join, raise_shares
from mmvicreg.plan.plan import Cursor, Plan
from mmvicreg.runs.config import TrainConfig
from mmvicreg.shards.index import ShardIndex, open_index
from mmvicreg.shards.remote_cache import ShardCache
from mmvicreg.stream.ledger import KINDS, Counts, coverage

SUMMARY = "data.json"


def spool_of(config: TrainConfig) -> ShardCache:
    """Where remote shards are kept on this machine."""
    limit = int(config.stream.shard_cache_gigabytes * 1e9)
    return (
        ShardCache(config.stream.shard_cache, limit=limit)
        if config.stream.shard_cache
        else ShardCache(limit=limit)
    )


def open_parts(config: TrainConfig) -> tuple[Part, ...]:
    """The data sets of ``train``: one, or with ``stream.weights`` one a weight, separated by ``::``; and the samples
    of them that ``stream.minimum_fraction`` wants more of.

    Raises ValueError where their numbers differ or shares cannot be had, and what
    :func:`mmvicreg.shards.index.open_index` raises.
    """
    weights = config.stream.weights or (1.0,)
    patterns = config.train.split("::") if config.stream.weights else [config.train]
    if len(patterns) != len(weights):
        raise InvalidValueError(
            f"stream.weights has {len(weights)} numbers, train names {len(patterns)} data sets ({config.train!r}); "
            "separate data sets with '::' and give each a weight"
        )
    options: dict[str, Any] = {"exclude": config.stream.exclude or None, "spool": spool_of(config)}
    parts = tuple(
        Part(open_index(pattern, **options), weight)
        for pattern, weight in zip(patterns, weights, strict=True)
    )
    wanted = config.stream.minimum_fraction
    modalities = modalities_of(config)
    unknown = sorted(set(wanted) - set(modalities))
    if unknown:
        raise InvalidValueError(
            f"stream.minimum_fraction names {unknown}; the modalities are {sorted(modalities)}"
        )
    members = {name: modalities[name].reader().members for name in wanted}
    return raise_shares(parts, wanted, members) if wanted else parts


def whole(parts: tuple[Part, ...]) -> ShardIndex:
    """One index over all data sets."""
    return parts[0].index if len(parts) == 1 else join(parts)


def make_plan(
    parts: tuple[Part, ...], config: TrainConfig, batch_size: int, start: Cursor | None = None
) -> Plan:
    """The order of the run, from ``start`` on."""
    begin = Cursor() if start is None else start
    if len(parts) > 1:
        return Mixture(parts, seed=config.seed, global_batch=batch_size, order=config.order, start=begin)
    counts = parts[0].index.counts
    return Plan(counts, seed=config.seed, global_batch=batch_size, order=config.order, start=begin)


def account(plan: Plan, step: int, counts: Counts) -> dict[str, Any]:
    """What became of the samples: ``counts`` of all processes, and what the plan says of the data set.

    ``seen``, ``unique``, ``duplicate``, ``never_seen`` (samples), ``epochs``; ``recovered``, ``rejected`` by
    reason, ``missing`` by view, ``substituted`` (inputs).
    """
    found = asdict(coverage(plan, step))
    counted = {name: value for name, value in counts.state().items() if name not in ("seen", "shards")}
    return {**found, **counted}


def write_summary(folder: Path, plan: Plan, step: int, *, counts: Counts) -> str:
    """``data.json``: what became of the samples, and the shards with the most rejections; the same in a line.

    The ledger beside it names every sample.
    """
    accounted = account(plan, step, counts)
    write_json(folder / SUMMARY, {**accounted, "worst_shards": counts.worst(KINDS)})
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in accounted["rejected"].items())
    return (
        f"{accounted['seen']:,} samples seen: {accounted['unique']:,} different ones, {accounted['duplicate']:,} "
        f"again, {accounted['never_seen']:,} of the data never; {counts.recovered:,} inputs recovered, "
        f"{counts.rejections:,} rejected" + (f" ({reasons})" if reasons else "")
    )
