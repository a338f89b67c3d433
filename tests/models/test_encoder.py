"""The encoder as its users meet it: prefixes of unit length, files, modes, loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import mrl
from mrl.errors import AudioError, CheckpointError
from mrl.models.checkpoint_format import FORMAT, VERSION
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import build_released


@pytest.fixture
def encoder(released) -> SpeakerEncoder:
    return SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 32, dropout=0.5), [8, 32])


@pytest.fixture
def content(encoder) -> dict:
    return {
        "format": FORMAT, "version": VERSION, "config": {}, "model_config": encoder.model_config,
        "dims": list(encoder.dims), "encoder": encoder.state_dict(), "lists": {},
    }  # fmt: skip


@pytest.fixture
def strided() -> dict[str, Any]:
    """A ReDimNet2 whose slowest stage joins four frames."""
    stages = [[[1, 1], 1, 1, [[3, 3]], None], [[2, 4], 1, 1, [[3, 3]], 12]]
    return {"F": 24, "C": 4, "stages_setup": stages, "causal": "none", "spec_params": {"norm_signal": True}}


CROPS = torch.randn(3, 12_000, generator=torch.Generator().manual_seed(0)) * 0.1


def test_prefixes_are_slices_normalised_after_slicing(encoder):
    full, small = encoder.embed(CROPS), encoder.embed(CROPS, dim=5)
    assert full.shape == (3, 32)
    torch.testing.assert_close(small, torch.nn.functional.normalize(full[:, :5], dim=1))
    torch.testing.assert_close(small.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(encoder.embed(CROPS[1], dim=5), small[1], atol=1e-5, rtol=0)


def test_embedding_ignores_and_keeps_the_mode(encoder):
    encoder.train()
    encoder.backbone.eval()
    assert torch.equal(encoder.embed(CROPS), encoder.embed(CROPS))  # dropout would make them differ
    assert encoder.head.training
    assert not encoder.backbone.training


@pytest.mark.parametrize("dim", [0, 33, -1])
def test_prefixes_outside_the_embedding_are_refused(encoder, dim):
    with pytest.raises(ValueError, match=r"outside 1\.\.32"):
        encoder.embed(CROPS, dim=dim)


def test_files_are_resampled_and_embedded_whole(encoder, tmp_path):
    soundfile.write(tmp_path / "a.wav", CROPS[0].numpy(), 16_000, subtype="FLOAT")
    torch.testing.assert_close(encoder.embed_file(tmp_path / "a.wav", dim=8), encoder.embed(CROPS[0], dim=8))
    soundfile.write(tmp_path / "b.wav", np.zeros(0), 16_000)
    with pytest.raises(AudioError, match=r"b\.wav"):
        encoder.embed_file(tmp_path / "b.wav")


def test_numpy_and_torch_waveforms_of_any_precision_embed_alike(encoder):
    expected = encoder.embed(CROPS)
    arrays = CROPS.numpy()
    foreign = arrays.astype(">f4")
    read_only = arrays.copy()
    read_only.flags.writeable = False
    for waveform in (arrays, foreign, read_only, arrays.astype(np.float64), CROPS.double()):
        assert torch.equal(encoder.embed(waveform), expected)
    backwards = np.ascontiguousarray(arrays[0, ::-1])
    assert torch.equal(encoder.embed(arrays[0, ::-1]), encoder.embed(backwards))
    assert encoder.embed(arrays[0], dim=8).shape == (8,)
    assert encoder.embed(torch.zeros(0, 12_000), dim=8).shape == (0, 8)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("waveform", "error", "complaint"),
    [
        (np.zeros(9000, np.int16), TypeError, "int16: .*divide int16 by 32768"),
        (torch.zeros(9000, dtype=torch.int16), TypeError, "int16: .*divide int16 by 32768"),
        (torch.zeros(9000, dtype=torch.complex64), TypeError, "complex64: give floating-point"),
        ([0.1] * 9000, TypeError, "not list"),
        (torch.zeros(2, 1, 9000), ValueError, r"not of shape \[2, 1, 9000\]"),
        (np.array(0.5), ValueError, r"not of shape \[\]"),
        (torch.tensor([0.1, float("nan")] * 5000), ValueError, "NaN or infinity"),
        (np.array([0.1, -np.inf] * 5000), ValueError, "NaN or infinity"),
        (np.array([0.1, 1e300] * 5000), ValueError, "NaN or infinity"),
        (torch.full((3, 100), 0.1), ValueError, "100 samples is too short: this model needs at least 257"),
        (np.zeros(0, np.float32), ValueError, "0 samples is too short"),
        (torch.full((9_000, 2), 0.1), ValueError, r"read as \[T, channels\]"),
        (np.stack([np.full(9_000, 0.1), np.zeros(9_000)]), ValueError, "silent"),
    ],
)
def test_other_waveforms_are_refused_in_one_line(encoder, waveform, error, complaint):
    with pytest.raises(error, match=complaint) as raised:
        encoder.embed(waveform)
    assert "\n" not in str(raised.value)


def test_embeddings_can_be_the_input_of_a_layer_that_is_trained(encoder):
    layer = torch.nn.Linear(32, 1)
    layer(encoder.embed(CROPS)).sum().backward()
    assert layer.weight.grad is not None
    assert not encoder.embed(CROPS).requires_grad


LENGTHS = (9000, 4000, 9010, 9600, 500, 4000, 12_000, 9100, 4010)  # samples; several have equally many frames


@pytest.fixture
def files(tmp_path) -> list[Path]:
    paths = []
    for number, length in enumerate(LENGTHS):
        path = tmp_path / f"{number}.{'flac' if number % 2 else 'wav'}"
        rate = 8000 if number == 3 else 16_000
        samples = np.random.default_rng(number).uniform(-0.3, 0.3, length * rate // 16_000)
        soundfile.write(path, samples, rate)
        paths.append(path)
    return paths


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (2, 3), (32, 4)])
@pytest.mark.parametrize("kind", ["released", "strided", "tf"])
def test_files_together_equal_files_alone_in_the_order_given(
    encoder, strided, tiny_config, files, kind, batch_size, workers
):
    if kind != "released":
        config = strided if kind == "strided" else {**tiny_config, "feat_type": "tf"}
        model = build_released(config, seed=4)
        encoder = SpeakerEncoder(model, MatryoshkaHead(model.pooled_dim, 32), [8, 32])
    expected = torch.stack([encoder.embed_file(path, dim=8) for path in files])
    together = encoder.embed_files(map(str, files), dim=8, batch_size=batch_size, workers=workers)
    assert together.shape == (len(files), 8)
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=0)
    assert (expected @ expected.T).fill_diagonal_(0).max() < 1 - 1e-4, "the files must be told apart"


def test_real_speech_embeds_together_as_alone(encoder, speech):
    paths = sorted((speech / "val").glob("*/*/*.flac"))[:12]
    paths += sorted((speech / "train").glob("*/*/*.m4a"))[:4]
    alone = torch.stack([encoder.embed_file(path) for path in paths])
    torch.testing.assert_close(encoder.embed_files(paths), alone, atol=1e-5, rtol=0)


def test_no_files_give_no_rows(encoder):
    assert encoder.embed_files([], dim=8).shape == (0, 8)


def test_files_that_cannot_be_embedded_are_named(encoder, files, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.full(200, 0.1), 16_000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(9000), 16_000)
    for name, complaint in [
        ("short.wav", "200 samples is too short"),
        ("silent.wav", "silent"),
        ("none.wav", "no such file"),
    ]:
        path = tmp_path / name
        for attempt in (lambda path: encoder.embed_files([*files, path]), encoder.embed_file):
            with pytest.raises(AudioError, match=complaint) as raised:
                attempt(path)
            assert str(raised.value).startswith(f"{path}: ")
            assert "\n" not in str(raised.value)


def test_arguments_that_make_no_sense_are_refused_before_a_file_is_read(encoder):
    for attempt, error, complaint in [
        (lambda: encoder.embed_files(["none.wav"], dim=33), ValueError, r"outside 1\.\.32"),
        (lambda: encoder.embed_file("none.wav", dim=33), ValueError, r"outside 1\.\.32"),
        (lambda: encoder.embed_files(["none.wav"], batch_size=0), ValueError, r"batch_size \(0\)"),
        (lambda: encoder.embed_files(["none.wav"], workers=0), ValueError, r"workers \(0\)"),
        (lambda: encoder.embed_files("none.wav"), TypeError, "use embed_file, or a list"),
    ]:
        with pytest.raises(error, match=complaint):
            attempt()


def test_a_checkpoint_gives_the_encoder_back(encoder, content, tmp_path):
    torch.save(content, tmp_path / "best.pt")
    loaded = mrl.load_encoder(tmp_path / "best.pt")
    assert not loaded.training
    assert loaded.dims == (8, 32)
    assert loaded.sample_rate == 16_000
    assert torch.equal(loaded.embed(CROPS), encoder.embed(CROPS))


def test_weights_that_do_not_fit_are_refused(content, tmp_path):
    del content["encoder"]["head.linear.bias"]
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"head\.linear\.bias"):
        mrl.load_encoder(tmp_path / "x.pt")


def test_dims_must_end_at_the_head(released):
    with pytest.raises(ValueError, match="must ascend to the head's 32 numbers"):
        SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 32), [8, 16])


def test_the_head_stays_in_float32_under_autocast(encoder):
    pooled = torch.randn(2, encoder.backbone.pooled_dim)
    encoder.eval()
    with torch.autocast("cpu", torch.bfloat16):
        inside = encoder.head(pooled)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, encoder.head(pooled))
