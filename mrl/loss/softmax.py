"""Margin softmax over the cosines of one prefix.

Shapes: B batch, C classes, k nearest wrong classes.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from mrl.loss.margins import angular_lift, angular_margin, cosine_lift, cosine_margin, easy_angular_margin

_MARGINS = {"aam": angular_margin, "am": cosine_margin}
_LIFTS = {"aam": angular_lift, "am": cosine_lift}


class MarginSoftmax(nn.Module):
    """Cross-entropy of scaled cosines, the target's lowered by a margin.

    Args:
        kind: additive margin on the angle (aam) or on the cosine (am).
        label_smoothing: share of the target probability spread over all classes.
        easy_margin: aam: the margin applies only where the target's cosine is positive.
        inter_top_k: so many nearest wrong classes are raised by ``inter_top_k_penalty``, in the unit of the
            margin (Zhao et al., arXiv 2110.05042). Without a margin, as when scoring, they are left alone too.
    """

    def __init__(
        self,
        kind: Literal["aam", "am"] = "aam",
        *,
        label_smoothing: float = 0.0,
        easy_margin: bool = False,
        inter_top_k: int = 0,
        inter_top_k_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        assert kind == "aam" or not easy_margin
        self.with_margin = easy_angular_margin if easy_margin else _MARGINS[kind]
        """(target cosines, margin) -> what takes their place, number by number."""
        self.label_smoothing = label_smoothing
        self._lift = _LIFTS[kind]
        self._top_k = inter_top_k
        self._penalty = inter_top_k_penalty

    @property
    def leaves_wrong_classes(self) -> bool:
        """Whether the cosines of wrong classes stay as they are: the margin then needs the target's alone."""
        return not self._top_k

    def forward(self, cosines: Tensor, speakers: Tensor, margin: float, scale: float) -> Tensor:
        """Losses [B] of ``cosines`` [B, C] whose targets are ``speakers`` [B] int64."""
        target = speakers[:, None]
        with_margin = cosines.scatter(1, target, self.with_margin(cosines.gather(1, target), margin))
        if self._top_k and margin:
            nearest = _nearest_wrong(cosines, target, self._top_k)
            with_margin = with_margin.scatter(
                1, nearest, self._lift(cosines.gather(1, nearest), self._penalty)
            )
        return nn.functional.cross_entropy(
            scale * with_margin, speakers, label_smoothing=self.label_smoothing, reduction="none"
        )


def _nearest_wrong(cosines: Tensor, target: Tensor, count: int) -> Tensor:
    """Classes [B, k] of the highest ``cosines`` [B, C] besides ``target`` [B, 1]; k is ``count``, or C - 1."""
    others = cosines.detach().scatter(1, target, -float("inf"))
    return others.topk(min(count, cosines.shape[1] - 1), dim=1, sorted=False).indices
