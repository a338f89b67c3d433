"""Weights that are NaN or infinite, found and named before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mrl.errors import CheckpointError


def non_finite_tensor(state: Mapping[str, Tensor]) -> str | None:
    """The first tensor of ``state`` that holds NaN or infinities, with their number; None where all are finite.

    The tensors may lie on a GPU, which is waited for once.
    """
    floating = {name: value.detach() for name, value in state.items() if value.is_floating_point()}
    if not floating:
        return None
    sound = torch.stack([value.isfinite().all() for value in floating.values()]).tolist()
    if all(sound):
        return None
    name = list(floating)[sound.index(False)]
    bad = int((~floating[name].isfinite()).sum())
    others = sound.count(False) - 1
    more = f"; {others} further tensors likewise" if others else ""
    return f"{name} ({bad:,} of {floating[name].numel():,} numbers{more})"


def require_finite_weights(state: Mapping[str, Tensor], source: str) -> None:
    """CheckpointError, which begins with ``source``, for weights that are not finite."""
    if (broken := non_finite_tensor(state)) is not None:
        raise CheckpointError(
            f"{source}: weights that are NaN or infinite, in {broken}; the file is damaged or of a run that "
            "diverged, use another one"
        )
