"""What the effects of augmentation share: the items that they plan for, and the signal that passes through them.

Shapes: B batch, T samples of a crop, N items that an effect was drawn for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from mrl.config import AugmentationConfig
from mrl.data.clips import ClipBanks
from mrl.randomness import numpy_generator, seed_of

# These effects draw from one generator, in this order, whatever the configuration: earlier runs repeat.
_TOGETHER = (
    *("room", "room_choice", "room_decay", "room_direct"),
    *("noise", "noise_choice", "noise_position", "noise_colour", "noise_snr"),
    *("babble", "babble_talkers", "babble_snr", "gain", "gain_db"),
)  # fmt: skip

Draws = dict[str, np.ndarray]  # each [B], in [0, 1)
P = TypeVar("P")


class Items:
    """The items of one batch, and what is drawn for each: a function of (seed, epoch, utterance) alone.

    Args:
        seed: of the run.
        epoch: of the run.
        utterances: ``[B]``.
        speakers: ``[B]``.
        num_samples: T.
        ramp: factor on every probability, in [0, 1].
    """

    def __init__(
        self,
        seed: int,
        epoch: int,
        utterances: np.ndarray,
        speakers: np.ndarray,
        num_samples: int,
        ramp: float = 1.0,
    ) -> None:
        self.speakers = speakers
        self.num_samples = num_samples
        self._ramp = ramp
        self._keys = [(seed, "augment", epoch, int(utterance)) for utterance in utterances]

    def __len__(self) -> int:
        return len(self._keys)

    def chosen(self, draws: np.ndarray, probability: float) -> np.ndarray:
        """``[N]`` positions of the items whose draw falls below ``probability``, times the ramp."""
        return np.flatnonzero(draws < probability * self._ramp)

    def draws(self, effect: str, names: Sequence[str]) -> Draws:
        """Draws from a generator that no other effect uses, so that none moves another's."""
        drawn = [numpy_generator(*key, effect).random(len(names)) for key in self._keys]
        return dict(zip(names, np.stack(drawn).T, strict=True))

    @property
    def shared_draws(self) -> Draws:
        """The draws of room, noise, babble and gain."""
        return dict(zip(_TOGETHER, self._drawn.T, strict=False))

    @property
    def rankings(self) -> np.ndarray:
        """``[B, B]``: for each item a number for each item of the batch."""
        return self._drawn[:, len(_TOGETHER) :]

    def generator(self, row: int, purpose: str) -> np.random.Generator:
        """A generator of item ``row`` alone, for what takes an unknown number of draws."""
        return numpy_generator(*self._keys[row], purpose)

    def seeds(self, rows: np.ndarray, purpose: str) -> list[int]:
        """A seed for each of ``rows``."""
        return [seed_of(*self._keys[row], purpose) for row in rows]

    @cached_property
    def _drawn(self) -> np.ndarray:
        # The first columns do not depend on the batch's size; the last ones rank the batch.
        count = len(_TOGETHER) + len(self)
        return np.stack([numpy_generator(*key).random(count) for key in self._keys])


class Signal(NamedTuple):
    """A batch on its way through the effects, each float32 ``[B, T]``."""

    dry: Tensor  # before the room
    speech: Tensor  # in its room; what signal-to-noise ratios are measured against
    mixed: Tensor  # with everything that has been done so far

    @classmethod
    def of(cls, waveforms: Tensor) -> Signal:
        """Waveforms to which nothing has been done."""
        return cls(waveforms, waveforms, waveforms)


class Setup(NamedTuple):
    """What an effect is made from."""

    config: AugmentationConfig
    banks: ClipBanks


class Effect(Generic[P]):
    """One idea of augmentation, with a plan of its own kind, a NamedTuple of CPU tensors.

    An effect is made only where its probability is not 0.
    """

    def __init__(self, setup: Setup) -> None:
        self._config = setup.config

    def plan(self, items: Items) -> P | None:
        """Draw for ``items``, and read from disk what they need; None where there is nothing to do.

        Runs in a data loading worker. Raises DataError for a clip that cannot be read.
        """
        raise NotImplementedError

    def prepare(self, waveforms: Tensor, plan: P) -> Tensor:
        """What has to happen in the worker: ``[B, samples read]`` on the CPU to the same shape."""
        return waveforms

    def apply(self, signal: Signal, plan: P) -> Signal:
        """What happens on the device, where ``plan`` is too; waits for nothing."""
        return signal


def between(limits: tuple[float, float], shares: np.ndarray) -> Tensor:
    """``shares`` in [0, 1) spread over ``limits``, float32."""
    low, high = limits
    return torch.from_numpy(low + (high - low) * shares).float()


def to_device(plan: Any, device: torch.device) -> Any:
    """``plan``, and the plans in it, with all tensors on ``device``."""
    if isinstance(plan, Tensor):
        return plan.to(device, non_blocking=True)
    if isinstance(plan, tuple):
        moved = [to_device(field, device) for field in plan]
        return type(plan)(*moved) if hasattr(plan, "_fields") else tuple(moved)
    return plan
