"""The two views of one feature map, and the weighted sum that feeds every stage.

ReDimNet keeps C x F constant, so a 2-D map [B, C, F, T] and a sequence [B, F C, T] hold the same numbers.
The sequence is frequency-major: channel c of row f is entry f * C + c.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class To1d(nn.Module):
    """[B, C, F, T] -> [B, F C, T]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(1, 2)


class To2d(nn.Module):
    """[B, F C, T] -> [B, C, F, T]."""

    def __init__(self, channels: int, frequencies: int) -> None:
        super().__init__()
        self.channels = channels
        self.frequencies = frequencies

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.frequencies, self.channels)).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, frequencies={self.frequencies}"


class StageSum(nn.Module):
    """Weighted sum of the outputs of the stem and all earlier stages; softmax over the outputs.

    Args:
        count: how many outputs come in.
        channels: weights per output: F C, or 1 to share one weight.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        # A softmax of one is one: with a single input the weight can do nothing, so it asks for no gradient.
        self.is_inert = count == 1
        self.w = nn.Parameter(torch.zeros(1, count, channels, 1), requires_grad=not self.is_inert)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        if self.is_inert:
            return outputs[0]
        weights = torch.softmax(self.w, dim=1).unbind(dim=1)
        total = weights[0] * outputs[0]
        # Accumulated in place: stacking the outputs would copy all of them at every stage.
        for weight, output in zip(weights[1:], outputs[1:], strict=True):
            total.addcmul_(weight, output)
        return total
