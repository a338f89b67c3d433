"""The encoder as its users meet it: prefixes of unit length, files, modes, loading."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

import mrl
from mrl.errors import AudioError, CheckpointError
from mrl.models.checkpoint_format import FORMAT, VERSION
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead


@pytest.fixture
def encoder(released) -> SpeakerEncoder:
    return SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 32, dropout=0.5), [8, 32])


@pytest.fixture
def content(encoder) -> dict:
    return {
        "format": FORMAT, "version": VERSION, "config": {}, "model_config": encoder.model_config,
        "dims": list(encoder.dims), "encoder": encoder.state_dict(), "lists": {},
    }  # fmt: skip


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
