"""Poolings over time: frame features [B, D, T] -> one vector per utterance [B, P].

Statistics are computed in float32 whatever the autocast: E[x^2] - E[x]^2 cancels, and in half precision the
deviation of a nearly constant channel is noise. Names, keys and floors are those of the released models
(WeSpeaker's set). B batch, D channels, T frames.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from mrl.models.memory_order import Conv1d, pointwise, softmax_over_time

VARIANCE_FLOOR = 1e-7


def mean_and_std(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sqrt(unbiased variance + 1e-7) over time, each [B, D, 1], float32."""
    frames = frames.float()
    variance, mean = torch.var_mean(frames, dim=-1, keepdim=True)
    return mean, torch.sqrt(variance + VARIANCE_FLOOR)


def weighted_statistics(frames: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean and deviation [B, 2 D], float32; weights [B, D or 1, T] sum to one over time."""
    frames, weights = frames.float(), weights.float()
    mean = (weights * frames).sum(dim=-1)
    variance = (weights * frames.square()).sum(dim=-1) - mean.square()
    return torch.cat([mean, torch.sqrt(variance.clamp(min=VARIANCE_FLOOR))], dim=1)


class Pooling(nn.Module):
    """A pooling; `out_dim` is P."""

    def __init__(self, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim


class TAP(Pooling):
    """Temporal average: P = D."""

    def __init__(self, in_dim: int) -> None:
        super().__init__(in_dim)

    def forward(self, frames: Tensor) -> Tensor:
        return frames.float().mean(dim=-1)


class TMAP(TAP):
    """Temporal maximum plus average: P = D."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames.amax(dim=-1).float() + super().forward(frames)


class TSDP(TAP):
    """Temporal standard deviation: P = D."""

    def forward(self, frames: Tensor) -> Tensor:
        return mean_and_std(frames)[1].squeeze(-1)


class TSTP(Pooling):
    """Temporal mean, then deviation: P = 2 D."""

    def __init__(self, in_dim: int) -> None:
        super().__init__(2 * in_dim)

    def forward(self, frames: Tensor) -> Tensor:
        return torch.cat(mean_and_std(frames), dim=1).squeeze(-1)


class ASTP(Pooling):
    """Attentive statistics, one weight per channel and frame: P = 2 D (ECAPA-TDNN, arXiv:2005.07143).

    With ``global_context`` the attention also sees each channel's mean and deviation over the utterance.
    """

    def __init__(self, in_dim: int, *, global_context: bool = False, bottleneck_dim: int = 128) -> None:
        super().__init__(2 * in_dim)
        self.in_dim = in_dim
        self.global_context = global_context
        self.linear1 = Conv1d(3 * in_dim if global_context else in_dim, bottleneck_dim, 1)
        self.linear2 = Conv1d(bottleneck_dim, in_dim, 1)

    def forward(self, frames: Tensor) -> Tensor:
        if self.global_context:
            # The context is constant in time: its share of the first layer is computed once, not per frame.
            frame_weight, context_weight = self.linear1.weight.tensor_split([self.in_dim], dim=1)
            context = pointwise(torch.cat(mean_and_std(frames), dim=1), context_weight, self.linear1.bias)
            hidden = pointwise(frames, frame_weight) + context
        else:
            hidden = self.linear1(frames)
        weights = softmax_over_time(self.linear2(torch.tanh(hidden)).float())
        return weighted_statistics(frames, weights)


class MHASTP(Pooling):
    """Attentive statistics per head: channels cut into contiguous heads, each [mean, deviation]: P = 2 D.

    Every head scores a frame once for all its channels, or, with ``score_per_channel``, once per channel
    (self multi-head attention, arXiv:1906.09890).
    """

    def __init__(
        self, in_dim: int, *, heads: int = 2, score_per_channel: bool = False, bottleneck_dim: int = 64
    ) -> None:
        super().__init__(2 * in_dim)
        if in_dim % heads:
            raise ValueError(f"pooling over {in_dim} channels cannot be cut into {heads} heads")
        head_dim = in_dim // heads
        scores = head_dim if score_per_channel else 1
        self.heads_att_trans = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    att_0=Conv1d(head_dim, bottleneck_dim, 1),
                    tanh0=nn.Tanh(),
                    att_1=Conv1d(bottleneck_dim, scores, 1),
                )
            )
            for _ in range(heads)
        )

    def forward(self, frames: Tensor) -> Tensor:
        chunks = frames.chunk(len(self.heads_att_trans), dim=1)
        return torch.cat(
            [
                weighted_statistics(chunk, softmax_over_time(score(chunk).float()))
                for score, chunk in zip(self.heads_att_trans, chunks, strict=True)
            ],
            dim=1,
        )


class MQMHASTP(Pooling):
    """Several multi-head poolings ("queries") side by side: P = 2 D queries (arXiv:2110.05042)."""

    def __init__(self, in_dim: int, *, queries: int = 2, heads: int = 8) -> None:
        super().__init__(2 * in_dim * queries)
        self.n_query = nn.ModuleList(
            MHASTP(in_dim, heads=heads, score_per_channel=True) for _ in range(queries)
        )

    def forward(self, frames: Tensor) -> Tensor:
        return torch.cat([query(frames) for query in self.n_query], dim=-1)


POOLINGS: dict[str, type[Pooling]] = {
    kind.__name__: kind for kind in (TAP, TMAP, TSDP, TSTP, ASTP, MHASTP, MQMHASTP)
}


def build_pooling(name: str, in_dim: int, *, global_context: bool) -> Pooling:
    """The pooling of that released name; ``global_context`` concerns ASTP alone, as in the authors' code."""
    if name == "ASTP":
        return ASTP(in_dim, global_context=global_context)
    return POOLINGS[name](in_dim)
