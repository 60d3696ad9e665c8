"""Options of the tools around embeddings, and what each does with them. Heavy imports come after the options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from mmvicreg.errors import InvalidValueError


@dataclass(frozen=True)
class ExportConfig:
    """Hand a run on: a folder that loads without its recipe, or the form another tool takes."""

    run: Positional[str]
    """run directory"""
    out: Positional[str]
    """folder (hub, open_clip) or file (image, onnx) to write"""
    format: Literal["hub", "open_clip", "image", "onnx"] = "hub"
    """hub: safetensors, JSON and a model card; open_clip: its checkpoint; image: timm/torchvision weights; onnx"""
    branch: str = "image"
    """image, onnx: which branch"""
    step: int | Literal["best"] | None = None
    """checkpoint to export: its step, or best (see --best-metric of training); the newest if not given"""
    average: bool = False
    """export the moving average of the weights, where the run kept one (--ema-decay)"""
    push: str = ""
    """hub: also upload to this Hugging Face repository (OWNER/NAME)"""
    recipe: str | None = None
    """image, onnx: recipe file that defines the run's own modalities; it is executed"""


@dataclass(frozen=True)
class EmbedConfig:
    """Embed shards with a run, an export or a published model, and write the embeddings to a file."""

    model: Positional[str]
    """run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
    data: Positional[str]
    """shards, with {000..009} and * expanded"""
    out: Positional[str]
    """file to write: .safetensors, .npz, .parquet, or .npy (a file a branch)"""
    output: Literal["z", "h"] = "z"
    """embeddings after the projector, or representations before it"""
    device: str = ""
    """cpu, cuda, ...; empty for a GPU where there is one"""
    recipe: str | None = None
    """recipe file that defines the run's own modalities; it is executed"""


@dataclass(frozen=True)
class SearchConfig:
    """Find the nearest items of another modality (or of the same one) in embedded shards."""

    model: Positional[str]
    """as for embed"""
    data: Positional[str]
    """shards to search in"""
    query: Positional[str]
    """a text, or a picture file"""
    among: str = "image"
    """branch whose items are searched"""
    k: int = 10
    """how many to show"""
    by_predictor: bool = False
    """compare what the query predicts of the searched branch, for runs trained with predictors"""
    device: str = ""
    """cpu, cuda, ...; empty for a GPU where there is one"""
    recipe: str | None = None
    """recipe file that defines the run's own modalities; it is executed"""


def export(config: ExportConfig) -> int:
    """Write the export and say where."""
    from pathlib import Path

    from mmvicreg.interop import open_clip as doors
    from mmvicreg.interop.hub import push_to_hub, save_pretrained
    from mmvicreg.interop.pretrained import load_subject

    folder = config.format in ("hub", "open_clip")
    if Path(config.out).is_file() if folder else Path(config.out).is_dir():
        kinds = ("a file", "a folder") if folder else ("a folder", "a file")
        raise InvalidValueError(
            f"{config.out} is {kinds[0]}; --format {config.format} writes {kinds[1]}: choose another name"
        )
    run = load_subject(config.run, recipe=config.recipe, step=config.step, average=config.average)
    if config.format == "hub":
        path = save_pretrained(run, config.out)
        if config.push:
            print(f"pushed: {push_to_hub(path, config.push)}")
    elif config.format == "open_clip":
        path = doors.save_open_clip(run, config.out)
    elif config.format == "image":
        path = doors.save_image_encoder(run, config.out, image=config.branch)
    else:
        path = doors.save_onnx(run, config.out, branch=config.branch)
    print(f"written: {path}")
    return 0


def embed(config: EmbedConfig) -> int:
    """Every view's rows with identities and sample keys, in one file."""
    from mmvicreg.evaluation.embed import embed_split
    from mmvicreg.evaluation.nearest import write_rows
    from mmvicreg.interop.pretrained import load_subject
    from mmvicreg.shards.index import open_index

    run = load_subject(config.model, recipe=config.recipe)
    store = embed_split(run, open_index(config.data), device=config.device)
    path = write_rows(store, config.out, output=config.output)
    sizes = ", ".join(f"{len(rows.z):,} {view}" for view, rows in store.views.items())
    print(f"written: {path} ({sizes})")
    return 0


def search(config: SearchConfig) -> int:
    """Print the nearest items: cosine, sample key, identity."""
    import torch

    from mmvicreg.evaluation.embed import embed_split
    from mmvicreg.evaluation.nearest import embed_query, nearest
    from mmvicreg.interop.pretrained import load_subject
    from mmvicreg.shards.index import open_index

    run = load_subject(config.model, recipe=config.recipe)
    store = embed_split(run, open_index(config.data), config.among, device=config.device)
    query_D = embed_query(
        run, config.query, to=config.among if config.by_predictor else "", device=config.device or "cpu"
    )
    rows = store.items(config.among)
    cosine, places = nearest(torch.as_tensor(query_D)[None], rows.z, k=config.k)
    for value, place in zip(cosine[0].tolist(), places[0].tolist(), strict=True):
        keys = ", ".join(store.keys[number] for number in rows.samples[place][:3])
        print(f"{value:.4f}  {keys}  {rows.identities[place]}")
    return 0
