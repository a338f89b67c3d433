"""Encoders by path and by name: what a file is its content tells, and a released model scores as released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mrl
from mrl.errors import CheckpointError
from mrl.models.checkpoint_format import FORMAT, VERSION
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import build_released, save_released
from mrl.models.registry import REGISTRY
from mrl.models.released import ReleasedModel

NAME = "redimnet2-b0-vox2-lm"
SECOND = {
    "F": 24,
    "C": 4,
    "causal": "none",
    "block_1d_type": "conv+att",
    "block_2d_type": "basic_resnet",
    "stages_setup": [[[1, 1], 1, 2, [[3, 3]], 12], [[2, 2], 1, 1, [[3, 3]], None]],
    "embed_dim": 24,
    "spec_params": {"norm_signal": True},
}


def checkpoint_of(encoder: SpeakerEncoder) -> dict[str, Any]:
    return {
        "format": FORMAT, "version": VERSION, "config": {}, "model_config": encoder.model_config,
        "dims": list(encoder.dims), "encoder": encoder.state_dict(), "lists": {},
    }  # fmt: skip


@pytest.fixture
def content(released) -> dict[str, Any]:
    """A checkpoint of ours."""
    return checkpoint_of(SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 32), [8, 32]))


def with_statistics(model: ReleasedModel) -> ReleasedModel:
    """``model`` in eval mode, its BatchNorms no longer identities."""
    generator = torch.Generator().manual_seed(3)
    for part in (model.bn, model.bn2):
        if part is not None:
            for tensor in (part.running_mean, part.weight.data, part.bias.data):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.1)
    return model.eval()


@pytest.mark.parametrize("emb_bn", [False, True])
@pytest.mark.parametrize("front_end", ["pt", "tf"])
@pytest.mark.parametrize("family", ["ReDimNet", "ReDimNet2"])
def test_a_released_file_scores_as_released(tiny_config, waveforms, tmp_path, family, front_end, emb_bn):
    base = tiny_config if family == "ReDimNet" else SECOND
    config = {**base, "feat_type": front_end, "emb_bn": emb_bn}
    model = with_statistics(build_released(config, seed=2))
    assert type(model).__name__ == family
    save_released(model, config, tmp_path / "model.pt")
    encoder = mrl.load_encoder(str(tmp_path / "model.pt"))
    assert encoder.dims == (24,)
    assert not encoder.training
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model(waveforms), dim=1)
    unit = encoder.embed(waveforms)
    torch.testing.assert_close(unit, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(unit @ unit.T, expected @ expected.T, atol=2e-6, rtol=0)


def test_a_name_is_served_from_the_folder_of_downloads(
    released, tiny_config, waveforms, tmp_path, monkeypatch
):
    assert NAME in REGISTRY
    monkeypatch.setenv("MRL_HOME", str(tmp_path))
    save_released(released, tiny_config, tmp_path / f"{NAME}.pt")
    by_path = mrl.load_encoder(tmp_path / f"{NAME}.pt")
    assert torch.equal(mrl.load_encoder(NAME).embed(waveforms), by_path.embed(waveforms))


def test_the_content_tells_what_a_file_is(released, content, tiny_config, tmp_path):
    torch.save(content, tmp_path / f"{NAME}.pt")
    save_released(released, tiny_config, tmp_path / "best.pt")
    assert mrl.load_encoder(tmp_path / f"{NAME}.pt").dims == (8, 32)
    assert mrl.load_encoder(tmp_path / "best.pt").dims == (24,)


def test_the_random_state_stays_as_it_is(released, content, tiny_config, tmp_path):
    torch.save(content, tmp_path / "ours.pt")
    save_released(released, tiny_config, tmp_path / "released.pt")
    torch.manual_seed(0)
    expected = torch.rand(3)
    for name in ("ours.pt", "released.pt"):
        torch.manual_seed(0)
        mrl.load_encoder(tmp_path / name)
        assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        ([1, 2], "it holds a list"),
        ({}, "it holds an empty mapping"),
        ({"weight": torch.zeros(2), "bias": torch.zeros(1)}, "it holds a mapping with 'weight', 'bias'"),
        ({"model_config": {}}, "it holds a mapping with 'model_config'"),
    ],
)
def test_a_file_that_is_neither_is_refused_in_one_line(tmp_path, found, complaint):
    path = tmp_path / "x.pt"
    torch.save(found, path)
    with pytest.raises(CheckpointError) as raised:
        mrl.load_encoder(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: neither a checkpoint of train.py nor a released model")
    assert message.endswith(complaint)
    assert "\n" not in message


def test_damaged_and_missing_files_and_names_are_refused(content, tmp_path):
    torch.save({**content, "version": 99}, tmp_path / "later.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    for found, complaint in [
        (tmp_path / "later.pt", "format version 99"),
        (tmp_path / "text.pt", "not a"),
        (tmp_path / "none.pt", "no such file"),
        (tmp_path, "a folder, not a checkpoint"),
        ("redimnet-b2-vox3", "the nearest: redimnet"),
    ]:
        with pytest.raises(CheckpointError, match=complaint) as raised:
            mrl.load_encoder(found)
        assert Path(str(found)).name in str(raised.value)
