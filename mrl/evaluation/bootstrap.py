"""How far an EER would move with other speakers: a bootstrap over the speakers of a trial list.

Trials that share a speaker are not independent, so speakers are drawn and not trials (Bolle, Ratha and Pankanti, "Error
analysis of pattern recognition systems: the subsets bootstrap", CVIU 93(1), 2004). A speaker drawn m times stands
there m times: its target trials count m times, and a non-target trial as often as the product of its two speakers'
numbers. That such products give valid intervals for pairs of units: Davezies, D'Haultfoeuille and Guyonvarch,
"Empirical process results for exchangeable arrays", Annals of Statistics 49(2), 2021; they err on the side of wide
(Owen and Eckles, Annals of Applied Statistics 6(3), 2012).

Shapes: N trials, K systems or prefixes, R resamples, S speakers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrl.data.trial_list import TrialList
from mrl.data.trial_speakers import speaker_numbers
from mrl.evaluation.metrics import equal_error_rate_of_sorted
from mrl.evaluation.results import Interval
from mrl.randomness import numpy_generator


class TrialSpeakers(NamedTuple):
    """The two speakers of each trial, as numbers 0..S - 1."""

    enrolment: NDArray[np.int64]  # [N]
    test: NDArray[np.int64]  # [N]
    num_speakers: int  # S


def trial_speakers(trials: TrialList) -> TrialSpeakers:
    """Who speaks in each trial, as `mrl.data.trial_speakers.speaker_numbers` tells. Raises DataError as that does."""
    numbers = speaker_numbers(trials)
    return TrialSpeakers(numbers[trials.enrolment], numbers[trials.test], int(numbers.max()) + 1)


def bootstrap_eers(
    scores: ArrayLike, labels: ArrayLike, speakers: TrialSpeakers, *, seed: int, resamples: int = 1000
) -> NDArray[np.float64]:
    """EERs [K, R] of ``scores`` [K, N] under resamples of the speakers, the same ones for each of the K.

    So `interval` of a row is that of an EER, and of the difference of two rows that of their difference. Resamples
    without a target or without a non-target trial, in which there is no EER, are drawn anew. Scores are sorted once;
    a resample takes a few vectors [N]. Raises ValueError as `equal_error_rate` does.
    """
    targets = np.asarray(labels, dtype=bool)
    systems = [_sorted_classes(row, targets) for row in np.atleast_2d(np.asarray(scores, dtype=np.float64))]
    rates = np.empty((len(systems), resamples))
    for number, times in enumerate(_resamples(speakers, targets, seed, resamples)):
        weights = np.where(
            targets, times[speakers.enrolment], times[speakers.enrolment] * times[speakers.test]
        )
        for system, (target_order, nontarget_order, ascending) in enumerate(systems):
            point = equal_error_rate_of_sorted(*ascending, weights[target_order], weights[nontarget_order])
            rates[system, number] = point.rate
    return rates


def interval(values: NDArray[np.float64], coverage: float = 0.95) -> Interval:
    """What the middle ``coverage`` of bootstrap ``values`` [R] spans (the percentile interval)."""
    low, high = np.quantile(values, [(1 - coverage) / 2, (1 + coverage) / 2])
    return Interval(float(low), float(high))


class _Classes(NamedTuple):
    target_order: NDArray[np.int64]  # places of the target trials, their scores ascending
    nontarget_order: NDArray[np.int64]
    ascending: tuple[NDArray[np.float64], NDArray[np.float64]]


def _sorted_classes(scores: NDArray[np.float64], targets: NDArray[np.bool_]) -> _Classes:
    order = np.argsort(scores, kind="stable")
    of_targets, of_nontargets = order[targets[order]], order[~targets[order]]
    equal_error_rate_of_sorted(scores[of_targets], scores[of_nontargets])  # what has no EER is refused here
    return _Classes(of_targets, of_nontargets, (scores[of_targets], scores[of_nontargets]))


def _resamples(
    speakers: TrialSpeakers, targets: NDArray[np.bool_], seed: int, resamples: int
) -> Iterator[NDArray[np.int64]]:
    """How often each speaker [S] is drawn, ``resamples`` times."""
    for number in range(resamples):
        generator = numpy_generator(seed, "bootstrap", number)
        while True:
            drawn = generator.integers(speakers.num_speakers, size=speakers.num_speakers)
            times = np.bincount(drawn, minlength=speakers.num_speakers)
            present = (times[speakers.enrolment] > 0) & (times[speakers.test] > 0)
            if present[targets].any() and present[~targets].any():
                yield times
                break
