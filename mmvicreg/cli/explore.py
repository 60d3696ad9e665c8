"""``mmvicreg explore``: a local page to search in shards, compare runs, walk along neighbours and see a map."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mmvicreg.cli.model_options import ModelOptions
from mmvicreg.cli.output import Output
from mmvicreg.errors import WrongOptionError

if TYPE_CHECKING:
    from mmvicreg.exploration.searcher import Searcher


@dataclass(frozen=True)
class ExploreConfig(ModelOptions):
    """Serve a page on this machine: type a text or drop an image or a sound, and see what a run finds in the shards.

    Two runs answer side by side. Needs pip install "mmvicreg[explore]".
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN]")]
    """one run or two: run directories, exported folders, published models"""
    data: str = field(kw_only=True)
    """shards to search in, with {000..009} and * expanded"""
    port: int = 7860
    """port of 127.0.0.1 that the page is served on"""
    k: int = 12
    """items that a query finds in each modality"""
    projection: Literal["pca", "umap"] = "pca"
    """of the map; umap needs the extra mmvicreg[umap]"""
    label: str = ""
    """field of the json member that colours the map; the class number (cls member) if empty"""
    method: Literal["auto", "exact", "ivf", "hnsw"] = "auto"
    """exact search, or approximate by faiss; auto is exact up to 500,000 items and ivf above"""
    embeddings: str = ""
    """Parquet file to write the first run's embeddings to, for embedding-atlas"""

    def __post_init__(self) -> None:
        if not 1 <= len(self.runs) <= 2:
            raise WrongOptionError(
                f"{len(self.runs)} runs; expected one or two: mmvicreg explore RUN [RUN] --data SHARDS"
            )
        if self.embeddings and Path(self.embeddings).suffix != ".parquet":
            raise WrongOptionError(f"--embeddings {self.embeddings}: expected a name that ends in .parquet")


def explore(config: ExploreConfig) -> Output:
    """Embed the shards, serve the page, and wait for Ctrl-C."""
    from mmvicreg.exploration import explorer, server

    server.check_port(config.port)  # before anything is computed
    sides = _searchers(config)
    options = explorer.ExplorerOptions(config.k, config.projection, config.label)
    page = explorer.build(sides, options)
    if config.embeddings:
        _write_embeddings(config, sides)
    server.serve(page, config.port)
    address = f"http://{server.HOST}:{config.port}"
    Output({}, (f"open {address} in a browser; Ctrl-C ends it",)).show(as_json=False)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        page.close(verbose=False)
    return Output({"address": address}, ("ended",))


def _searchers(config: ExploreConfig) -> dict[str, Searcher]:
    from mmvicreg.exploration.searcher import Searcher

    names = [Path(source).name or source for source in config.runs]
    if len(set(names)) < len(names):
        names = (
            list(config.runs)
            if len(set(config.runs)) > 1
            else [f"{names[0]} ({side})" for side in ("left", "right")]
        )
    return {
        name: Searcher(
            config.load(source),
            config.data,
            device=config.device,
            threads=config.threads,
            method=config.method,
        )
        for name, source in zip(names, config.runs, strict=True)
    }


def _write_embeddings(config: ExploreConfig, sides: dict[str, Searcher]) -> None:
    from mmvicreg.exploration.embedding_table import write_table

    first = next(iter(sides.values()))
    path = Path(config.embeddings)
    write_table(first.store, first.content, path, projection=config.projection, method=config.method)
    Output({}, (f"written: {path}",)).show(as_json=False)
