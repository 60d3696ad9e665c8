"""Small encoders trained from nothing: convolutions over one or two dimensions, columns of a table, log-mel.

Shapes: n rows, C channels, T samples or frames, M mel bins, E width of the representation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """One convolution, batch normalization and ReLU."""

    width: int
    kernel: int
    stride: tuple[int, ...]


class Convolutions(nn.Module):
    """(n, C, *extent) to (n, E): layers, then mean and maximum over the last axis (``keep_rows``) or over all.

    With ``keep_rows``, the axes before the last stay apart: of a spectrogram, low and high frequencies.
    """

    def __init__(
        self, channels: int, layers: tuple[Layer, ...], *, extent: tuple[int, ...], keep_rows: bool = False
    ) -> None:
        super().__init__()
        flat = len(extent) == 1
        convolution: Any = nn.Conv1d if flat else nn.Conv2d
        norm = nn.BatchNorm1d if flat else nn.BatchNorm2d
        modules: list[nn.Module] = []
        for layer in layers:
            padding = layer.kernel // 2
            made = convolution(
                channels, layer.width, layer.kernel, stride=layer.stride, padding=padding, bias=False
            )
            modules += [made, norm(layer.width), nn.ReLU(inplace=True)]
            channels = layer.width
            extent = tuple(
                (size + 2 * padding - layer.kernel) // step + 1
                for size, step in zip(extent, layer.stride, strict=True)
            )
        self.layers = nn.Sequential(*modules)
        self.keep_rows = keep_rows
        self.width = 2 * channels * (math.prod(extent[:-1]) if keep_rows else 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        y = y.flatten(1, -2) if self.keep_rows else y.flatten(2)
        return torch.cat([y.mean(-1), y.amax(-1)], 1)


def convolutions_1d(channels: int, *, width: int, length: int, first_stride: int = 2) -> Convolutions:
    """Five layers over a series (n, channels, length); ``first_stride`` 8 suits a waveform."""
    first = Layer(width, 4 * first_stride + 1, (first_stride,))
    rest = [Layer(width * scale, 5, (2,)) for scale in (1, 2, 2, 4)]
    return Convolutions(channels, (first, *rest), extent=(length,))


def convolutions_2d(channels: int, *, width: int, extent: tuple[int, int], keep_rows: bool) -> Convolutions:
    """Five layers over (n, channels, rows, columns); with ``keep_rows`` columns are time and shrink less."""
    column = (2, 1, 2, 1, 2) if keep_rows else (2,) * 5
    widths = (width, 2 * width, 4 * width, 8 * width, 8 * width)
    layers = tuple(Layer(each, 3, (2, step)) for each, step in zip(widths, column, strict=True))
    return Convolutions(channels, layers, extent=extent, keep_rows=keep_rows)


class LogMel(nn.Module):
    """Waveform (n, T) in -1 to 1 to log-mel energies (n, 1, M, frames), about zero mean and unit deviation.

    Slaney's triangles are not used: the mel scale is 2595 log10(1 + f / 700) and triangles have height 1.
    While training, ``time_mask`` and ``frequency_mask`` are the largest fractions of frames and of bins that
    SpecAugment (Park et al., arXiv 1904.08779) silences, one stripe of each a row.
    """

    window: Tensor
    filters_MF: Tensor

    def __init__(
        self, rate: int, *, bins: int, hop: float = 0.01, time_mask: float = 0.0, frequency_mask: float = 0.0
    ) -> None:
        super().__init__()
        self.hop = max(1, round(hop * rate))
        self.size = 2 ** math.ceil(math.log2(0.025 * rate))
        self.time_mask, self.frequency_mask = time_mask, frequency_mask
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)
        self.register_buffer("filters_MF", mel_filters(rate, bins=bins, size=self.size), persistent=False)

    def frames(self, samples: int) -> int:
        """Frames of a waveform of ``samples``."""
        return samples // self.hop + 1

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.stft(x.float(), self.size, self.hop, window=self.window, return_complex=True)
            energy = self.filters_MF @ spectrum.abs().square()
            # Speech lies between -12 (silence) and 4: centre and scale are constants of this clamp.
            y = (energy.clamp(min=1e-6).log() + 5) / 4
        if self.training and (self.time_mask or self.frequency_mask):
            y = y.masked_fill(_stripes(y, -1, self.time_mask) | _stripes(y, -2, self.frequency_mask), 0.0)
        return y.unsqueeze(1)


def _stripes(y: Tensor, axis: int, fraction: float) -> Tensor:
    """Bool, broadcastable to ``y`` (n, M, T): one stripe along ``axis`` of a random width up to ``fraction`` of it."""
    size = y.shape[axis]
    width = torch.rand(len(y), 1, 1, device=y.device) * fraction * size
    start = torch.rand(len(y), 1, 1, device=y.device) * (size - width)
    place = torch.arange(size, device=y.device).view((1, 1, -1) if axis == -1 else (1, -1, 1))
    return (place >= start) & (place < start + width)


def mel_filters(rate: int, *, bins: int, size: int) -> Tensor:
    """(bins, size // 2 + 1) triangles of equal width on the mel scale, from 40 Hz to half the rate."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (40, rate / 2))
    edges = 700 * (10 ** (torch.linspace(low, high, bins + 2, dtype=torch.float64) / 2595) - 1)
    f = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return torch.minimum((f - left) / (centre - left), (right - f) / (right - centre)).clamp(min=0).float()


class Columns(nn.Module):
    """Columns of a table, float (n, numbers + categories), to (n, E).

    A number that is missing is NaN: it counts as 0 beside a flag that says so, and batch normalization brings all
    columns to one scale. A category is its bucket, below 0 where it is missing.
    """

    def __init__(self, numbers: int, categories: int, *, buckets: int, width: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.norm = nn.BatchNorm1d(2 * numbers) if numbers else nn.Identity()
        self.embeddings = nn.ModuleList(nn.Embedding(buckets + 1, width // 4) for _ in range(categories))
        self.mix = nn.Sequential(
            nn.Linear(2 * numbers + categories * (width // 4), width), nn.BatchNorm1d(width), nn.ReLU()
        )
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        number, category = x[:, : self.numbers], x[:, self.numbers :].long() + 1
        missing = number.isnan()
        parts = [self.norm(torch.cat([number.masked_fill(missing, 0.0), missing.to(x.dtype)], 1))]
        parts += [embed(category[:, column]) for column, embed in enumerate(self.embeddings)]
        return self.mix(torch.cat(parts, 1))


class Waveform(nn.Module):
    """Waveform (n, T) as one channel (n, 1, T)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1)
