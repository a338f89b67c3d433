"""How far an EER would move with other speakers: a bootstrap over the speakers of a trial list.

Trials that share a speaker are not independent, so speakers are drawn and not trials (Bolle, Ratha and Pankanti, "Error
analysis of pattern recognition systems: the subsets bootstrap", CVIU 93(1), 2004). A speaker drawn m times stands
there m times: its target trials count m times, and a non-target trial as often as the product of its two speakers'
numbers. That such products give valid intervals for pairs of units: Davezies, D'Haultfoeuille and Guyonvarch,
"Empirical process results for exchangeable arrays", Annals of Statistics 49(2), 2021; they err on the side of wide
(Owen and Eckles, Annals of Applied Statistics 6(3), 2012).

A thousand resamples of a million trials are a thousand times a few vectors [N] for each system, so these are kept
narrow: a weight is mostly one byte, and what does not depend on the system is done once.

Shapes: N trials, K systems or prefixes, R resamples, S speakers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrl.data.trial_list import TrialList
from mrl.data.trial_speakers import speaker_numbers
from mrl.evaluation.embedding import Advance
from mrl.evaluation.metrics import equal_error_rate_of_sorted
from mrl.evaluation.results import Interval
from mrl.randomness import numpy_generator

SORTED_BYTES = 16  # a trial takes so many for each system: a score and a place


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
    scores: ArrayLike,
    labels: ArrayLike,
    speakers: TrialSpeakers,
    *,
    seed: int,
    resamples: int = 1000,
    advance: Advance | None = None,
) -> NDArray[np.float64]:
    """EERs [K, R] of ``scores`` [K, N] under resamples of the speakers, the same ones for each of the K.

    So `interval` of a row is that of an EER, and of the difference of two rows that of their difference. Resamples
    without a target or without a non-target trial, in which there is no EER, are drawn anew. Scores are sorted once,
    into copies of `SORTED_BYTES` a score; a resample takes a few vectors [N]. ``advance`` is told of each resample.
    Raises ValueError as `equal_error_rate` does.
    """
    targets = np.asarray(labels, dtype=bool)
    systems = [_sorted_classes(row, targets) for row in np.atleast_2d(np.asarray(scores, dtype=np.float64))]
    rates = np.empty((len(systems), resamples))
    for number, weights in enumerate(_resampled_weights(speakers, targets, seed, resamples)):
        for system, (orders, ascending) in enumerate(systems):
            target_weights, nontarget_weights = map(np.take, weights, orders)
            point = equal_error_rate_of_sorted(*ascending, target_weights, nontarget_weights)
            rates[system, number] = point.rate
        if advance is not None:
            advance(1)
    return rates


def interval(values: NDArray[np.float64], coverage: float = 0.95) -> Interval:
    """What the middle ``coverage`` of bootstrap ``values`` [R] spans (the percentile interval)."""
    low, high = np.quantile(values, [(1 - coverage) / 2, (1 + coverage) / 2])
    return Interval(float(low), float(high))


class _Classes(NamedTuple):
    """Target and non-target trials, each by ascending score."""

    orders: tuple[NDArray[np.int64], NDArray[np.int64]]  # places among the trials of the class
    ascending: tuple[NDArray[np.float64], NDArray[np.float64]]  # scores


def _sorted_classes(scores: NDArray[np.float64], targets: NDArray[np.bool_]) -> _Classes:
    # Places are of 8 bytes: NumPy would turn narrower ones into these at every use.
    of_targets, of_nontargets = scores[targets], scores[~targets]
    orders = of_targets.argsort(kind="stable"), of_nontargets.argsort(kind="stable")
    ascending = of_targets[orders[0]], of_nontargets[orders[1]]
    equal_error_rate_of_sorted(*ascending)  # what has no EER is refused here
    return _Classes(orders, ascending)


def _resampled_weights(
    speakers: TrialSpeakers, targets: NDArray[np.bool_], seed: int, resamples: int
) -> Iterator[tuple[NDArray[np.signedinteger], NDArray[np.signedinteger]]]:
    """How often each target and each non-target trial is drawn, ``resamples`` times."""
    same = speakers.enrolment[targets]
    assert np.array_equal(same, speakers.test[targets]), "a target trial is of one speaker"
    first, second = speakers.enrolment[~targets], speakers.test[~targets]
    for number in range(resamples):
        generator = numpy_generator(seed, "bootstrap", number)
        while True:
            drawn = generator.integers(speakers.num_speakers, size=speakers.num_speakers)
            times = np.bincount(drawn, minlength=speakers.num_speakers)
            times = times.astype(np.min_scalar_type(-(int(times.max()) ** 2)))  # as narrow as products fit in
            of_targets, of_nontargets = times.take(same), times.take(first)
            of_nontargets *= times.take(second)
            if of_targets.any() and of_nontargets.any():
                yield of_targets, of_nontargets
                break
