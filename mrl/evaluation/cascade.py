"""A cascade: decide by a short prefix where it is sure, and by the full size where it is not.

A trial whose score at the small prefix is below the band is rejected, one above it is accepted, and one inside it is
escalated: its score at full size decides. As the full-size threshold moves through all values the cascade accepts the
trials above the band and more or fewer of those inside. For an EER and a minDCF every trial needs one score. It is the
trial's place in this order: trials below the band, by their small scores; trials inside, by their full-size scores;
trials above, by their small scores. A threshold among the trials inside is the cascade's, at that full-size threshold.
One beyond the band's edge is that of the small prefix alone, which decides without escalating: where the band misses an
operating point, the small prefix is what remains, and its errors are what is reported. So a band of all scores is the
full size, and an empty band the small prefix.

A band is chosen on the trials between speakers of one half, and reported on those of the other half; trials between
the halves are left out, as their speakers would be on both sides.

Shapes: N trials, S speakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrl.evaluation.bootstrap import TrialSpeakers
from mrl.evaluation.metrics import equal_error_rate_of_sorted, least_cost, operating_points
from mrl.evaluation.results import CascadePoint
from mrl.randomness import numpy_generator

ESCALATION_RATES = (0.05, 0.1, 0.2, 0.4)
_COARSE, _FINE = 48, 16  # bands tried over all scores, and then around the best of them


class DetectionCost(NamedTuple):
    """What minDCF weighs errors by."""

    p_target: float
    miss: float = 1.0
    false_accept: float = 1.0


class Cascade(NamedTuple):
    """Bands, and on how many trials they were chosen and reported. Without points, a half lacks a class of trials."""

    points: tuple[CascadePoint, ...]
    chosen_on: int
    reported_on: int
    left_out: int  # between a speaker of one half and one of the other

    @property
    def words(self) -> str:
        chosen, reported, left_out = (f"{count:,}" for count in self[1:])
        if not self.points:
            return (
                "No cascade: half of the speakers have no target or no non-target trial among themselves; "
                "more speakers are needed."
            )
        return (
            f"Bands chosen on {chosen} trials among half of the speakers, reported on {reported} among the others; "
            f"{left_out} between the halves are left out."
        )


def cascade(
    small: ArrayLike,
    full: ArrayLike,
    labels: ArrayLike,
    speakers: TrialSpeakers,
    *,
    dims: tuple[int, int],
    cost: DetectionCost,
    seed: int,
    escalation_rates: Sequence[float] = ESCALATION_RATES,
) -> Cascade:
    """Bands that escalate about each of ``escalation_rates`` of the trials on the choosing half.

    Args:
        small, full: scores [N] at the two prefixes.
        labels: [N], true for targets.
        speakers: of each trial.
        dims: the two prefixes.
        cost: of minDCF.
        seed: of the halves.
        escalation_rates: shares in (0, 1]. They are shares of the list's trials, so they hold for its share of
            targets.

    A band is the one that does best on the choosing half by the mean of EER and minDCF, each over that of the full
    size; where several do, the middle one.
    """
    pair = _Pair(
        np.asarray(small, dtype=np.float64), np.asarray(full, dtype=np.float64), np.asarray(labels, bool)
    )
    choosing, reporting = speaker_halves(speakers, seed)
    counts = int(choosing.sum()), int(reporting.sum())
    left_out = len(pair.labels) - sum(counts)
    if not all(_has_both(pair.labels[half]) for half in (choosing, reporting)):
        return Cascade((), *counts, left_out)
    chooser = _Half(pair.of(choosing), cost)
    reporter = _Half(pair.of(reporting), cost)
    bands = (chooser.best_band(rate) for rate in escalation_rates)
    return Cascade(tuple(_point(reporter, band, dims) for band in bands), *counts, left_out)


def speaker_halves(speakers: TrialSpeakers, seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Trials [N] among one half of the speakers, and trials among the other half."""
    order = numpy_generator(seed, "cascade halves").permutation(speakers.num_speakers)
    first = np.zeros(speakers.num_speakers, dtype=bool)
    first[order[: speakers.num_speakers // 2]] = True
    enrolment, test = first[speakers.enrolment], first[speakers.test]
    return enrolment & test, ~enrolment & ~test


def cascade_places(
    small: NDArray[np.float64], full: NDArray[np.float64], low: float, high: float
) -> NDArray[np.float64]:
    """The one score [N] of each trial: its place in the cascade's order, whole numbers, equal where scores tie."""
    return _places(small, _ranks(small), _ranks(full), low, high)


class _Pair(NamedTuple):
    small: NDArray[np.float64]
    full: NDArray[np.float64]
    labels: NDArray[np.bool_]

    def of(self, chosen: NDArray[np.bool_]) -> _Pair:
        return _Pair(self.small[chosen], self.full[chosen], self.labels[chosen])


class _Errors(NamedTuple):
    eer: float
    min_dcf: float


class _Half:
    """The trials of half of the speakers, with what every band needs of them worked out once."""

    def __init__(self, pair: _Pair, cost: DetectionCost) -> None:
        self._pair, self._cost = pair, cost
        self._small_ranks, self._full_ranks = _ranks(pair.small), _ranks(pair.full)
        self._by_small, self._by_full = (
            np.argsort(-ranks) for ranks in (self._small_ranks, self._full_ranks)
        )
        self.full_size = self.errors(-np.inf, np.inf)

    def errors(self, low: float, high: float) -> _Errors:
        """EER and minDCF of a cascade with this band."""
        small, labels = self._pair.small, self._pair.labels
        order = self._by_small
        above, below = order[small[order] >= high], order[small[order] < low]
        inside = self._by_full[(small[self._by_full] >= low) & (small[self._by_full] < high)]
        order = np.concatenate([above, inside, below])
        # Already descending, which the sorts of the metrics notice.
        places = _places(small, self._small_ranks, self._full_ranks, low, high)[order]
        targets = labels[order]
        eer = equal_error_rate_of_sorted(places[targets][::-1], places[~targets][::-1])
        return _Errors(eer.rate, least_cost(operating_points(places, targets), *self._cost))

    def escalated(self, low: float, high: float) -> float:
        """Share of the trials inside the band."""
        return float(np.mean((self._pair.small >= low) & (self._pair.small < high)))

    def best_band(self, share: float) -> tuple[float, float]:
        """The band of ``share`` of the trials that does best here."""
        ascending = np.sort(self._pair.small)
        inside = min(len(ascending), max(1, round(share * len(ascending))))
        last = len(ascending) - inside
        coarse = np.unique(np.linspace(0, last, _COARSE).astype(int))
        best = self._best_start(coarse, ascending, inside)
        step = last / _COARSE
        fine = np.unique(np.linspace(max(0, best - step), min(last, best + step), _FINE).astype(int))
        return _band(ascending, self._best_start(np.union1d(fine, [best]), ascending, inside), inside)

    def _best_start(self, starts: NDArray[np.int64], ascending: NDArray[np.float64], inside: int) -> int:
        excesses = np.array([self._excess(*_band(ascending, start, inside)) for start in starts])
        best = starts[np.isclose(excesses, excesses.min(), rtol=0, atol=1e-9)]
        return int(best[len(best) // 2])

    def _excess(self, low: float, high: float) -> float:
        """EER and minDCF over those of the full size, which are taken as one miss at least."""
        one_miss = 1 / int(self._pair.labels.sum())
        found = self.errors(low, high)
        return sum(here / max(there, one_miss) for here, there in zip(found, self.full_size, strict=True)) / 2


def _point(half: _Half, band: tuple[float, float], dims: tuple[int, int]) -> CascadePoint:
    found = half.errors(*band)
    return CascadePoint(
        *dims,
        *band,
        escalation_rate=half.escalated(*band),
        eer=found.eer,
        min_dcf=found.min_dcf,
        full_eer=half.full_size.eer,
        full_min_dcf=half.full_size.min_dcf,
    )


def _band(ascending: NDArray[np.float64], start: int, inside: int) -> tuple[float, float]:
    """From which small score on and up to which a trial is escalated, with ``inside`` trials from ``start`` on."""
    end = start + inside
    low = float(ascending[start]) if start else -np.inf
    return low, float(ascending[end]) if end < len(ascending) else np.inf


def _places(
    small: NDArray[np.float64],
    small_ranks: NDArray[np.int64],
    full_ranks: NDArray[np.int64],
    low: float,
    high: float,
) -> NDArray[np.float64]:
    zone = (small >= low).astype(np.int64) + (small >= high)
    return (zone * len(small) + np.where(zone == 1, full_ranks, small_ranks)).astype(np.float64)


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """0 for the lowest score, and so on; equal scores have equal ranks."""
    return np.unique(scores, return_inverse=True)[1]


def _has_both(labels: NDArray[np.bool_]) -> bool:
    return bool(labels.any()) and not bool(labels.all())
