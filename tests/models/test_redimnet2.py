"""ReDimNet2: what sets it apart, and which of its options are refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from mrl.errors import CheckpointError
from mrl.models.pretrained import build_released
from mrl.models.redimnet2 import ReDimNet2, RepeatFrames

K = [[3, 3]]


@pytest.fixture
def config() -> dict[str, Any]:
    """Three stages whose rates are 1, 1/2 and 1/4."""
    return {
        "F": 24,
        "C": 4,
        "causal": "none",
        "block_1d_type": "conv+att",
        "block_2d_type": "basic_resnet",
        "stages_setup": [[[1, 1], 1, 2, K, 12], [[2, 2], 1, 1, K, None], [[1, 2], 1, 1, K, 8]],
        "embed_dim": 24,
        "spec_params": {"norm_signal": True},
    }


def test_repeat_frames_by_hand():
    out = RepeatFrames(2)(torch.tensor([[[1.0, 2.0]]]))
    assert out.tolist() == [[[1.0, 1.0, 2.0, 2.0]]]


@torch.inference_mode()
def test_frames_are_cut_to_whole_strides(config, waveforms):
    model = build_released(config).eval()
    assert isinstance(model, ReDimNet2)
    mel = model.mel(waveforms)
    assert mel.shape[-1] == 51
    features = model.frame_features(mel)
    assert features.shape == (3, 96, 48)
    assert torch.equal(features, model.frame_features(mel[..., :48]))


@torch.inference_mode()
def test_the_shortest_waveform(config):
    model = build_released(config).eval()
    assert model.min_samples == 3 * 160  # four frames of the pt front end, one at the slowest rate
    assert model(torch.randn(1, 480)).isfinite().all()
    with pytest.raises(ValueError, match="at least 480"):
        model(torch.randn(1, 479))


def test_strided_convolutions_use_the_product_of_the_time_strides(config):
    model = build_released(config)
    kernels = [model.get_submodule(f"backbone.stage{i}.2").kernel_size for i in range(3)]
    assert kernels == [(1, 1), (2, 2), (1, 4)]
    assert [model.get_submodule(f"backbone.stage{i}.2").groups for i in range(3)] == [4, 4, 8]
    dense = build_released({**config, "compress_tconvs": False})
    assert [dense.get_submodule(f"backbone.stage{i}.2").groups for i in range(3)] == [1, 1, 1]


def test_the_squeeze_is_a_1x1_convolution_and_a_norm(config):
    squeeze = build_released(config).get_submodule("backbone.stage0.4")
    assert len(squeeze) == 2
    assert isinstance(squeeze[0], nn.Conv2d)
    assert isinstance(squeeze[1], nn.BatchNorm2d)
    assert squeeze[0].kernel_size == (1, 1)
    assert squeeze[1].eps == 1e-6


@torch.inference_mode()
def test_a_2d_end_without_an_output_layer_only_reorders_the_features(config, waveforms):
    sequence = build_released(config).eval()
    maps = build_released({**config, "return_2d_output": True}).eval()
    mel = sequence.mel(waveforms)
    features = maps.frame_features(mel)  # [B, C, F, T]: channel-major when flattened
    assert features.shape == (3, 8, 12, 48)
    torch.testing.assert_close(features.transpose(1, 2).flatten(1, 2), sequence.frame_features(mel))
    assert maps.pooled_dim == sequence.pooled_dim


def test_agg_gnorm_true_means_as_many_groups_as_channels(config, caplog):
    with caplog.at_level(logging.WARNING):
        model = build_released({**config, "agg_gnorm": True})
    assert model.get_submodule("backbone.stem_gnorm").num_groups == 4
    assert not caplog.records


def test_agg_gnorm_as_a_number_follows_the_newer_code_and_says_so(config, caplog):
    with caplog.at_level(logging.WARNING):
        model = build_released({**config, "agg_gnorm": 8})
    assert model.get_submodule("backbone.stage2.7").num_groups == 8
    assert "agg_gnorm=8 is read as a number of groups" in caplog.text


@pytest.mark.parametrize("setting", [False, None, 0])
def test_agg_gnorm_off(config, setting):
    model = build_released({**config, "agg_gnorm": setting})
    assert not any(isinstance(module, nn.GroupNorm) for module in model.modules())


def test_dual_aggregation_hands_on_two_outputs_of_a_stage_with_a_1d_block(config):
    model = build_released({**config, "dual_agg": True})
    stacks = {name: parameter.shape[1] for name, parameter in model.named_parameters() if name.endswith(".w")}
    assert stacks == {
        "backbone.stage0_pre.0.w": 1,
        "backbone.stage1.0.w": 3,
        "backbone.stage2_pre.0.w": 4,
        "backbone.fin_wght1d.w": 6,
    }


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("causal", "full"),
        ("causal", False),
        ("spec_in_channels", 2),
        ("fm_weigthing_type", "N"),
        ("use_freq_pos_enc", True),
        ("att_dos", {"act_do": 0.1}),
        ("pad_right_samples", 100),
        ("before_pool_offset", 3),
        ("agg_gnorm", "yes"),
        ("tf_optimized_arch", False),
        ("feat_type", "pt_stft"),
        ("block_1d_type", "v2_conv+att"),
    ],
)
def test_an_option_that_is_not_supported_is_named(config, option, value):
    with pytest.raises(CheckpointError, match=rf"\n  - {option}"):
        build_released({**config, option: value})


@pytest.mark.parametrize("option", ["spec_params", "causal"])
def test_options_whose_default_is_disputed_must_be_there(config, option):
    del config[option]
    with pytest.raises(CheckpointError, match=rf"\n  - {option}: Field required"):
        build_released(config)


def test_groups_that_do_not_divide_are_refused(config):
    with pytest.raises(CheckpointError, match="cannot be built"):
        build_released({**config, "agg_gnorm": 7})


def test_kernel_sizes_are_odd(config):
    config["stages_setup"][1][3] = [[3, 4]]
    with pytest.raises(CheckpointError, match=r"stages_setup\.1: .*kernel sizes are odd"):
        build_released(config)


def test_every_trainable_tensor_gets_a_gradient(config, waveforms):
    model = build_released({**config, "dual_agg": True, "agg_gnorm": True}).train()
    model(waveforms).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
