"""Blocks of the 1-D half of ReDimNet, on sequences [B, D, T]: batch, channels, frames."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from mrl.models.blocks import ChannelLayerNorm, ConvNeXtLike
from mrl.models.memory_order import Conv1d

HEADS = 4
POSITION_KERNEL = 59


class PositionalConv(nn.Module):
    """x + LayerNorm(depthwise convolution over 59 frames): tells the attention where a frame stands."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv1d(channels, channels, POSITION_KERNEL, padding=POSITION_KERNEL // 2, groups=channels)
        self.norm = ChannelLayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x))


class SelfAttention(nn.Module):
    """Full self-attention over the frames [B, T, D], four heads, no mask, no positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % HEADS:
            raise ValueError(f"{channels} channels of a 1-D block cannot be cut into {HEADS} attention heads")
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)  # [B, heads, T, D / heads]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear -> GELU -> Linear on [B, T, D]. This GELU alone is the tanh approximation, all others exact."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(channels, hidden)
        self.output_dense = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_dense(functional.gelu(self.intermediate_dense(x), approximate="tanh"))


class TransformerLayer(nn.Module):
    """Post-norm transformer layer (as in wav2vec 2.0) on [B, D, T]."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.attention = SelfAttention(channels)
        self.layer_norm = nn.LayerNorm(channels, eps=1e-6)
        self.feed_forward = FeedForward(channels, hidden)
        self.final_layer_norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        x = self.layer_norm(x + self.attention(x))
        x = self.final_layer_norm(x + self.feed_forward(x))
        return x.transpose(1, 2)


def time_context(kind: str, channels: int) -> nn.Sequential:
    """The inner layers of a 1-D block, by released name: "fc", "conv", "att" or "conv+att"."""
    match kind:
        case "fc":
            return nn.Sequential(
                Conv1d(channels, 2 * channels, 1),
                ChannelLayerNorm(2 * channels),
                nn.GELU(),
                Conv1d(2 * channels, channels, 1),
            )
        case "conv":
            return nn.Sequential(*(ConvNeXtLike(channels, [(7,), (15,), (31,)], 1) for _ in range(4)))
        case "att":
            return nn.Sequential(PositionalConv(channels), TransformerLayer(channels, 2 * channels))
        case "conv+att":
            widening = (ConvNeXtLike(channels, [(size,)], 1) for size in (7, 19, 31, 59))
            return nn.Sequential(*widening, TransformerLayer(channels, channels))
    raise AssertionError(kind)


class TimeContextBlock(nn.Module):
    """Reduce the channels, look along time, expand, add the input: [B, D, T] -> [B, D, T]."""

    def __init__(self, kind: str, channels: int, hidden: int) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"a 1-D block over {channels} channels would be reduced to none")
        self.red_dim_conv = nn.Sequential(Conv1d(channels, hidden, 1), ChannelLayerNorm(hidden))
        self.tcm = time_context(kind, hidden)
        self.exp_dim_conv = Conv1d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.exp_dim_conv(self.tcm(self.red_dim_conv(x)))
