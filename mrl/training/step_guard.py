"""Whether an update may move anything, decided on the device, so that the host need not wait for a GPU.

What must stay as it was before an update that does not happen: weights and moments, which the fused optimizers see to
where ``found_inf`` tells them, and the BatchNorm statistics that the forward has moved already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn


@dataclass
class SkipCounts:
    """Updates that were left out, as the host has read of them."""

    in_a_row: int = 0
    in_epoch: int = 0
    epoch: int = 0
    """Of the stage; ``in_epoch`` counts in it."""
    overflows: int = 0
    """fp16: overflows in a row, which lower the loss scale and count as nothing else."""

    def note(self, epoch: int, *, is_faulty: bool, is_overflow: bool) -> None:
        """Count an update of ``epoch`` whose loss or gradient was not finite, or overflowed, or neither."""
        if epoch != self.epoch:
            self.epoch, self.in_epoch = epoch, 0
        if is_faulty:
            self.in_a_row += 1
            self.in_epoch += 1
        elif is_overflow:
            self.overflows += 1
        else:
            self.in_a_row, self.overflows = 0, 0

    def exceed(self, limit: int) -> bool:
        """Whether more than ``limit`` were left out in a row, or in the epoch."""
        return max(self.in_a_row, self.in_epoch) > limit

    def state_dict(self) -> dict[str, int]:
        return asdict(self)


class StepGuard:
    """Takes the steps of an optimizer, but for those whose loss or gradient is not finite.

    Args:
        optimizer: heeds ``found_inf``, see :func:`mrl.training.optimizer.build_optimizer`.
        scaler: fp16's, enabled or not. An enabled one leaves out overflows too, and lowers its scale.
        norms: modules whose statistics the forward moves.
        limit: how many updates may be left out in a row, or in one epoch. At more, all later ones are.

    Attributes:
        sound: a factor of each loss: 1, and NaN from the first update on that ``limit`` forbids.
        applied: bool, whether the last update happened.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        norms: Iterable[nn.Module],
        limit: int,
        device: torch.device,
    ) -> None:
        self._optimizer = optimizer
        self._scaler = scaler
        self._limit = limit
        self._statistics = _Statistics(norms)
        self._epoch = 0
        self._counts = torch.zeros(2, device=device)  # in a row, in the epoch
        self._after_a_step = torch.tensor(
            [0.0, 1.0], device=device
        )  # what of them an update that happens leaves
        self.sound = torch.ones((), device=device)
        self.applied = torch.ones((), dtype=torch.bool, device=device)

    def begin(self, epoch: int) -> None:
        """Before the forward of an update of ``epoch`` (of the stage)."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._counts[1:].zero_()
        self._statistics.remember()

    def taint(self, gradients: Sequence[Tensor], loss: Tensor) -> None:
        """Before gradients are unscaled: a ``loss`` that is not finite makes one so, for the scaler to see."""
        if self._scaler.is_enabled() and gradients:
            gradients[0].masked_fill_(~loss.isfinite(), math.nan)

    def step(self, loss: Tensor, gradient_norm: Tensor) -> None:
        """Move the weights, unless ``loss`` or ``gradient_norm``, both on the device, is not finite."""
        is_faulty = ~loss.isfinite()
        self.applied = gradient_norm.isfinite() & ~is_faulty
        if not self._scaler.is_enabled():
            is_faulty = ~self.applied
            # The fused optimizers look at it where GradScaler would put it.
            self._optimizer.found_inf = is_faulty.float()  # type: ignore[attr-defined]
        counts = self._counts + is_faulty
        self._counts = torch.where(self.applied, counts * self._after_a_step, counts)
        self.sound = self.sound.masked_fill((self._counts > self._limit).any(), math.nan)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._statistics.restore_unless(self.applied)

    def load(self, counts: SkipCounts) -> None:
        """Go on from what the host has counted."""
        self._epoch = counts.epoch
        self._counts.copy_(torch.tensor([counts.in_a_row, counts.in_epoch]))


class _Statistics:
    """The buffers of BatchNorms that move, and what they were before an update."""

    def __init__(self, norms: Iterable[nn.Module]) -> None:
        buffers = [buffer for norm in norms for buffer in norm.buffers()]
        kinds = {buffer.dtype: None for buffer in buffers}
        self._groups = [[buffer for buffer in buffers if buffer.dtype == kind] for kind in kinds]
        self._before: list[Tensor] = []

    def remember(self) -> None:
        self._before = [_joined(group) for group in self._groups]

    def restore_unless(self, applied: Tensor) -> None:
        for group, before in zip(self._groups, self._before, strict=True):
            kept = torch.where(applied, _joined(group), before).split([buffer.numel() for buffer in group])
            torch._foreach_copy_(
                group, [part.view_as(buffer) for part, buffer in zip(kept, group, strict=True)]
            )


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of all of them as one vector: two launches on a device, however many norms there are."""
    return torch.cat([tensor.flatten() for tensor in tensors])
