"""Margin softmax over the cosines of one prefix.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from mrl.loss.margins import angular_margin, cosine_margin

_MARGINS = {"aam": angular_margin, "am": cosine_margin}


class MarginSoftmax(nn.Module):
    """Cross-entropy of scaled cosines, the target's lowered by a margin."""

    def __init__(self, kind: Literal["aam", "am"] = "aam", *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self._apply_margin = _MARGINS[kind]
        self._label_smoothing = label_smoothing

    def forward(self, cosines: Tensor, speakers: Tensor, margin: float, scale: float) -> Tensor:
        """Losses [B] of ``cosines`` [B, C] whose targets are ``speakers`` [B] int64."""
        target = speakers[:, None]
        with_margin = self._apply_margin(cosines.gather(1, target), margin)
        logits = scale * cosines.scatter(1, target, with_margin)
        return nn.functional.cross_entropy(
            logits, speakers, label_smoothing=self._label_smoothing, reduction="none"
        )
