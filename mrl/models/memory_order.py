"""Layers that keep frames outermost in memory, on a CPU.

The signatures are those of `torch.nn`: maps [B, C, F, T] and sequences [B, D, T]. On a CPU both lie in memory as
[B, T, F, C] and [B, T, D] = [B, T, F C], whatever order they come in. So the two views of a feature map are views of
one memory, LayerNorm and attention find their channels side by side, and convolutions run channels-last, which they
do in a half to a fifth of the time. Elsewhere the order is torch's own.

B batch, C channels, F frequency rows, D = F C, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

DEVICES = frozenset({"cpu"})  # where frames are kept outermost


def frames_outermost(x: Tensor) -> bool:
    """Whether maps and sequences on the device of ``x`` lie with their frames outermost."""
    return x.device.type in DEVICES


def repeat_frames(x: Tensor, times: int) -> Tensor:
    """[B, D, T] -> [B, D, T times]: each frame ``times`` times."""
    if not frames_outermost(x):
        return x.unsqueeze(-1).expand(*x.shape, times).flatten(-2)
    frames = x.transpose(1, 2).unsqueeze(2)
    return frames.expand(-1, -1, times, -1).flatten(1, 2).transpose(1, 2)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution of a sequence [B, D, T] with ``weight`` [E, D, 1] -> [B, E, T]."""
    if not frames_outermost(x):
        return functional.conv1d(x, weight, bias)
    return functional.conv2d(_as_image(x), weight.unsqueeze(3), bias).squeeze(3)


def join_channels(maps: Sequence[Tensor]) -> Tensor:
    """Concatenation over dimension 1 of maps or sequences."""
    if len(maps) == 1:
        return maps[0]  # torch would copy it
    if not frames_outermost(maps[0]):
        return torch.cat(list(maps), dim=1)
    return torch.cat([x.transpose(1, -1) for x in maps], dim=-1).transpose(1, -1)


def softmax_over_time(scores: Tensor) -> Tensor:
    """Softmax of [B, D, T] over T."""
    if not frames_outermost(scores):
        return torch.softmax(scores, dim=-1)
    # Over its last dimension torch's softmax works on a copy in its own order, which all that follows would take.
    return torch.softmax(scores.transpose(1, 2).contiguous(), dim=1).transpose(1, 2)


class Conv1d(nn.Conv1d):
    """`torch.nn.Conv1d` on [B, D, T]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same with another weight and bias."""
        assert self.padding_mode == "zeros"
        if not frames_outermost(x):
            return functional.conv1d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        assert not isinstance(self.padding, str)
        # As an image of one column: torch turns the memory of a sequence back before it convolves one. Not of one
        # row, which is faster still, but where oneDNN hangs on wide depthwise kernels in bfloat16.
        (stride,), (padding,), (dilation,) = self.stride, self.padding, self.dilation
        column = functional.conv2d(
            _as_image(x), weight.unsqueeze(3), bias, (stride, 1), (padding, 0), (dilation, 1), self.groups
        )
        return column.squeeze(3)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` on [B, C, F, T]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same with another weight and bias."""
        assert self.padding_mode == "zeros"
        if not frames_outermost(x):
            return functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        # In torch's channels-last order the rows are outermost, so frames take the place of rows.
        image = x.transpose(2, 3).contiguous(memory_format=torch.channels_last)
        stride, padding, dilation = self.stride[::-1], self.padding[::-1], self.dilation[::-1]
        out = functional.conv2d(image, weight.transpose(2, 3), bias, stride, padding, dilation, self.groups)
        return out.transpose(2, 3)


class BatchNorm1d(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` on [B, D, T]."""

    def forward(self, x: Tensor) -> Tensor:
        if not frames_outermost(x):
            return super().forward(x)
        size = (x.shape[0], x.shape[2])
        return super().forward(x.transpose(1, 2).flatten(0, 1)).unflatten(0, size).transpose(1, 2)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` on [B, C, F, T]."""

    def forward(self, x: Tensor) -> Tensor:
        if not frames_outermost(x):
            return super().forward(x)
        image = x.transpose(2, 3).contiguous(memory_format=torch.channels_last)
        return super().forward(image).transpose(2, 3)


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` on [B, D, T]."""

    def forward(self, x: Tensor) -> Tensor:
        if not frames_outermost(x):
            return super().forward(x)
        return super().forward(_as_image(x)).squeeze(3)


def gain_and_shift(norm: BatchNorm1d | BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What ``norm`` multiplies each channel by and then adds, each [C], where its statistics are frozen."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return gain, norm.bias - norm.running_mean * gain


def _as_image(x: Tensor) -> Tensor:
    """[B, D, T] -> [B, D, T, 1], channels-last: a view where frames are outermost already."""
    # Not x.unsqueeze(3): the stride that it gives the new dimension tells torch that the image is not channels-last.
    return x.transpose(1, 2).contiguous().unsqueeze(2).permute(0, 3, 1, 2)
