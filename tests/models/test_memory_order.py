"""Layers that keep frames outermost give the numbers of torch's own, in the order of memory that is promised."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mrl.models import memory_order
from mrl.models.blocks import ConvNeXtLike
from mrl.models.layout import To1d, To2d
from mrl.models.memory_order import BatchNorm1d, BatchNorm2d, Conv1d, Conv2d, GroupNorm
from mrl.models.pretrained import build_released
from mrl.models.released import ReleasedModel

LAYERS = {
    "pointwise": (Conv1d(6, 4, 1), nn.Conv1d(6, 4, 1), (2, 6, 9)),
    "depthwise": (Conv1d(6, 6, 7, padding=3, groups=6), nn.Conv1d(6, 6, 7, padding=3, groups=6), (2, 6, 9)),
    "strided 1-D": (
        Conv1d(6, 4, 3, stride=2, padding=1, dilation=2),
        nn.Conv1d(6, 4, 3, stride=2, padding=1, dilation=2),
        (2, 6, 9),
    ),
    "grouped": (Conv2d(6, 6, 3, padding=1, groups=2), nn.Conv2d(6, 6, 3, padding=1, groups=2), (2, 6, 5, 9)),
    "uneven": (
        Conv2d(6, 4, (2, 3), stride=(2, 1), padding=(0, 1), dilation=(1, 2), bias=False),
        nn.Conv2d(6, 4, (2, 3), stride=(2, 1), padding=(0, 1), dilation=(1, 2), bias=False),
        (2, 6, 6, 9),
    ),
    "norm 1-D": (BatchNorm1d(6), nn.BatchNorm1d(6), (2, 6, 9)),
    "norm 2-D": (BatchNorm2d(6), nn.BatchNorm2d(6), (2, 6, 5, 9)),
    "group norm": (GroupNorm(2, 6), nn.GroupNorm(2, 6), (2, 6, 9)),
}


def is_frames_outermost(x: Tensor) -> bool:
    return x.permute(0, -1, *range(x.ndim - 2, 0, -1)).is_contiguous()


def outputs_and_gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    layer.zero_grad()
    out = layer(x)
    (out * torch.arange(out.numel()).reshape(out.shape).sin()).sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_the_numbers_of_torch_whatever_order_comes_in(name, training):
    ours, torchs, shape = LAYERS[name]
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for given in (x, x.transpose(1, -1).contiguous().transpose(1, -1)):
        ours.train(training)
        torchs.train(training)
        found = outputs_and_gradients(ours, given)
        for mine, its in zip(found, outputs_and_gradients(torchs, x), strict=True):
            torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-5)
        assert is_frames_outermost(found[0])


def test_the_views_of_such_a_map_share_its_memory():
    maps = Conv2d(3, 4, 1)(torch.randn(2, 3, 5, 7))
    sequence = To1d()(maps)
    assert is_frames_outermost(sequence)
    assert sequence.data_ptr() == maps.data_ptr() == To2d(4, 5)(sequence).data_ptr()


def test_softmax_and_joining_keep_the_order():
    x = torch.randn(2, 9, 6).transpose(1, 2)
    for found, expected in (
        (memory_order.softmax_over_time(x), torch.softmax(x, dim=-1)),
        (memory_order.join_channels([x, 2 * x]), torch.cat([x, 2 * x], dim=1)),
        (memory_order.repeat_frames(x, 3), x.repeat_interleave(3, dim=-1)),
    ):
        torch.testing.assert_close(found, expected)
        assert is_frames_outermost(found)


@pytest.mark.parametrize("kernels", [[(7,)], [(7,), (3,)], [(3, 3), (3, 5)]])
def test_a_frozen_norm_in_the_weights_gives_the_same_numbers_and_gradients(kernels):
    torch.manual_seed(3)
    block = ConvNeXtLike(4, kernels, 2).eval()
    for tensor in (block.norm.running_mean, block.norm.weight, block.norm.bias):
        nn.init.normal_(tensor)
    nn.init.uniform_(block.norm.running_var, 0.1, 2.0)
    x = torch.randn(2, 4, *[6] * len(kernels[0]))
    folded = outputs_and_gradients(block, x)
    seen: list[Tensor] = []
    hook = block.norm.register_forward_hook(lambda norm, inputs, output: seen.append(output))
    apart = outputs_and_gradients(block, x)
    hook.remove()
    assert seen, "a hook on the norm sees its output"
    for one, other in zip(folded, apart, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_norm_with_the_statistics_of_the_batch_is_not_folded():
    block = ConvNeXtLike(4, [(3,)], 1).train()
    before = block.norm.running_mean.clone()
    block(5.0 + torch.randn(2, 4, 9))
    assert not torch.equal(block.norm.running_mean, before)


def network_outputs_and_gradients(model: ReleasedModel, waveforms: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    embeddings = model(waveforms)
    embeddings.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"embeddings": embeddings.detach(), **grads}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("block_2d", ["convnext_like", "basic_resnet_fwse"])
def test_a_network_gives_the_same_in_both_orders(tiny_config, waveforms, block_2d, training, monkeypatch):
    tiny_config["block_2d_type"] = block_2d
    model = build_released(tiny_config, seed=2).train(training)
    ours = network_outputs_and_gradients(model, waveforms)
    monkeypatch.setattr(memory_order, "DEVICES", frozenset())
    its_own = network_outputs_and_gradients(model, waveforms)
    scale = max(gradient.abs().max() for gradient in its_own.values())
    for name, tensor in its_own.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5 * float(scale), rtol=1e-3)


@torch.no_grad()
def test_wide_kernels_over_few_frames_end_in_bfloat16():
    """As an image of one row, oneDNN 3.10 does not come back from this one."""
    conv = Conv1d(8, 8, 59, padding=29, groups=8)
    x = torch.randn(3, 8, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x)
    torch.testing.assert_close(out.float(), conv(x), atol=0.05, rtol=0.05)


def test_features_come_frames_outermost(released, waveforms):
    features = released.frame_features(released.mel(waveforms))
    assert is_frames_outermost(features)


def test_elsewhere_sequences_come_in_the_order_of_torch(released, waveforms, monkeypatch):
    monkeypatch.setattr(memory_order, "DEVICES", frozenset())
    mel = released.mel(waveforms)
    outputs = [released.backbone.stem(mel[:, None]), released.frame_features(mel)]
    assert all(sequence.is_contiguous() for sequence in outputs)
