"""ReDimNet: the released sizes, and how it behaves in use."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mrl.models.layout import StageSum
from mrl.models.pretrained import build_released
from mrl.models.released import ReleasedModel

K = [[3, 3]]
B2 = {
    "F": 72,
    "C": 16,
    "block_1d_type": "conv+att",
    "block_2d_type": "convnext_like",
    "stages_setup": [
        [1, 2, 1, K, 12],
        [2, 2, 1, K, 12],
        [1, 3, 1, K, 12],
        [3, 4, 1, K, 8],
        [1, 4, 1, K, 8],
        [2, 4, 1, K, 4],
    ],
    "group_divisor": 4,
    "out_channels": None,
    "hop_length": 240,
    "global_context_att": True,
}
B5 = {
    **B2,
    "C": 32,
    "block_2d_type": "basic_resnet_fwse",
    "stages_setup": [
        [1, 4, 2, K, 48],
        [2, 4, 2, K, 48],
        [1, 6, 2, K, 48],
        [2, 6, 1, K, 32],
        [1, 8, 1, K, 24],
        [2, 4, 1, K, 16],
    ],
    "group_divisor": 16,
}


@pytest.mark.parametrize(
    ("config", "tensors", "parameters", "pooled_dim"),
    [(B2, 556, 5_067_057, 2304), (B5, 1052, 7_659_761, 4608)],
    ids=["b2", "b5"],
)
def test_the_released_sizes(config, tensors, parameters, pooled_dim):
    model = build_released(config)
    assert len(model.state_dict()) == tensors
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert (model.pooled_dim, model.embedding_dim, model.hop_samples) == (pooled_dim, 192, 240)


def test_b5_holds_7_709_351_numbers():
    assert sum(tensor.numel() for tensor in build_released(B5).state_dict().values()) == 7_709_351


def test_the_norm_of_the_squeeze_alone_has_a_smaller_eps(tiny_config):
    tiny_config["stages_setup"] = [[1, 1, 2, K, 12]]
    model = build_released(tiny_config)
    eps = {name: module.eps for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert eps == {"backbone.stage0.3.conv_block.norm": 1e-5, "backbone.stage0.4.1": 1e-6}


@torch.inference_mode()
def test_an_embedding_does_not_depend_on_its_batch(released, waveforms):
    together = released(waveforms)
    alone = torch.cat([released(waveform[None]) for waveform in waveforms])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-2, "different utterances, different embeddings"


@torch.inference_mode()
def test_the_steps_compose_to_the_forward(released, waveforms):
    features = released.frame_features(released.mel(waveforms))
    pooled = released.pool_features(features)
    assert torch.equal(pooled, released.pooled(waveforms))
    assert torch.equal(released.project(pooled), released(waveforms))


def assert_near_under_autocast(model: ReleasedModel, waveforms: Tensor, dtype: torch.dtype) -> None:
    expected = model(waveforms)
    with torch.autocast(waveforms.device.type, dtype=dtype):
        embedding = model(waveforms)
        assert model.frame_features(model.mel(waveforms)).isfinite().all()
    assert embedding.dtype == torch.float32
    assert nn.functional.cosine_similarity(embedding, expected).min() > 0.995


@torch.inference_mode()
def test_autocast_stays_near_float32(released, waveforms):
    assert_near_under_autocast(released, waveforms, torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_autocast_on_a_gpu_stays_near_float32(released, waveforms, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device (float16 convolutions are too slow on a CPU to test there)")
    assert_near_under_autocast(released.cuda(), waveforms.cuda(), dtype)


@pytest.mark.parametrize("shape", [(8000,), (1, 1, 8000)])
def test_a_waveform_without_a_batch_is_refused(released, shape):
    with pytest.raises(ValueError, match=r"expected a batch of waveforms \[B, T\]"):
        released(torch.zeros(shape))


def test_a_waveform_that_is_too_short_is_refused(released):
    assert released.min_samples == 257
    with pytest.raises(ValueError, match=r"a waveform of 256 samples is too short.*at least 257"):
        released(torch.zeros(2, 256))
    assert released(torch.zeros(2, 257)).isfinite().all()


def test_every_trainable_tensor_gets_a_gradient(released, waveforms):
    released.train()
    released(waveforms).square().sum().backward()
    frozen = {name for name, parameter in released.named_parameters() if not parameter.requires_grad}
    assert frozen == {"backbone.stage0.0.w"}
    assert isinstance(released.get_submodule("backbone.stage0.0"), StageSum)
    for name, parameter in released.named_parameters():
        if name not in frozen:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("block_2d", ["convnext_like", "basic_resnet", "basic_resnet_fwse"])
@pytest.mark.parametrize("block_1d", ["fc", "conv", "att", "conv+att"])
def test_a_fresh_model_separates_utterances(tiny_config, waveforms, block_1d, block_2d):
    tiny_config.update(block_1d_type=block_1d, block_2d_type=block_2d)
    model = build_released(tiny_config).train()
    with torch.no_grad():
        embeddings = model(waveforms)
    assert embeddings.isfinite().all()
    assert embeddings.std(dim=0).mean() > 0.1


def test_the_graph_has_no_breaks(tiny_config, waveforms):
    tiny_config["stages_setup"] = tiny_config["stages_setup"][:1]
    model = build_released(tiny_config).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(waveforms), model(waveforms))
