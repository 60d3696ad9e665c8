"""Whisper's audio encoder (Radford et al., arXiv 2212.04356) over waveforms of any fixed length.

Weights are read from a CTranslate2 conversion (the format of faster-whisper, ``model.bin``): names, shapes and
numbers, nothing that is executed. The published encoder takes 30 seconds; positions are sinusoids, so the first
of them serve shorter inputs, at a cost in proportion. Rows n, samples T, frames F, width E.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.modalities.encoders.weights import locate

RATE = 16_000
HOP, WINDOW = 160, 400
STRIDE = 2 * HOP
"""Samples of one state: the second convolution halves the frames."""
TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
VERSION = 6
POSITIONS = 1500


@dataclass(frozen=True)
class Size:
    """A published encoder: width of its states, layers, attention heads, mel bins."""

    width: int
    layers: int
    heads: int
    bins: int = 80


SIZES = {
    "tiny": Size(384, 4, 6),
    "base": Size(512, 6, 8),
    "small": Size(768, 12, 12),
    "medium": Size(1024, 24, 16),
    "large": Size(1280, 32, 20),
}


class WhisperEncoder(nn.Module):
    """Waveform (n, T) to (n, E): the mean of the states of frames in which there is sound.

    Padding is exact zeros, as :class:`AudioReader` fills it; a row without any sound takes all its frames.
    Without ``weights`` they are random. Raises ValueError for more than 30 seconds, and for weights that do not
    fit.
    """

    filters_MF: Tensor
    window: Tensor

    def __init__(self, size: Size, *, samples: int, weights: str = "") -> None:
        super().__init__()
        from transformers import WhisperConfig
        from transformers.audio_utils import mel_filter_bank
        from transformers.models.whisper.modeling_whisper import WhisperEncoder as Encoder

        positions = samples // STRIDE
        if not 0 < positions <= POSITIONS:
            raise InvalidValueError(
                f"{samples / RATE:g} seconds; Whisper takes up to {POSITIONS * STRIDE // RATE}"
            )
        config = WhisperConfig(
            d_model=size.width,
            num_mel_bins=size.bins,
            encoder_layers=size.layers,
            encoder_attention_heads=size.heads,
            encoder_ffn_dim=4 * size.width,
            max_source_positions=positions,
        )
        self.encoder: Any = Encoder(config)
        if weights:
            self._load(weights, positions)
        filters = mel_filter_bank(
            WINDOW // 2 + 1, size.bins, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("filters_MF", torch.from_numpy(filters.T).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def _load(self, weights: str, positions: int) -> None:
        state = encoder_state(read_variables(weights), positions=positions)
        found = {name: tuple(value.shape) for name, value in state.items()}
        wanted = {name: tuple(value.shape) for name, value in self.encoder.state_dict().items()}
        if found != wanted:
            name = next(name for name in [*wanted, *found] if wanted.get(name) != found.get(name))
            raise InvalidValueError(
                f"weights {weights!r} are of another size: {name} is {found.get(name, 'missing')}, expected "
                f"{wanted.get(name, 'nothing')}; sizes are {', '.join(f'whisper/{size}' for size in SIZES)}"
            )
        self.encoder.load_state_dict(state)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, : x.shape[1] // STRIDE * STRIDE]
        states = self.encoder(self.log_mel(x)).last_hidden_state
        heard = x.unflatten(1, (-1, STRIDE)).ne(0).any(-1)
        heard = heard | ~heard.any(1, keepdim=True)
        weight = heard.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1)

    def log_mel(self, x: Tensor) -> Tensor:
        """(n, T) to (n, M, T / hop), scaled as Whisper was trained: 8 decades below the loudest are floor."""
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.stft(x.float(), WINDOW, HOP, window=self.window, return_complex=True)
            y = (self.filters_MF @ spectrum[..., :-1].abs().square()).clamp(min=1e-10).log10()
            y = torch.maximum(y, y.amax((1, 2), keepdim=True) - 8)
        return (y + 4) / 4


def read_variables(weights: str) -> dict[str, np.ndarray]:
    """The arrays of a CTranslate2 ``model.bin``, by name.

    ``weights``: a file, or its pieces separated by ``::`` in order (a package registry limits what one file may
    hold); each may be ``package:NAME/REST``. Raises FileNotFoundError, and ValueError for anything else inside.
    """
    files = [Path(locate(part)) for part in weights.split("::")]
    lost = [str(file) for file in files if not file.is_file()]
    if lost or not weights:
        raise MissingFileError(
            f"weights {weights!r}: {lost or 'nothing'} found; expected the model.bin of a CTranslate2 conversion of "
            "Whisper, or its pieces separated by '::'"
        )
    data = b"".join(file.read_bytes() for file in files)
    try:
        return _parse(data)
    except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
        raise InvalidValueError(
            f"weights {weights!r} are not a whole CTranslate2 file of version {VERSION} ({error}); name model.bin, "
            "or all its pieces in order"
        ) from None


def _parse(data: bytes) -> dict[str, np.ndarray]:
    """Little-endian: version, specification's name and revision, count, then name, shape, type, size, numbers."""
    at = 0

    def take(code: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize("<" + code)
        return int(value)

    def text() -> str:
        nonlocal at
        size = take("H")
        at += size
        return data[at - size : at].rstrip(b"\0").decode("ascii")

    version, name = take("I"), text()
    if (version, name) != (VERSION, "WhisperSpec"):
        raise InvalidValueError(f"version {version}, {name!r}")
    take("I")
    found: dict[str, np.ndarray] = {}
    for _ in range(take("I")):
        name = text()
        shape = tuple(take("I") for _ in range(take("B")))
        dtype = np.dtype(TYPES[take("B")])
        size = take("I")
        found[name] = np.frombuffer(data[at : at + size], dtype).reshape(shape)
        at += size
    return found


def encoder_state(variables: dict[str, np.ndarray], *, positions: int) -> dict[str, Tensor]:
    """The encoder's weights under transformers' names, cut to ``positions``. ValueError for quantized ones."""
    own = {name.removeprefix("encoder/"): v for name, v in variables.items() if name.startswith("encoder/")}
    if any(name.endswith("weight_scale") for name in own):
        raise InvalidValueError("these weights are quantized; expected a conversion to float16 or float32")
    tensors = {name: torch.from_numpy(v.astype(np.float32)) for name, v in own.items() if v.ndim}
    state = {"embed_positions.weight": tensors.pop("position_encodings/encodings")[:positions].clone()}
    for name, value in tensors.items():
        state |= _renamed(name, value)
    return state


PARTS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}


def _renamed(name: str, value: Tensor) -> dict[str, Tensor]:
    """One variable of CTranslate2 under transformers' name; queries, keys and values are one there, three here."""
    path, _, kind = name.rpartition("/")
    kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
    layer, _, part = path.partition("/")
    if not layer.startswith("layer_") or not part:
        return {f"{path}.{kind}": value}
    prefix = f"layers.{layer.removeprefix('layer_')}"
    if part in PARTS:
        return {f"{prefix}.{PARTS[part]}.{kind}": value}
    split = zip("qkv", value.chunk(3), strict=True)
    # Whisper's keys have no bias: CTranslate2 stores zeros for it.
    return {f"{prefix}.self_attn.{x}_proj.{kind}": v for x, v in split if (x, kind) != ("k", "bias")}
