"""``mmvicreg embed``: write the embeddings of shards to a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmvicreg.cli.model_options import Model, ModelOptions, Out, Shards
from mmvicreg.cli.output import Output
from mmvicreg.errors import InvalidValueError, WrongOptionError


@dataclass(frozen=True)
class EmbedConfig(ModelOptions):
    """Embed shards with a run, an export or a published model, and write the embeddings to a file."""

    model: Model
    """run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
    data: Shards
    """shards, with {000..009} and * expanded"""
    out: Out
    """file to write: .safetensors, .npz, .npy (a file a branch), or .parquet, which embedding-atlas opens: with a place
    on a map (x, y), nearest items (neighbors), text and source of each item"""
    output: Literal["z", "h"] = "z"
    """embeddings after the projector, or representations before it"""
    projection: Literal["pca", "umap"] = "pca"
    """of .parquet: how the map is made; umap needs the extra mmvicreg[umap]"""

    def __post_init__(self) -> None:
        from mmvicreg.evaluation.embedding_files import check_rows_name

        try:
            check_rows_name(self.out)
        except InvalidValueError as error:
            raise WrongOptionError(str(error)) from None


def embed(config: EmbedConfig) -> Output:
    """Every branch's embeddings with identities and sample keys, in one file."""
    from mmvicreg.evaluation.embed import embed_split
    from mmvicreg.evaluation.embedding_files import write_rows
    from mmvicreg.evaluation.report.content import SampleContent
    from mmvicreg.exploration.embedding_table import write_table
    from mmvicreg.shards.index import open_index

    run = config.load(config.model)
    index = open_index(config.data)
    store = embed_split(run, index, device=config.device, threads=config.threads)
    if Path(config.out).suffix == ".parquet":
        readers = {name: modality.reader() for name, modality in run.modalities.items()}
        content = SampleContent(readers, index)
        path = write_table(
            store, content, Path(config.out), output=config.output, projection=config.projection
        )
    else:
        path = write_rows(store, config.out, output=config.output)
    counts = {view: len(rows.z) for view, rows in store.views.items()}
    listed = ", ".join(f"{count:,} {view}" for view, count in counts.items())
    return Output({"written": str(path), "items": counts}, (f"written: {path} ({listed})",))
