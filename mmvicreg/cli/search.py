"""``mmvicreg search``: find the nearest items of a text or a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from mmvicreg.cli.model_options import Model, ModelOptions, Shards
from mmvicreg.cli.output import Output


@dataclass(frozen=True)
class SearchConfig(ModelOptions):
    """Find the nearest items of another modality (or of the same one) in embedded shards."""

    model: Model
    """run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
    data: Shards
    """shards to search in"""
    query: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="QUERY")]
    """a text, or a picture file"""
    among: str = "image"
    """branch whose items are searched"""
    query_branch: str = ""
    """branch that embeds the query; needed where several could (texts of several languages)"""
    k: int = 10
    """how many to show"""
    by_predictor: bool = False
    """compare what the query predicts of the searched branch, for runs trained with predictors"""


def search(config: SearchConfig) -> Output:
    """The nearest items, best first: cosine, sample keys, identity."""
    import torch

    from mmvicreg.evaluation.embed import embed_split
    from mmvicreg.evaluation.nearest import embed_query, nearest
    from mmvicreg.shards.index import open_index

    run = config.load(config.model)
    index = open_index(config.data)
    store = embed_split(run, index, config.among, device=config.device, threads=config.threads)
    query_D = embed_query(
        run,
        config.query,
        branch=config.query_branch,
        to=config.among if config.by_predictor else "",
        device=config.device or "cpu",
    )
    rows = store.items(config.among)
    cosine, places = nearest(torch.as_tensor(query_D)[None], rows.z, k=config.k)
    found = [
        {
            "cosine": round(value, 6),
            "keys": [store.keys[number] for number in rows.samples[place]],
            "identity": rows.identities[place],
        }
        for value, place in zip(cosine[0].tolist(), places[0].tolist(), strict=True)
    ]
    lines = [f"{each['cosine']:.4f}  {', '.join(each['keys'][:3])}  {each['identity']}" for each in found]
    return Output({"query": config.query, "results": found}, tuple(lines))
