"""Audio: waveforms of one rate and length; convolutions over log-mel or samples, timm, transformers, or Whisper."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.decoding.arrays import first_member
from mmvicreg.modalities.decoding.formats import RECORDINGS
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample, decoding

if TYPE_CHECKING:
    import soundfile
    import torch
    from torch import nn

    from mmvicreg.branches.model import Branch

MAX_CHANNELS = 64
LOUDEST = 1e6
"""Largest sample of a recording, of which 1 is full scale; filters overflow near the largest float32."""
BLOCK = 1 << 16
"""Frames that are decoded at a time."""
RATES = (1_000, 400_000)
"""Sample rates that are read (chosen: no real recording lies outside)."""


@dataclass(frozen=True)
class AudioModality:
    """An audio branch; see the fields for what can be chosen. Needs ``pip install "mmvicreg[audio]"``."""

    encoder: str = "mel"
    """mel (convolutions over log-mel), wave (convolutions over samples), timm/NAME over log-mel, whisper/SIZE (tiny,
    base, small, medium, large), or transformers/NAME-or-folder of a model of waveforms such as wav2vec2"""
    weights: str = ""
    """initial weights: empty for random, "hub", or a file; of whisper, the model.bin of a CTranslate2 conversion,
    its pieces separated by ::"""
    frozen: bool = False
    """keep the encoder as it is and train the projector only"""
    learning_rate: float | None = None
    """learning rate of this branch; None for that of the run"""
    projector: tuple[int, ...] = (2048, 2048, 2048)
    """widths of the projector's layers; empty for no projector"""
    dropout: float = 0.0
    """dropout inside the projector"""
    members: tuple[str, ...] = RECORDINGS
    """member suffixes that hold the recording; the first that a sample has is read"""
    rate: int = 16_000
    """samples a second that every recording is brought to"""
    seconds: float = 4.0
    """length of every input: longer recordings are cut, shorter ones have silence around them"""
    speed: tuple[float, float] = (1.0, 1.0)
    """slowest and fastest playing of a training recording; pitch goes along"""
    gain: float = 0.0
    """largest change of loudness while training, in decibels"""
    bins: int = 64
    """mel bins"""
    time_mask: float = 0.0
    """largest fraction of frames silenced while training (SpecAugment)"""
    frequency_mask: float = 0.0
    """largest fraction of mel bins silenced while training (SpecAugment)"""
    width: int = 16
    """of mel and wave: channels of the first convolution"""
    precomputed_views: int = 0
    """with a frozen encoder: augmented views precomputed per sample, of which training draws one; 0 encodes each
    step anew"""

    def reader(self) -> AudioReader:
        """Bytes to float32 (rate * seconds,). Raises ModuleNotFoundError without soundfile."""
        try:
            import soundfile  # noqa: F401
        except ModuleNotFoundError:
            raise ModuleNotFoundError("audio is read by soundfile: pip install 'mmvicreg[audio]'") from None
        return AudioReader(
            suffixes=self.members, rate=self.rate, seconds=self.seconds, speed=self.speed, gain=self.gain
        )

    def branch(self) -> Branch:
        """float32 (n, rate * seconds) to h (n, E) and z (n, D)."""
        from mmvicreg.branches.model import Branch, projector

        encoder, width = self._encoder()
        return Branch(
            encoder,
            projector(width, self.projector, dropout=self.dropout),
            frozen=self.frozen,
            learning_rate=self.learning_rate,
        )

    def _encoder(self) -> tuple[nn.Module, int]:
        from torch import nn

        from mmvicreg.modalities.encoders import convolutions as networks
        from mmvicreg.modalities.encoders import pretrained as towers
        from mmvicreg.modalities.encoders.hugging_face import transformers_tower

        samples = round(self.rate * self.seconds)
        if self.encoder == "wave":
            net = networks.convolutions_1d(1, width=self.width, length=samples, first_stride=8)
            return nn.Sequential(networks.Waveform(), net), net.width
        if self.encoder.startswith("whisper/"):
            return self._whisper(samples)
        if self.encoder.startswith("transformers/"):
            tower = transformers_tower(self.encoder, weights=self.weights, pool="mean", takes="audio")
            return tower.module, tower.width
        mel = networks.LogMel(
            self.rate, bins=self.bins, time_mask=self.time_mask, frequency_mask=self.frequency_mask
        )
        if samples < mel.size:
            raise InvalidValueError(
                f"{samples} samples are less than one window of {mel.size}; "
                f"set seconds to {mel.size / self.rate:g} or more"
            )
        extent = (self.bins, mel.frames(samples))
        if self.encoder == "mel":
            net = networks.convolutions_2d(1, width=self.width, extent=extent, keep_rows=True)
            return nn.Sequential(mel, net), net.width
        if self.encoder.startswith("timm/"):
            tower = towers.timm_image(self.encoder, weights=self.weights, size=extent, channels=1)
            return nn.Sequential(mel, tower.module), tower.width
        raise InvalidValueError(
            f"audio encoder {self.encoder!r}: expected mel, wave, whisper/SIZE, timm/NAME or "
            "transformers/NAME-or-folder"
        )

    def _whisper(self, samples: int) -> tuple[nn.Module, int]:
        from mmvicreg.modalities.encoders import whisper

        if self.rate != whisper.RATE:
            raise InvalidValueError(f"whisper takes {whisper.RATE} samples a second, found rate {self.rate}")
        size = whisper.SIZES.get(self.encoder.partition("/")[2])
        if size is None:
            raise InvalidValueError(
                f"audio encoder {self.encoder!r}: sizes of whisper are {', '.join(whisper.SIZES)}"
            )
        return whisper.WhisperEncoder(size, samples=samples, weights=self.weights), size.width


@dataclass(frozen=True)
class AudioReader(Reader):
    """A stretch of a recording, mixed to one channel: anywhere in it for training, its middle for evaluation."""

    suffixes: tuple[str, ...]
    rate: int
    seconds: float
    speed: tuple[float, float]
    gain: float

    @property
    def members(self) -> tuple[str, ...]:
        return self.suffixes

    @property
    def shape(self) -> tuple[int, ...]:
        return (round(self.rate * self.seconds),)

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.float32

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        place, speed = generator.random(), generator.uniform(*self.speed)
        decibels = generator.uniform(-self.gain, self.gain)
        return self._item(sample, place=place, speed=speed, factor=10 ** (decibels / 20))

    def items(self, sample: Sample) -> list[Item]:
        item = self._item(sample, place=0.5, speed=1.0, factor=1.0)
        return [] if item is None else [item]

    def _item(self, sample: Sample, *, place: float, speed: float, factor: float) -> Item | None:
        import torch

        found = first_member(sample.members, self.suffixes)
        if found is None:
            return None
        wave, rate, recovered = decode(found[1], seconds=self.seconds * speed, place=place)
        wave = resample(wave, round(len(wave) * self.rate / (rate * speed))) * np.float32(factor)
        value = np.zeros(self.shape, np.float32)
        wave = wave[: len(value)]
        start = round((len(value) - len(wave)) * place)
        value[start : start + len(wave)] = wave
        return Item(torch.from_numpy(value), recovered=recovered)


def decode(data: bytes, *, seconds: float, place: float) -> tuple[np.ndarray, int, str]:
    """At most ``seconds`` of a recording as float32 (T,), its rate, and what was recovered from.

    ``place`` 0 to 1 says which stretch of a longer recording: from its beginning to its end. Only the stretch
    is decoded. Raises BadSampleError for bytes that libsndfile cannot read, or without sound in them.
    """
    import soundfile

    with decoding("not a recording"), soundfile.SoundFile(io.BytesIO(data)) as file:
        rate, total = file.samplerate, file.frames
        if not RATES[0] <= rate <= RATES[1] or file.channels > MAX_CHANNELS:
            raise BadSampleError(f"unusual recording: {file.channels} channels at {rate} Hz")
        wanted = min(total, max(1, round(seconds * rate)))
        if total > wanted:
            file.seek(round((total - wanted) * place))
        wave = _mixed(file, wanted)
    if not len(wave):
        raise BadSampleError("no sound: a recording of 0 samples")
    if not np.isfinite(wave).all():
        raise BadSampleError("not finite: samples of a recording")
    if np.abs(wave).max() > LOUDEST:
        raise BadSampleError(f"too loud: a recording with samples above {LOUDEST:g} times full scale")
    return wave, rate, "" if len(wave) == wanted else f"{len(wave)} of {wanted} samples"


def _mixed(file: soundfile.SoundFile, frames: int) -> np.ndarray:
    """The next ``frames`` as the mean of the channels, float32 (T,): 64 channels take no more memory than one."""
    blocks = []
    while frames > 0 and len(block := file.read(min(frames, BLOCK), dtype="float32", always_2d=True)):
        blocks.append(block.mean(1))
        frames -= len(block)
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def resample(wave: np.ndarray, length: int) -> np.ndarray:
    """float32 (T,) to (length,): the spectrum is cut or extended, so nothing folds back."""
    length = max(1, length)
    if length == len(wave):
        return wave
    spectrum = np.fft.rfft(wave)
    return (np.fft.irfft(spectrum[: length // 2 + 1], n=length) * (length / len(wave))).astype(np.float32)
