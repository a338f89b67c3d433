"""Margins on cosines: against a target, or in favour of a wrong class."""

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
    shifted = cosines * math.cos(margin) - _sines(cosines) * math.sin(margin)
    return torch.where(cosines > -math.cos(margin), shifted, cosines - margin * math.sin(margin))


def easy_angular_margin(cosines: Tensor, margin: float) -> Tensor:
    """:func:`angular_margin` of the positive ``cosines``, the others as they are (ArcFace's "easy margin")."""
    return torch.where(cosines > 0, angular_margin(cosines, margin), cosines)


def angular_lift(cosines: Tensor, margin: float) -> Tensor:
    """``cos(theta - margin)`` of wrong classes' ``cosines``; margin in radians.

    Where ``theta`` is below the margin the cosine would fall again; there ``cos(theta) + 1 - cos(margin)``
    continues it upwards, without a step.
    """
    shifted = cosines * math.cos(margin) + _sines(cosines) * math.sin(margin)
    return torch.where(cosines < math.cos(margin), shifted, cosines + (1.0 - math.cos(margin)))


def cosine_margin(cosines: Tensor, margin: float) -> Tensor:
    """``cos(theta) - margin`` (Wang et al., CosFace, arXiv 1801.09414)."""
    return cosines - margin


def cosine_lift(cosines: Tensor, margin: float) -> Tensor:
    """``cos(theta) + margin`` of wrong classes' ``cosines``."""
    return cosines + margin


def _sines(cosines: Tensor) -> Tensor:
    return (1.0 - cosines.square()).clamp_min(_SMALLEST_SINE_SQUARE).sqrt()
