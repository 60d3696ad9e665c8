"""Queries answered one after another by one loaded run and its embedded shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.evaluation.embed import embed_split
from mmvicreg.evaluation.report.content import SampleContent, Shown
from mmvicreg.evaluation.store import Store
from mmvicreg.evaluation.transfer.prompts import image_branches, text_branches, text_item
from mmvicreg.exploration.row_index import Method, RowIndex
from mmvicreg.interop.encoding import input_of
from mmvicreg.modalities.audio import AudioModality
from mmvicreg.modalities.decoding.formats import RECORDINGS, is_image
from mmvicreg.objectives.predictors import between
from mmvicreg.runs.run import Run
from mmvicreg.shards.index import open_index
from mmvicreg.stream.reader import Reader

MAX_FILE = 32 << 20
"""Bytes of the largest file that is read as a query."""


@dataclass(frozen=True)
class Found:
    """One item that a query found."""

    view: str
    row: int
    cosine: float
    keys: tuple[str, ...]
    """keys of the samples that it occurs in"""
    shown: Shown


class Searcher:
    """A run, and the items of shards embedded by it (computed once and kept beside the run).

    ``branches``: those whose items are embedded; all if empty. Raises KeyError for a branch that is not there.
    """

    def __init__(
        self,
        run: Run,
        data: str | Sequence[str],
        *,
        branches: Sequence[str] = (),
        device: str = "",
        threads: int = 2,
        method: Method = "auto",
    ) -> None:
        self.run, self.index, self.method = run, open_index(data), method
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.readers: Mapping[str, Reader] = {
            name: modality.reader() for name, modality in run.modalities.items()
        }
        self.store: Store = embed_split(run, self.index, *branches, device=self.device, threads=threads)
        self.content = SampleContent(self.readers, self.index)
        run.model.eval().to(self.device)
        self.rows = cache(self._index_rows)

    def views(self) -> list[str]:
        """The views that have items."""
        return [view for view, items in self.store.views.items() if len(items.z)]

    def branch_for(self, kind: str) -> str:
        """The branch that embeds queries of a kind: text, image or audio. Raises ValueError for none or several."""
        found = self.branches_of(kind)
        if len(found) != 1:
            which = (
                f"several branches for it: {', '.join(found)}" if found else f"only {', '.join(self.readers)}"
            )
            name = {"image": "picture"}.get(kind, kind)
            raise InvalidValueError(
                f"the query is a {name}, and the run has {which}; choose with --query-branch"
            )
        return found[0]

    def branches_of(self, kind: str) -> list[str]:
        """The branches that embed queries of a kind."""
        if kind == "audio":
            found = [name for name, each in self.run.modalities.items() if isinstance(each, AudioModality)]
            return found or [
                name for name, each in self.readers.items() if set(each.members) & set(RECORDINGS)
            ]
        return image_branches(self.run) if kind == "image" else text_branches(self.run)

    def embed_text(self, text: str, *, branch: str = "", to: str = "") -> Tensor:
        """Embedding (D,) of a text; ``to``: what it predicts of that branch."""
        name = branch or self.branch_for("text")
        return self._embed(name, text_item(self._reader(name), text), to)

    def embed_file(self, file: Path, *, branch: str = "", to: str = "") -> Tensor:
        """Embedding (D,) of an image or a recording of at most 32 MB. Raises ValueError with the reason."""
        if not file.is_file():
            raise MissingFileError(f"{file}: no such file")
        if file.stat().st_size > MAX_FILE:
            raise InvalidValueError(
                f"{file.name} has {file.stat().st_size / 1e6:.0f} MB; at most {MAX_FILE / 1e6:.0f} MB are read: "
                "shrink it"
            )
        name = branch or self.branch_for("image" if is_image(file.suffix) else "audio")
        return self._embed(name, input_of(self._reader(name), file), to)

    def embed_row(self, view: str, row: int) -> Tensor:
        """The stored embedding (D,) of an item."""
        return torch.from_numpy(self.store.items(view).z[row].copy())

    def nearest(self, query_D: Tensor, among: str, *, k: int, skip: int = -1) -> list[Found]:
        """The ``k`` nearest items of a view, best first, without the row ``skip``."""
        cosine, rows = self.rows(among).search(query_D[None], k=k + (skip >= 0))
        pairs = [
            (value, row)
            for value, row in zip(cosine[0].tolist(), rows[0].tolist(), strict=True)
            if row not in (skip, -1)
        ]
        return [self.item(among, row, value) for value, row in pairs[:k]]

    def item(self, view: str, row: int, cosine: float = 1.0) -> Found:
        """One item of a view as it is shown."""
        items = self.store.items(view)
        keys = tuple(self.store.keys[number] for number in items.samples[row])
        shown = self.content.show(view, items.samples[row][0], items.identities[row])
        return Found(view, row, cosine, keys, shown)

    def comparable(self, width: int) -> list[str]:
        """The views whose embeddings have this width."""
        return [view for view in self.views() if self.store.items(view).z.shape[1] == width]

    def _index_rows(self, view: str) -> RowIndex:
        return RowIndex(self.store.items(view).z, method=self.method)

    def _reader(self, name: str) -> Reader:
        self.run.model.branch_named(name)  # KeyError with those there are
        return self.readers[name]

    @torch.inference_mode()
    def _embed(self, name: str, value: Tensor, to: str) -> Tensor:
        predictor = between(self.run.predictors, name, to).to(self.device) if to else torch.nn.Identity()
        z = self.run.model.branch_named(name)(value[None].to(self.device)).z
        return predictor(z)[0].float().cpu().clone()
