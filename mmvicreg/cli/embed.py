"""``mmvicreg embed``: write the embeddings of shards to a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmvicreg.cli.model_options import Model, ModelOptions, Out, Shards
from mmvicreg.cli.output import Output


@dataclass(frozen=True)
class EmbedConfig(ModelOptions):
    """Embed shards with a run, an export or a published model, and write the embeddings to a file."""

    model: Model
    """run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
    data: Shards
    """shards, with {000..009} and * expanded"""
    out: Out
    """file to write: .safetensors, .npz, .parquet, or .npy (a file a branch)"""
    output: Literal["z", "h"] = "z"
    """embeddings after the projector, or representations before it"""


def embed(config: EmbedConfig) -> Output:
    """Every branch's embeddings with identities and sample keys, in one file."""
    from mmvicreg.evaluation.embed import embed_split
    from mmvicreg.evaluation.nearest import check_rows_name, write_rows
    from mmvicreg.shards.index import open_index

    check_rows_name(config.out)  # before anything is computed
    run = config.load(config.model)
    store = embed_split(run, open_index(config.data), device=config.device, threads=config.threads)
    path = write_rows(store, config.out, output=config.output)
    counts = {view: len(rows.z) for view, rows in store.views.items()}
    listed = ", ".join(f"{count:,} {view}" for view, count in counts.items())
    return Output({"written": str(path), "items": counts}, (f"written: {path} ({listed})",))
