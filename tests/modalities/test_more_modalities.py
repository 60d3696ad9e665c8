"""Audio, tables, precomputed vectors, series and rasters: values, bounds, every encoder, unusable bytes."""

import io
import json
import math
import pickle
import struct
import tracemalloc
import wave
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.numpy import save
from towers_small import audio_folder, text_folder

from mmvicreg import (
    AudioModality,
    BadSampleError,
    Modality,
    RasterModality,
    Sample,
    SeriesModality,
    TableModality,
    VectorModality,
)
from mmvicreg.modalities.audio import resample
from mmvicreg.modalities.encoders.convolutions import LogMel
from mmvicreg.randomness import generator
from mmvicreg.runs.config import from_json, to_json


def sample(**members: bytes) -> Sample:
    return Sample("some", 7, {name.replace("_", "."): data for name, data in members.items()})


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def tone(
    hertz: float, *, seconds: float = 1.0, rate: int = 8000, format: str = "WAV", channels: int = 1
) -> bytes:
    t = np.arange(round(seconds * rate)) / rate
    file = io.BytesIO()
    soundfile.write(file, np.stack([np.sin(2 * math.pi * hertz * t) / 2] * channels, 1), rate, format=format)
    return file.getvalue()


def audio(**fields: Any) -> AudioModality:
    small: dict[str, Any] = {"rate": 4000, "seconds": 0.5, "bins": 32, "width": 4, "projector": (6, 4)}
    return AudioModality(**small | fields)


def picture(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


TABLE = TableModality(numbers=("size", "age"), categories=("kind",), width=8, projector=(6, 4))
VECTOR = VectorModality(width=5, projector=(6, 4))
SERIES = SeriesModality(channels=2, length=64, width=4, projector=(6, 4))
RASTER = RasterModality(size=32, width=4, projector=(6, 4))
RECORD = sample(json=b'{"size": 2.5, "age": null, "kind": "oak"}')
MADE: list[tuple[Modality, Sample, int]] = [
    (audio(), sample(wav=tone(440)), 2 * 32),
    (audio(encoder="wave"), sample(ogg=tone(440, format="OGG")), 2 * 16),
    (audio(encoder="timm/test_resnet"), sample(flac=tone(440, format="FLAC")), 96),
    (audio(encoder=f"transformers/{audio_folder()}", seconds=1.0), sample(wav=tone(440)), 16),
    (TABLE, RECORD, 8),
    (VECTOR, sample(npy=npy(np.arange(5.0))), 5),
    (SERIES, sample(npy=npy(np.random.default_rng(0).normal(size=(100, 2)))), 32),
    (RASTER, sample(npy=npy(np.full((40, 50), 5.0))), 64),
    (
        RasterModality(encoder="timm/test_resnet", channels=5, size=32, projector=(6, 4)),
        sample(npy=npy(np.ones((40, 50, 5)))),
        96,
    ),
]
NAMES = [type(made).__name__ + getattr(made, "encoder", "")[:12] for made, _, _ in MADE]


@pytest.mark.parametrize(("modality", "given", "width"), MADE, ids=NAMES)
def test_bytes_become_an_embedding_and_every_weight_a_gradient(
    modality: Modality, given: Sample, width: int
) -> None:
    assert from_json(to_json(modality)) == modality
    reader = pickle.loads(pickle.dumps(modality.reader()))
    branch = modality.branch()
    readings = [reader.read(given, generator(n)) for n in range(3)] + reader.items(given)
    x = torch.stack([item.value for item in readings])
    assert x.shape == (4, *reader.shape) and x.dtype == reader.dtype
    found = branch(x)
    assert found.h.shape == (4, width) and found.z.shape == (4, 4)
    found.z.square().sum().backward()
    trained = [parameter for parameter in branch.parameters() if parameter.requires_grad]
    assert trained and all(parameter.grad is not None for parameter in trained)
    assert branch(x[:0]).z.shape == (0, 4)
    assert reader.read(sample(), generator(0)) is None and reader.items(sample()) == []


def test_no_layer_is_dropped_for_a_step() -> None:
    """wav2vec2 drops a whole layer in a tenth of the steps: its gradients would be missing, and DDP wait for them."""
    branch = audio(encoder=f"transformers/{audio_folder()}", seconds=1.0).branch()
    for seed in range(40):
        torch.manual_seed(seed)
        branch.zero_grad()
        branch(torch.randn(2, 4000)).z.square().sum().backward()
        assert all(p.grad is not None for p in branch.parameters() if p.requires_grad), seed


def read(modality: Modality, **members: bytes) -> torch.Tensor:
    return modality.reader().items(sample(**members))[0].value


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (4000, 2), (3001, 1), (44_100, 2)])
def test_recordings_of_any_rate_become_the_same_tone(rate: int, channels: int) -> None:
    found = read(audio(), wav=tone(440, rate=rate, channels=channels))
    spectrum = torch.fft.rfft(found * torch.hann_window(len(found))).abs()
    assert spectrum.argmax().item() == 220  # bins of 2 Hz: half a second
    assert found.abs().max().item() == pytest.approx(0.5, abs=0.03)


def test_resampling_does_not_fold_what_the_new_rate_cannot_hold() -> None:
    t = np.arange(8000) / 8000
    high = np.sin(2 * math.pi * 3000 * t).astype(np.float32)
    assert np.abs(resample(high, 4000)).max() < 1e-3


def test_shorter_recordings_stand_in_silence_and_longer_ones_are_cut() -> None:
    short = read(audio(), wav=tone(440, seconds=0.25))
    assert not short[:480].any() and not short[-480:].any() and short[510:1490].abs().max() > 0.4
    assert read(audio(), wav=tone(440, seconds=3)).abs()[[0, 1, 2, -3, -2, -1]].max() > 0.1


def test_only_the_stretch_of_a_long_recording_is_decoded() -> None:
    data = tone(440, seconds=400)
    tracemalloc.start()
    read(audio(), wav=data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_speed_and_gain_change_a_training_reading() -> None:
    reader = audio(speed=(1.25, 1.25), gain=6.0).reader()
    values = [reader.read(sample(wav=tone(400)), generator(n)).value for n in range(4)]  # type: ignore[union-attr]
    assert torch.fft.rfft(values[0] * torch.hann_window(2000)).abs().argmax().item() == 250
    assert len({round(value.abs().max().item(), 3) for value in values}) == 4


def test_log_mel_finds_the_tone_and_masks_only_while_training() -> None:
    mel = LogMel(4000, bins=32, time_mask=0.5, frequency_mask=0.5)
    low, high = (read(audio(), wav=tone(f))[None] for f in (300, 1500))
    assert mel.eval()(low).mean(-1).argmax() < mel(high).mean(-1).argmax()
    assert mel(low).shape == (1, 1, 32, mel.frames(2000))
    assert not torch.equal(mel.train()(low), mel.eval()(low))


def test_a_table_keeps_numbers_and_hashes_words() -> None:
    found = read(TABLE, json=b'{"size": "2.5", "age": 1e999, "kind": "oak", "other": 1}')
    assert found[0] == 2.5 and found[1].isnan() and 0 <= found[2] < 1024
    csv = TableModality(numbers=("size",), categories=("kind",), members=("csv",))
    row = read(csv, csv=b"kind,size\noak,2.5\n")
    assert row.tolist() == [2.5, found[2].item()]
    assert TABLE.reader().items(sample(json=b'{"size": "unknown"}')) == []


def test_a_missing_number_is_known_to_be_missing() -> None:
    branch = TABLE.branch().eval()
    x = torch.tensor([[0.0, 1.0, 2.0], [math.nan, 1.0, 2.0]])
    h = branch(x).h
    assert torch.isfinite(h).all() and not torch.equal(h[0], h[1])


def test_vectors_of_a_sample_are_drawn_from_and_all_evaluated() -> None:
    several = np.arange(15.0).reshape(3, 5)
    reader = VECTOR.reader()
    assert len(reader.items(sample(npy=npy(several)))) == 3
    drawn = {reader.read(sample(npy=npy(several)), generator(n)).value[0].item() for n in range(30)}  # type: ignore[union-attr]
    assert drawn == {0.0, 5.0, 10.0}
    stored = save({"clip": np.ones(5, np.float16), "other": np.zeros(3)})
    assert read(VectorModality(width=5, tensor="clip"), safetensors=stored).tolist() == [1.0] * 5


def test_a_series_is_standardised_by_its_channels() -> None:
    array = np.random.default_rng(0).normal(size=(64, 2)) * [1, 1000] + [5, -7]
    found = read(SERIES, npy=npy(array))
    torch.testing.assert_close(found.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(1), torch.ones(2), atol=0.01, rtol=0)
    assert not read(SERIES, npy=npy(array[:10]))[:, 10:].any()


def test_sixteen_bits_of_depth_survive() -> None:
    depth = np.full((40, 50), 2500, np.uint16)
    depth[:, 25:] = 2501
    made = RasterModality(scale=0.001, clip=(0.0, 10.0), size=40)
    found = read(made, depth_png=picture(depth))
    assert found.min().item() == pytest.approx(0.25) and found.max().item() == pytest.approx(0.2501)


def png16_rgb() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"\0" + b"\1" * 12 + b"\0" + b"\1" * 12))
    return b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b"")


def silent(frames: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(2)
        made.setframerate(8000)
        made.writeframes(b"\0\0" * frames)
    return file.getvalue()


UNUSABLE: list[tuple[Modality, dict[str, bytes]]] = [
    (audio(), {"wav": b"no sound at all"}),
    (audio(), {"ogg": tone(440, format="OGG")[:40]}),
    (audio(), {"wav": silent(0)}),
    (TABLE, {"json": b"[1, 2]"}),
    (TABLE, {"json": b"\xff"}),
    (TABLE, {"json": b'{"size": 1' + b" " * 1_000_000 + b"}"}),
    (VECTOR, {"npy": npy(np.zeros(4))}),
    (VECTOR, {"npy": npy(np.array([object()] * 5))}),
    (VECTOR, {"npy": npy(np.array([1, 2, 3, 4, math.inf]))}),
    (VECTOR, {"npy": npy(np.full(5, 1e300))}),
    (VECTOR, {"npy": npy(np.array(list("abcde")))}),
    (VECTOR, {"npy": npy(np.zeros(5))[:-3]}),
    (VECTOR, {"safetensors": b"\xff" * 20}),
    (VECTOR, {"safetensors": save({"a": np.zeros(5), "b": np.zeros(5)})}),
    (SERIES, {"npy": npy(np.zeros((10, 3)))}),
    (SERIES, {"npy": npy(np.zeros((0, 2)))}),
    (RASTER, {"npy": npy(np.zeros((4, 4, 2)))}),
    (RASTER, {"png": b"\x89PNG\r\n\x1a\n"}),
    (RASTER, {"png": png16_rgb()}),
    (RasterModality(max_pixels=100), {"png": picture(np.zeros((20, 20), np.uint8))}),
]


@pytest.mark.parametrize(("modality", "members"), UNUSABLE)
def test_unusable_bytes_are_a_bad_sample(modality: Modality, members: dict[str, bytes]) -> None:
    for reading in (lambda: read(modality, **members), draw(modality, members)):
        with pytest.raises(BadSampleError, match=r"\w"):
            reading()


def draw(modality: Modality, members: dict[str, bytes]) -> Callable[[], object]:
    return lambda: modality.reader().read(sample(**members), generator(0))


def test_a_claimed_size_is_refused_before_it_is_allocated() -> None:
    header = npy(np.zeros(5)).replace(b"(5,)", b"(5000000000000,)"[:16])
    tracemalloc.start()
    with pytest.raises(BadSampleError):
        read(VECTOR, npy=header)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("modality", "message"),
    [
        (audio(encoder="spectral"), "mel, wave, whisper/SIZE, timm/NAME"),
        (audio(encoder=f"transformers/{text_folder()}"), "takes no waveform"),
        (audio(seconds=0.001), "set seconds to"),
        (TableModality(), "name them"),
        (TableModality(numbers=("a",), members=("xml",)), "json:FIELD or csv"),
        (RasterModality(encoder="open_clip/ViT-B-32"), "conv or timm/NAME"),
    ],
)
def test_mistakes_are_named(modality: Modality, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        modality.branch()


def test_records_are_json() -> None:
    nested = TableModality(numbers=("size",), members=("json:tree",))
    assert read(nested, json=json.dumps({"tree": {"size": 3}}).encode()).tolist() == [3.0]
