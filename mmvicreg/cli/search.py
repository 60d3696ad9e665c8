"""``mmvicreg search``: find the nearest items of a text, an image or a recording."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mmvicreg.cli.model_options import Model, ModelOptions, Shards
from mmvicreg.cli.output import Output
from mmvicreg.errors import UserError, WrongOptionError, printable

if TYPE_CHECKING:
    from mmvicreg.exploration.searcher import Found, Searcher


@dataclass(frozen=True)
class SearchConfig(ModelOptions):
    """Find the nearest items of another modality (or of the same one) in embedded shards."""

    model: Model
    """run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
    data: Shards
    """shards to search in"""
    query: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="QUERY")] = ""
    """a text, or an image or sound file; not needed with --interactive"""
    interactive: bool = False
    """answer a query a line from standard input, until an empty line or its end; the run is loaded once"""
    among: str = "image"
    """branch whose items are searched"""
    query_branch: str = ""
    """branch that embeds the query; needed where several could (texts of several languages)"""
    k: int = 10
    """how many to show"""
    by_predictor: bool = False
    """compare what the query predicts of the searched branch, for runs trained with predictors"""
    method: Literal["auto", "exact", "ivf", "hnsw"] = "auto"
    """exact, or approximate by faiss, whose recall against exact search is measured and printed; auto is exact up to
    500,000 items and ivf above"""

    def __post_init__(self) -> None:
        if not self.query and not self.interactive:
            raise WrongOptionError("no query: give a text or a file after SHARDS, or --interactive")


def search(config: SearchConfig) -> Output:
    """The nearest items, best first: cosine, source file and row, caption, sample keys."""
    from mmvicreg.exploration.searcher import Searcher

    run = config.load(config.model)
    searcher = Searcher(
        run,
        config.data,
        branches=(config.among,),
        device=config.device,
        threads=config.threads,
        method=config.method,
    )
    rows = searcher.rows(config.among)
    how = {"method": rows.method, "items": len(rows.rows), "recall": round(rows.recall, 4)}
    note = () if rows.method == "exact" else (rows.description(),)
    if not config.interactive:
        found = answer(config, searcher, config.query)
        return Output(
            {"query": config.query, "search": how, "results": [to_json(each) for each in found]},
            (*map(line_of, found), *note),
        )
    for line in note:
        print(line, file=sys.stderr)
    count = 0
    for query in [config.query] if config.query else _queries():
        count += 1
        try:
            lines = [line_of(each) for each in answer(config, searcher, query)]
        except UserError as error:  # of this query; the next one may be fine
            lines = [printable(str(error))]
        print("\n".join(lines), flush=True)
    return Output({"queries": count, "search": how}, ())


def _queries() -> Iterator[str]:
    prompt = "query: " if sys.stdin.isatty() else ""
    while True:
        try:
            query = input(prompt).strip()
        except EOFError:
            return
        if not query:
            return
        yield query


def answer(config: SearchConfig, searcher: Searcher, query: str) -> list[Found]:
    """What one query finds: a file where the query ends as an image or a recording does, else a text."""
    from mmvicreg.modalities.decoding.formats import RECORDINGS, is_image

    to = config.among if config.by_predictor else ""
    suffix = Path(query).suffix
    if is_image(suffix) or suffix.lower().removeprefix(".") in RECORDINGS:
        query_D = searcher.embed_file(Path(query), branch=config.query_branch, to=to)
    else:
        query_D = searcher.embed_text(query, branch=config.query_branch, to=to)
    return searcher.nearest(query_D, config.among, k=config.k)


def to_json(found: Found) -> dict[str, Any]:
    """A result as JSON values."""
    text = found.shown.content if isinstance(found.shown.content, str) else found.shown.caption
    return {
        "cosine": round(found.cosine, 6),
        "source": found.shown.source,
        "text": text,
        "keys": list(found.keys),
    }


def line_of(found: Found) -> str:
    """A result in one line, without what a terminal would obey."""
    about = to_json(found)
    keys = ", ".join(key for key in found.keys[:3] if key != about["source"])
    more = f" and {len(found.keys) - 3} more" if len(found.keys) > 3 else ""
    parts = [f"{found.cosine:.4f}", about["source"], about["text"], keys + more]
    return printable("  ".join(" ".join(part.split()) for part in parts if part.strip()))
