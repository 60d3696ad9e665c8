"""Options of the tools around embeddings, and what each does with them. Heavy imports come after the options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    import numpy as np

    from mmvicreg.evaluate.store import Store
    from mmvicreg.runs import Run


@dataclass(frozen=True)
class ExportConfig:
    """Hand a run on: a folder that loads without its recipe, or the form another tool takes."""

    run: Positional[str]
    """run directory"""
    out: Positional[str]
    """folder (hub, open_clip) or file (image, onnx) to write"""
    format: Literal["hub", "open_clip", "image", "onnx"] = "hub"
    """hub: safetensors, JSON and a model card; open_clip: its checkpoint; image: timm/torchvision weights; onnx"""
    view: str = "image"
    """onnx: which branch"""
    step: int | None = None
    """checkpoint to export; the newest if not given"""
    push: str = ""
    """hub: also upload to this Hugging Face repository (OWNER/NAME)"""


@dataclass(frozen=True)
class EmbedConfig:
    """Embed shards with a run, an export or a published model, and write the embeddings to a file."""

    model: Positional[str]
    """run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
    data: Positional[str]
    """shards, with {000..009} and * expanded"""
    out: Positional[str]
    """file to write: .safetensors, .npz or .parquet"""
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
    """view to search in"""
    k: int = 10
    """how many to show"""
    device: str = ""
    """cpu, cuda, ...; empty for a GPU where there is one"""
    recipe: str | None = None
    """recipe file that defines the run's own modalities; it is executed"""


@dataclass(frozen=True)
class ClassifyConfig:
    """Zero-shot, nearest-neighbour and linear classification of labelled shards or an image folder."""

    model: Positional[str]
    """as for embed"""
    test: str = ""
    """shards with labels, or an image folder CLASS/PICTURE"""
    train: str = ""
    """the same, for nearest neighbours and the linear probe; empty for zero-shot only"""
    label: str = "cls"
    """where class numbers are: a member suffix, or json:FIELD"""
    names: str = ""
    """file of class names, one a line or JSON; a folder's own names if empty. Needed for zero-shot"""
    templates: str = ""
    """file of prompt templates with {} for the name; empty for "a photo of a {}." """
    k: int = 20
    """neighbours"""
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    """of the linear probe, chosen on a fifth of the training rows"""
    out: str = ""
    """JSON file to write; a confusion picture goes beside it"""
    device: str = ""
    """cpu, cuda, ...; empty for a GPU where there is one"""
    recipe: str | None = None
    """recipe file that defines the run's own modalities; it is executed"""


def export(config: ExportConfig) -> int:
    """Write the export and say where."""
    from mmvicreg import doors
    from mmvicreg.baselines import load_subject
    from mmvicreg.export import push_to_hub, save_pretrained

    run = load_subject(config.run, step=config.step)
    if config.format == "hub":
        path = save_pretrained(run, config.out)
        if config.push:
            print(f"pushed: {push_to_hub(path, config.push)}")
    elif config.format == "open_clip":
        path = doors.save_open_clip(run, config.out)
    elif config.format == "image":
        path = doors.save_image_encoder(run, config.out)
    else:
        path = doors.save_onnx(run, config.out, view=config.view)
    print(f"written: {path}")
    return 0


def _store(config: EmbedConfig | SearchConfig | ClassifyConfig, run: Run, data: str, *views: str) -> Store:
    import torch

    from mmvicreg.evaluate.embeddings import embed
    from mmvicreg.scoring import embeddings_folder
    from mmvicreg.shards import open_index

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    readers = {
        view: run.modalities[branch].reader()
        for view, branch in run.model.views.items()
        if not views or view in views
    }
    return embed(run.model, open_index(data), readers, folder=embeddings_folder(run), device=device)


def embed(config: EmbedConfig) -> int:
    """Every view's rows with identities and sample keys, in one file."""
    from mmvicreg.baselines import load_subject
    from mmvicreg.evaluate.tables import write_rows

    store = _store(config, load_subject(config.model, recipe=config.recipe), config.data)
    path = write_rows(store, config.out, output=config.output)
    sizes = ", ".join(f"{len(rows.z):,} {view}" for view, rows in store.views.items())
    print(f"written: {path} ({sizes})")
    return 0


def search(config: SearchConfig) -> int:
    """Print the nearest items: cosine, sample key, identity."""
    import torch

    from mmvicreg.baselines import load_subject
    from mmvicreg.evaluate.tables import embed_query, nearest

    run = load_subject(config.model, recipe=config.recipe)
    store = _store(config, run, config.data, config.among)
    query_D = embed_query(run, config.query, device=config.device or "cpu")
    rows = store.rows(config.among)
    cosine, places = nearest(torch.as_tensor(query_D)[None], rows.z, k=config.k)
    for value, place in zip(cosine[0].tolist(), places[0].tolist(), strict=True):
        keys = ", ".join(store.keys[number] for number in rows.samples[place][:3])
        print(f"{value:.4f}  {keys}  {rows.identities[place]}")
    return 0


def classify(config: ClassifyConfig) -> int:
    """Print a table of every classifier there is data for, and write JSON and a confusion picture."""
    import json
    from pathlib import Path

    from mmvicreg import pictures
    from mmvicreg.baselines import load_subject

    if not config.test:
        raise ValueError("no data to classify; give --test SHARDS or --test FOLDER")
    run = load_subject(config.model, recipe=config.recipe)
    found, confusion, names = _classifiers(config, run)
    for classifier, scores in found.items():
        shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        print(f"{classifier}: {shown}")
    if config.out:
        Path(config.out).write_text(json.dumps(found, indent=1) + "\n")
        pictures.save(pictures.confusion_figure(confusion, names), Path(config.out).with_suffix(".png"))
    return 0


def _classifiers(
    config: ClassifyConfig, run: Run
) -> tuple[dict[str, dict[str, float | int]], np.ndarray, list[str]]:
    import numpy as np
    import torch

    from mmvicreg.evaluate import classification as c
    from mmvicreg.evaluate.labelled import TEMPLATES, read_lines, zero_shot_weights

    store, labels, names = _labelled(config, run, config.test)
    names = read_lines(config.names) if config.names else names
    test, truth = _single(store, labels)
    classes = max(len(names), int(truth.max()) + 1)
    found: dict[str, dict[str, float | int]] = {}
    last = None
    if names and "text" in run.model.views:
        templates = read_lines(config.templates) if config.templates else list(TEMPLATES)
        reader = run.modalities[run.model.views["text"]].reader()
        weights = zero_shot_weights(run.model, reader, names, templates=templates, device=_device(run))
        z_MD, z_truth = _single(store, labels, output="z")
        last = c.score_classes(torch.nn.functional.normalize(torch.tensor(z_MD), dim=1) @ weights.T, z_truth)
        found["zero_shot"] = last.to_json()
    if config.train:
        train_store, train_labels, _ = _labelled(config, run, config.train)
        train, train_truth = _single(train_store, train_labels)
        classes = max(classes, int(train_truth.max()) + 1)
        votes = c.knn_scores(train, train_truth, test, classes=classes, k=min(config.k, len(train)))
        found[f"knn_{config.k}"] = c.score_classes(votes, truth).to_json()
        order = np.random.default_rng(0).permutation(len(train))
        fit, held = order[len(order) // 5 :], order[: len(order) // 5]
        best, _ = c.sweep(
            lambda penalty: c.linear_probe(train[fit], train_truth[fit], penalty=penalty, classes=classes),
            config.penalties,
            train[held],
            train_truth[held],
        )
        probe = c.linear_probe(train, train_truth, penalty=best.penalty, classes=classes)
        last = c.score_classes(probe(test), truth)
        found["linear"] = last.to_json() | {"penalty": best.penalty}
    if last is None:
        raise ValueError("nothing to do: give --train for kNN and a linear probe, or --names for zero-shot")
    return found, last.confusion, names or [str(number) for number in range(classes)]


def _device(run: Run) -> Any:
    return next(iter(run.model.state_dict().values())).device


def _labelled(config: ClassifyConfig, run: Run, data: str) -> tuple[Store, list[list[int]], list[str]]:
    from pathlib import Path

    from mmvicreg.evaluate.labelled import labels_of, pack_folder
    from mmvicreg.scoring import embeddings_folder
    from mmvicreg.shards import open_index

    names: list[str] = []
    if Path(data).is_dir():
        packed = embeddings_folder(run) / f"{Path(data).resolve().name}-000000.tar"
        packed.parent.mkdir(parents=True, exist_ok=True)
        names = pack_folder(data, packed)
        data = str(packed)
    store = _store(config, run, data, "image")
    return store, labels_of(open_index(data), config.label), names


def _single(store: Store, labels: list[list[int]], output: str = "h") -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    from mmvicreg.evaluate.labelled import features_with_labels

    features, found = features_with_labels(store.rows("image"), labels, output=output)
    if any(len(each) > 1 for each in found):
        raise ValueError(
            "samples have several labels; use mmvicreg.evaluate.classification.average_precision"
        )
    return features, np.array([each[0] for each in found])
