"""Whisper's audio encoder (Radford et al., arXiv 2212.04356) over waveforms of any fixed length.

Weights are read from a CTranslate2 conversion (the format of faster-whisper, ``model.bin``): names, shapes and
numbers, nothing that is executed. The published encoder takes 30 seconds; positions are sinusoids, so the first
of them serve shorter inputs, at a cost in proportion. Rows n, samples T, frames F, width E.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmvicreg.modalities import towers

RATE = 16_000
HOP, WINDOW = 160, 400
STRIDE = 2 * HOP
"""Samples of one state: the second convolution halves the frames."""
TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
VERSION = 6


class WhisperEncoder(nn.Module):
    """Waveform (n, T) to (n, E): the mean of the states of frames in which there is sound.

    Padding is exact zeros, as :class:`AudioReader` fills it; a row without any sound takes all its frames.
    """

    def __init__(self, weights: str, *, samples: int) -> None:
        super().__init__()
        from transformers import WhisperConfig
        from transformers.audio_utils import mel_filter_bank
        from transformers.models.whisper.modeling_whisper import WhisperEncoder as Encoder

        state, heads = encoder_state(read_variables(weights), positions=samples // STRIDE)
        width, bins = state["conv1.weight"].shape[:2]
        layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
        config = WhisperConfig(
            d_model=width,
            num_mel_bins=bins,
            encoder_layers=layers,
            encoder_attention_heads=heads,
            encoder_ffn_dim=len(state["layers.0.fc1.weight"]),
            max_source_positions=samples // STRIDE,
        )
        self.encoder: Any = Encoder(config)
        self.encoder.load_state_dict(state)
        self.width = int(width)
        filters = mel_filter_bank(
            WINDOW // 2 + 1, bins, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("filters_MF", torch.from_numpy(filters.T).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

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
    files = [Path(towers.locate(part)) for part in weights.split("::")]
    lost = [str(file) for file in files if not file.is_file()]
    if lost or not weights:
        raise FileNotFoundError(
            f"weights {weights!r}: {lost or 'nothing'} found; expected the model.bin of a CTranslate2 conversion of "
            "Whisper, or its pieces separated by '::'"
        )
    data = b"".join(file.read_bytes() for file in files)
    try:
        return _parse(data)
    except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
        raise ValueError(
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
        raise ValueError(f"version {version}, {name!r}")
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


def encoder_state(variables: dict[str, np.ndarray], *, positions: int) -> tuple[dict[str, Tensor], int]:
    """The encoder's weights under transformers' names, cut to ``positions``, and its number of heads.

    Raises ValueError where the weights are quantised, or for more positions than there are.
    """
    own = {name.removeprefix("encoder/"): v for name, v in variables.items() if name.startswith("encoder/")}
    if any(name.endswith("weight_scale") for name in own):
        raise ValueError("these weights are quantised; expected a conversion to float16 or float32")
    tensors = {name: torch.from_numpy(v.astype(np.float32)) for name, v in own.items() if v.ndim}
    places = tensors.pop("position_encodings/encodings")
    if positions > len(places):
        raise ValueError(
            f"{positions * STRIDE / RATE:g} seconds; Whisper takes at most {len(places) * STRIDE / RATE:g}"
        )
    state = {"embed_positions.weight": places[:positions].clone()}
    for name, value in tensors.items():
        state |= _renamed(name, value)
    return state, int(own["num_heads"])


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
