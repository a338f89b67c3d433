"""Margins on the cosine of a target."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# 1 - cos^2 is kept above this before the square root, whose slope is infinite at 0.
_SMALLEST_SINE_SQUARE = 1e-7


def angular_margin(cosines: Tensor, margin: float) -> Tensor:
    """``cos(theta + margin)`` of target ``cosines``; margin in radians.

    Where ``theta + margin`` passes pi the cosine would rise again; there ``cos(theta) - margin sin(margin)``
    continues it downwards (Deng et al., ArcFace, arXiv 1801.07698, and its reference implementation).
    """
    sines = (1.0 - cosines.square()).clamp_min(_SMALLEST_SINE_SQUARE).sqrt()
    shifted = cosines * math.cos(margin) - sines * math.sin(margin)
    return torch.where(cosines > -math.cos(margin), shifted, cosines - margin * math.sin(margin))


def cosine_margin(cosines: Tensor, margin: float) -> Tensor:
    """``cos(theta) - margin`` (Wang et al., CosFace, arXiv 1801.09414)."""
    return cosines - margin
