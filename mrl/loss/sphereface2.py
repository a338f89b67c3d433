"""SphereFace2: a binary classification for each class, over the cosines of one prefix.

Wen et al., arXiv 2108.01513; for speakers Han et al., arXiv 2307.08205. Shapes: B batch, C classes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from mrl.loss.margins import angular_lift, angular_margin, cosine_lift, cosine_margin


class SphereFace2(nn.Module):
    """Binary cross-entropy of "it is this class", summed over the classes.

    With g(x) = 2 ((x + 1) / 2)^t - 1, scale s and bias b, the loss of one item is

        lambda softplus(-(s p + b)) + (1 - lambda) sum over wrong classes of softplus(s n + b)

    where, with margin m, type C has p = g(cos) - m and n = g(cos) + m, and type A has p = g(cos(theta + m)) and
    n = g(cos(theta - m)), as Han et al. write them (Wen et al. divide the whole by s). The parameter is b / s,
    in the unit of the cosines: an optimizer that takes steps of one size, as Adam does, then moves it at their
    pace.

    Args:
        num_classes, margin, scale: at the start; b is set for them such that, with all cosines at 0, target and
            wrong classes pull at it with equal force, which is where the loss is least (Wen et al.).
        kind: additive margin on the adjusted cosine (c) or on the angle (a).
        positive_share: lambda, above 0 and below 1.
        curvature: t.
    """

    def __init__(
        self,
        num_classes: int,
        margin: float,
        scale: float,
        *,
        kind: Literal["c", "a"] = "c",
        positive_share: float = 0.7,
        curvature: int = 3,
    ) -> None:
        super().__init__()
        self._is_angular = kind == "a"
        self._positive_share = positive_share
        self._curvature = curvature
        nothing = torch.zeros((), dtype=torch.float64)
        bias = _balanced_bias(
            scale * self._of_target(nothing, margin).item(),
            scale * self._of_wrong(nothing, margin).item(),
            positive_share / ((1.0 - positive_share) * max(1, num_classes - 1)),
        )
        self.bias = nn.Parameter(torch.tensor(bias / scale))

    def forward(self, cosines: Tensor, speakers: Tensor, margin: float, scale: float) -> Tensor:
        """Losses [B] of ``cosines`` [B, C] whose targets are ``speakers`` [B] int64."""
        target = speakers[:, None]
        right = scale * (self._of_target(cosines.gather(1, target), margin) + self.bias)
        wrong = scale * (self._of_wrong(cosines, margin) + self.bias)
        wrong = wrong.scatter(1, target, -float("inf"))  # the target's own term becomes exactly 0
        drawn = nn.functional.softplus(-right).squeeze(1)
        pushed = nn.functional.softplus(wrong).sum(1)
        return self._positive_share * drawn + (1.0 - self._positive_share) * pushed

    def _of_target(self, cosines: Tensor, margin: float) -> Tensor:
        if self._is_angular:
            return self._adjusted(angular_margin(cosines, margin))
        return cosine_margin(self._adjusted(cosines), margin)

    def _of_wrong(self, cosines: Tensor, margin: float) -> Tensor:
        if self._is_angular:
            return self._adjusted(angular_lift(cosines, margin))
        return cosine_lift(self._adjusted(cosines), margin)

    def _adjusted(self, cosines: Tensor) -> Tensor:
        """g; a margin may have led below -1, where an even power would rise again."""
        return 2.0 * ((cosines + 1.0) / 2.0).clamp_min(0.0).pow(self._curvature) - 1.0


def _balanced_bias(target: float, wrong: float, ratio: float) -> float:
    """The b at which ``ratio * sigmoid(-(target + b))`` equals ``sigmoid(wrong + b)``.

    With x = exp(wrong + b) and r = exp(target - wrong) it is r x^2 + (1 - ratio) x - ratio = 0; of the two ways
    to write the positive root each case takes the one that adds.
    """
    gap = target - wrong
    root = math.sqrt((1.0 - ratio) ** 2 + 4.0 * ratio * math.exp(gap))
    if ratio < 1.0:
        return math.log(2.0 * ratio) - math.log(1.0 - ratio + root) - wrong
    return math.log((ratio - 1.0 + root) / 2.0) - gap - wrong
