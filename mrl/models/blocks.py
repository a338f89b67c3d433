"""Convolution blocks of the 2-D half of ReDimNet, on maps [B, C, F, T].

B batch, C channels, F frequency rows, T frames.

Keys are those of the released files, spelling included (`exitation`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.models.layout import To1d
from mrl.models.memory_order import (
    BatchNorm1d,
    BatchNorm2d,
    Conv1d,
    Conv2d,
    frames_outermost,
    gain_and_shift,
    join_channels,
)

KernelSize = tuple[int, ...]


def group_count(channels: int, group_divisor: int | None) -> int:
    """Convolution groups for ``group_divisor`` channels per group (1: depthwise; None: one dense group)."""
    if group_divisor is None:
        return 1
    groups = channels // group_divisor
    if groups == 0 or channels % groups:
        raise ValueError(f"{channels} channels cannot be cut into groups of group_divisor={group_divisor}")
    return groups


class ChannelLayerNorm(nn.Module):
    """LayerNorm over dimension 1 of [B, C, ...]; biased variance, eps 1e-6 inside the root."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if frames_outermost(x):  # frames trade places with channels: a view
            return self._norm(x.transpose(1, -1)).transpose(1, -1)
        return self._norm(x.movedim(1, -1)).movedim(-1, 1)

    def _norm(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, eps=1e-6)


def stem(channels: int) -> nn.Sequential:
    """Log-mel as an image [B, 1, F, T] -> the first output [B, F C, T]."""
    return nn.Sequential(Conv2d(1, channels, 3, padding=1), ChannelLayerNorm(channels), To1d())


class ConvNeXtLike(nn.Module):
    """Parallel grouped convolutions -> BatchNorm -> GELU -> 1x1, added to the input.

    Unlike ConvNeXt (arXiv:2201.03545) there is no expansion and no layer scale.

    Args:
        channels: C, in and out.
        kernel_sizes: one convolution for each, odd; one number for [B, C, T], two for [B, C, F, T].
        group_divisor: channels per group.
    """

    def __init__(self, channels: int, kernel_sizes: Sequence[KernelSize], group_divisor: int | None) -> None:
        super().__init__()
        dims = len(kernel_sizes[0])
        conv: type[Conv1d] | type[Conv2d] = Conv1d if dims == 1 else Conv2d
        norm: type[BatchNorm1d] | type[BatchNorm2d] = BatchNorm1d if dims == 1 else BatchNorm2d
        groups = group_count(channels, group_divisor)
        width = channels * len(kernel_sizes)
        self.dwconvs = nn.ModuleList(
            conv(channels, channels, size, padding=tuple(k // 2 for k in size), groups=groups)  # type: ignore[arg-type]
            for size in kernel_sizes
        )
        self.norm = norm(width)
        self.pwconv1 = conv(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pwconv1(functional.gelu(self._convolve_and_norm(x)))

    def _convolve_and_norm(self, x: Tensor) -> Tensor:
        convs = [conv for conv in self.dwconvs if isinstance(conv, Conv1d | Conv2d)]
        if not self._norm_folds(x) or len(convs) < len(self.dwconvs):
            return self.norm(join_channels([conv(x) for conv in self.dwconvs]))
        # A norm with frozen statistics is a gain and a shift per channel. In the weights of the convolution they
        # cost nothing, and the map before the norm need not be made, nor kept for the gradient.
        hidden = []
        gains, shifts = (numbers.chunk(len(convs)) for numbers in gain_and_shift(self.norm))
        for conv, gain, shift in zip(convs, gains, shifts, strict=True):
            assert conv.bias is not None
            weight = conv.weight * gain.reshape(-1, *[1] * (x.ndim - 1))
            hidden.append(conv.convolve(x, weight, conv.bias * gain + shift))
        return join_channels(hidden)

    def _norm_folds(self, x: Tensor) -> bool:
        """Whether the norm may go into the convolutions; not where a hook is to see the map between."""
        hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in (*self.dwconvs, self.norm))
        return frames_outermost(x) and not self.norm.training and not hooked


class FrequencyGate(nn.Module):
    """Squeeze-and-excitation (arXiv:1709.01507) over rows: a gate in (0, 1) scales each frequency row."""

    def __init__(self, frequencies: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(frequencies, hidden)
        self.exitation = nn.Linear(hidden, frequencies)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.mean(dim=(1, 3))  # [B, F]
        gate = torch.sigmoid(self.exitation(functional.relu(self.squeeze(rows))))
        return x * gate[:, None, :, None]


class BasicResNet(nn.Module):
    """Two grouped 3x3 convolutions, each mixed by a 1x1 one, and a skip. ReLU comes before the first norm."""

    def __init__(self, channels: int, frequencies: int, group_divisor: int | None, *, gated: bool) -> None:
        super().__init__()
        groups = group_count(channels, group_divisor)

        def grouped() -> nn.Module:
            return Conv2d(channels, channels, 3, padding=1, bias=False, groups=groups)

        def mixing() -> nn.Module:  # a dense convolution has mixed the channels already
            return nn.Identity() if group_divisor is None else Conv2d(channels, channels, 1)

        self.conv1, self.conv1pw = grouped(), mixing()
        self.bn1 = BatchNorm2d(channels)
        self.conv2, self.conv2pw = grouped(), mixing()
        self.bn2 = BatchNorm2d(channels)
        self.se = FrequencyGate(frequencies, min(64, max(channels, 32))) if gated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.bn1(functional.relu(self.conv1pw(self.conv1(x))))
        hidden = self.se(self.bn2(self.conv2pw(self.conv2(hidden))))
        return functional.relu(hidden + x)


class Block2d(nn.Module):
    """One 2-D block, by released name: "convnext_like", "basic_resnet" or "basic_resnet_fwse"."""

    def __init__(
        self,
        kind: str,
        channels: int,
        frequencies: int,
        group_divisor: int | None,
        kernel_sizes: Sequence[KernelSize] = ((3, 3),),
    ) -> None:
        super().__init__()
        self.conv_block: nn.Module
        if kind == "convnext_like":
            self.conv_block = ConvNeXtLike(channels, kernel_sizes, group_divisor)
        else:
            assert kind in ("basic_resnet", "basic_resnet_fwse")
            gated = kind == "basic_resnet_fwse"
            self.conv_block = BasicResNet(channels, frequencies, group_divisor, gated=gated)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_block(x)
