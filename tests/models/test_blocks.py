"""2-D and 1-D blocks against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from mrl.models.blocks import BasicResNet, Block2d, ChannelLayerNorm, ConvNeXtLike, FrequencyGate, group_count
from mrl.models.temporal import FeedForward, SelfAttention, TimeContextBlock, TransformerLayer


@pytest.mark.parametrize(
    ("channels", "divisor", "groups"), [(8, None, 1), (8, 1, 8), (8, 4, 2), (8, 8, 1), (10, 4, 2)]
)
def test_group_divisor_is_the_channels_per_group(channels, divisor, groups):
    assert group_count(channels, divisor) == groups


@pytest.mark.parametrize(("channels", "divisor"), [(2, 4), (11, 4)])
def test_groups_that_do_not_fit_are_refused(channels, divisor):
    with pytest.raises(ValueError, match=f"{channels} channels cannot be cut"):
        group_count(channels, divisor)


def test_channel_layer_norm_by_hand():
    norm = ChannelLayerNorm(2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0]))
    # Mean 0, biased variance 1e-6: eps inside the root halves the square.
    out = norm(torch.tensor([[[1e-3], [-1e-3]]]))
    torch.testing.assert_close(out, torch.tensor([[[1 / math.sqrt(2)], [1 - 2 / math.sqrt(2)]]]))


def test_convnext_like_by_its_definition():
    block = ConvNeXtLike(4, [(3, 3), (3, 5)], 2).eval()
    x = torch.randn(2, 4, 5, 6)
    narrow, wide = block.dwconvs
    hidden = torch.cat(
        [
            functional.conv2d(x, narrow.weight, narrow.bias, padding=1, groups=2),
            functional.conv2d(x, wide.weight, wide.bias, padding=(1, 2), groups=2),
        ],
        dim=1,
    )
    hidden = hidden / math.sqrt(1 + 1e-5)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    expected = x + functional.conv2d(hidden, block.pwconv1.weight, block.pwconv1.bias)
    torch.testing.assert_close(block(x), expected)


def test_the_relu_of_the_resnet_comes_before_the_first_norm():
    block = BasicResNet(2, 3, None, gated=False).eval()
    with torch.no_grad():
        for conv in (block.conv1, block.conv2):
            conv.weight.zero_()
            conv.weight[:, :, 1, 1] = torch.eye(2)
        block.bn1.bias.fill_(-1.0)
    x = torch.full((1, 2, 3, 4), -2.0)
    # relu(-2) = 0, the norm makes it -1, the second convolution and norm keep it; with the skip: relu(-3) = 0.
    assert torch.equal(block(x), torch.zeros_like(x))
    torch.testing.assert_close(block(-x), torch.full_like(x, 2 + 2 - 1), atol=1e-4, rtol=0)


def test_the_gate_scales_rows():
    gate = FrequencyGate(3, 4)
    with torch.no_grad():
        gate.exitation.weight.zero_()
        gate.exitation.bias.copy_(torch.tensor([0.0, 100.0, -100.0]))
    x = torch.randn(2, 5, 3, 6)
    expected = x * torch.tensor([0.5, 1.0, 0.0]).reshape(1, 1, 3, 1)
    torch.testing.assert_close(gate(x), expected)


@pytest.mark.parametrize(("channels", "hidden"), [(8, 32), (40, 40), (200, 64)])
def test_the_gate_has_32_to_64_hidden_numbers(channels, hidden):
    block = Block2d("basic_resnet_fwse", channels, 6, 1).conv_block
    assert block.se.squeeze.out_features == hidden


def attention_by_hand(layer: SelfAttention, x: torch.Tensor) -> torch.Tensor:
    """Self-attention of one utterance [T, D], head by head and frame by frame."""
    query, key, value = layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)
    size = x.shape[1] // 4
    heads = []
    for head in range(4):
        part = slice(head * size, (head + 1) * size)
        rows = []
        for frame in range(x.shape[0]):
            scores = torch.stack([query[frame, part] @ other / math.sqrt(size) for other in key[:, part]])
            rows.append(torch.softmax(scores, dim=0) @ value[:, part])
        heads.append(torch.stack(rows))
    return layer.out_proj(torch.cat(heads, dim=1))


def test_attention_matches_a_loop():
    torch.manual_seed(1)
    layer = SelfAttention(8)
    x = torch.randn(2, 5, 8)
    expected = torch.stack([attention_by_hand(layer, utterance) for utterance in x])
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-5)


def layer_norm_by_hand(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    deviation = torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + 1e-6)
    return centred / deviation * norm.weight + norm.bias


def test_the_transformer_is_post_norm_with_a_tanh_gelu():
    torch.manual_seed(2)
    layer = TransformerLayer(8, 16)
    with torch.no_grad():
        for linear in (layer.attention.out_proj, layer.feed_forward.output_dense):
            linear.bias.zero_()
        layer.layer_norm.weight.mul_(1e-2)
    x = 1e-3 * torch.randn(2, 8, 5)  # so small that the eps of the norms shows
    steps = x.transpose(1, 2)
    steps = layer_norm_by_hand(steps + layer.attention(steps), layer.layer_norm)
    hidden = layer.feed_forward.intermediate_dense(steps)
    hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    steps = layer_norm_by_hand(steps + layer.feed_forward.output_dense(hidden), layer.final_layer_norm)
    torch.testing.assert_close(layer(x), steps.transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_the_feed_forward_gelu_is_the_approximation():
    feed_forward = FeedForward(1, 1)
    with torch.no_grad():
        for linear in (feed_forward.intermediate_dense, feed_forward.output_dense):
            linear.weight.fill_(1.0)
            linear.bias.zero_()
    # At 2 the exact GELU is 1.95450, the approximation 1.95460.
    torch.testing.assert_close(
        feed_forward(torch.tensor([[2.0]])), torch.tensor([[1.954598]]), atol=2e-5, rtol=0
    )


def test_attention_needs_channels_for_four_heads():
    with pytest.raises(ValueError, match="10 channels of a 1-D block cannot be cut into 4"):
        TimeContextBlock("att", 40, 10)


@pytest.mark.parametrize("kind", ["fc", "conv", "att", "conv+att"])
def test_a_1d_block_adds_to_its_input(kind):
    block = TimeContextBlock(kind, 12, 4).eval()
    nn.init.zeros_(block.exp_dim_conv.weight)
    nn.init.zeros_(block.exp_dim_conv.bias)
    x = torch.randn(2, 12, 9)
    assert torch.equal(block(x), x)
