"""The smallest prefix that can be shipped: as good as the best to within a tolerance, and not by chance.

Shapes: K prefixes, R resamples of the speakers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mrl.evaluation.bootstrap import interval
from mrl.evaluation.results import Interval

_FLOAT32_BYTES = 4
_MOST_SPEAKERS = 1_000_000  # beyond it, how many are needed is no longer advice


@dataclass(frozen=True)
class Loss:
    """What a prefix loses against the best one."""

    dim: int
    eer: float
    loss: float  # its EER less that of the best
    interval: Interval | None  # of the loss; None where there was no bootstrap
    verdict: str  # "enough", "worse", "unclear"


@dataclass(frozen=True)
class Recommendation:
    """``dim`` is the smallest prefix whose verdict is "enough": the best one where no smaller one is."""

    dim: int
    best_dim: int
    tolerance: float
    losses: tuple[Loss, ...]
    num_speakers: int
    confidence: float

    @property
    def words(self) -> str:
        """The recommendation in a few sentences, EERs in percentage points."""
        chosen = self._at(self.dim)
        enough = self._what_is_enough(chosen)
        sentences = [enough[0].upper() + enough[1:]]
        others = [loss for loss in self.losses if loss.dim < self.dim]
        sentences += [self._why_not(loss) for loss in reversed(others)]
        if chosen.eer == 0:
            sentences.append(
                "Without a single error there is little to compare; a larger or harder list says more."
            )
        if chosen.interval is None:
            sentences.append("No speakers were resampled, so chance is not ruled out.")
        if unclear := [loss for loss in others if loss.verdict == "unclear"]:
            sentences.append(self._more_speakers(unclear))
        return " ".join(sentences)

    def _what_is_enough(self, chosen: Loss) -> str:
        widest = self.losses[-1].dim
        cost = f"{self.dim * _FLOAT32_BYTES:,} bytes a speaker in float32"
        if self.dim < widest:
            cost += f" instead of {widest * _FLOAT32_BYTES:,}"
        best = f"EER {100 * chosen.eer:.2f} %, the best"
        if self.dim == self.best_dim and self.dim < widest:
            return f"{self.dim} numbers are enough: {best} of all prefixes; {cost}."
        if self.dim == self.best_dim:
            smaller = "no smaller prefix is shown to be enough" if len(self.losses) > 1 else "the only prefix"
            return f"use {self.dim} numbers: {best}, and {smaller}; {cost}."
        return (
            f"{self.dim} numbers are enough: {_points(chosen.loss)} above {self.best_dim}"
            f"{self._bounds(chosen)}; {cost}."
        )

    def _why_not(self, loss: Loss) -> str:
        begin = f"{loss.dim} numbers"
        if loss.verdict == "worse":
            return f"{begin} lose {_points(loss.loss)}{_range(loss)}."
        return f"{begin} may be enough or not: {_points(loss.loss)} above {self.best_dim}{_range(loss)}."

    def _bounds(self, loss: Loss) -> str:
        within = f"within the tolerance of {100 * self.tolerance:.2f}"
        if loss.interval is None:
            return f" ({within})"
        return f" ({100 * self.confidence:g} % interval {_span(loss.interval)}, {within})"

    def _more_speakers(self, unclear: Sequence[Loss]) -> str:
        """That the intervals are too wide, and for the nearest miss how many speakers would do."""
        text = f"To tell, more speakers are needed than {self.num_speakers:,}"
        needed = [
            count for loss in unclear if (count := speakers_needed(loss, self.tolerance, self.num_speakers))
        ]
        if needed:
            text += f": about {min(needed):,}, if the loss stays what it is"
        return f"{text}."

    def _at(self, dim: int) -> Loss:
        return next(loss for loss in self.losses if loss.dim == dim)


def recommendation(
    dims: Sequence[int],
    eers: Sequence[float],
    resampled: ArrayLike | None,
    *,
    tolerance: float,
    num_speakers: int,
    confidence: float = 0.95,
) -> Recommendation:
    """The smallest of ``dims`` whose loss is within ``tolerance`` even at the upper end of its interval.

    The best prefix is the one with the lowest EER on the list, the smaller one of two that tie. Having been chosen on
    these trials it looks a little better than it is, which errs on the side of a prefix that is too wide. A loss is
    "worse" where even the lower end of its interval is beyond the tolerance, and "unclear" where the interval
    contains it.

    Args:
        dims: prefixes, ascending.
        eers: shares [K].
        resampled: EERs [K, R] on the same resamples (`bootstrap_eers`); None: the observed losses decide.
        tolerance: share by which the EER may be above the best: 0.001 is 0.1 percentage points.
        num_speakers: of the list.
        confidence: of the intervals.
    """
    rates = None if resampled is None else np.asarray(resampled, dtype=np.float64)
    assert list(dims) == sorted(set(dims))
    assert len(dims) == len(eers)
    assert rates is None or len(rates) == len(dims)
    best = int(np.argmin(eers))
    losses = []
    for place, (dim, eer) in enumerate(zip(dims, eers, strict=True)):
        bounds = None if rates is None else interval(rates[place] - rates[best], confidence)
        loss = eer - eers[best]
        losses.append(Loss(dim, eer, loss, bounds, _verdict(loss, bounds, tolerance)))
    dim = next(loss.dim for loss in losses if loss.verdict == "enough")
    return Recommendation(dim, dims[best], tolerance, tuple(losses), num_speakers, confidence)


def speakers_needed(loss: Loss, tolerance: float, num_speakers: int) -> int | None:
    """So many speakers that the upper end of the interval would come down to ``tolerance``, to two digits.

    An interval narrows with the root of the number of speakers. None where the loss itself is beyond the tolerance,
    or where the number is out of reach.
    """
    if loss.interval is None or loss.loss >= tolerance:
        return None
    needed = num_speakers * ((loss.interval.high - loss.loss) / (tolerance - loss.loss)) ** 2
    if needed > _MOST_SPEAKERS:
        return None
    unit = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    return math.ceil(needed / unit) * unit


def _verdict(loss: float, bounds: Interval | None, tolerance: float) -> str:
    low, high = (loss, loss) if bounds is None else bounds
    if high <= tolerance:
        return "enough"
    return "worse" if low > tolerance else "unclear"


def _points(share: float) -> str:
    return f"{100 * share:.2f} points"


def _range(loss: Loss) -> str:
    return "" if loss.interval is None else f" ({_span(loss.interval)})"


def _span(bounds: Interval) -> str:
    return f"{100 * bounds.low:.2f} to {100 * bounds.high:.2f}"
