"""A run as a model of MTEB and MIEB, whose tasks then run on it unchanged.

    import mteb
    from mmvicreg.interop.mteb import MtebEncoder

    mteb.evaluate(MtebEncoder(mm.load("runs/demo")), mteb.get_tasks(tasks=["Flickr30kT2IRetrieval"]))

``pip install "mmvicreg[mteb]"``. Scores are raw cosines of the branches of images and texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.runs.run import Run


class MtebEncoder:
    """MTEB's EncoderProtocol over a run: pictures and texts to unit rows.

    ``device``: "cpu", "cuda", ...; a GPU where there is one if empty. MTEB loads the data and computes the scores.
    """

    def __init__(self, run: Run, *, device: str = "") -> None:
        self.run, self.device = run, device

    @property
    def mteb_model_meta(self) -> Any:
        """Name and revision under which MTEB keeps results: the run's folder and its step."""
        from mteb.models.model_meta import ModelMeta

        values = {
            "name": f"mmvicreg/{self.run.folder.name}",
            "revision": f"step-{self.run.step}",
            "modalities": ["image", "text"],
            "similarity_fn_name": "cosine",
        }
        return ModelMeta.create_empty(values)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: int = 64,
        show_progress_bar: bool = False,
    ) -> np.ndarray:
        """Unit rows float32 (n, D) of MTEB's batches, each of pictures (``image``) or of texts (``text``).

        The task, split and prompt change nothing: a run has no instructions. Raises ValueError for batches of both,
        which a run cannot embed as one item, and of neither.
        """
        return np.concatenate([self._encode(batch, batch_size) for batch in inputs])

    def _encode(self, batch: Mapping[str, Any], batch_size: int) -> np.ndarray:
        found = sorted({"image", "text", "audio", "video"} & set(batch))
        options: dict[str, Any] = {"batch_size": batch_size, "device": self.device}
        if found == ["image"]:
            return self.run.encode_image(list(batch["image"]), **options).numpy()
        if found == ["text"]:
            return self.run.encode_text(list(batch["text"]), **options).numpy()
        raise InvalidValueError(
            f"the task gives items of {' and '.join(found) or 'none of image and text'}; expected pictures or texts: "
            "choose tasks of these two modalities"
        )

    def similarity(self, embeddings1: np.ndarray | Tensor, embeddings2: np.ndarray | Tensor) -> Tensor:
        """Cosines (n, m) of two sets of rows."""
        first, second = _unit(embeddings1), _unit(embeddings2)
        return first @ second.T

    def similarity_pairwise(
        self, embeddings1: np.ndarray | Tensor, embeddings2: np.ndarray | Tensor
    ) -> Tensor:
        """Cosine (n,) of each row with its partner."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(1)


def _unit(rows: np.ndarray | Tensor) -> Tensor:
    return torch.nn.functional.normalize(torch.atleast_2d(torch.as_tensor(rows).float()), dim=1)
