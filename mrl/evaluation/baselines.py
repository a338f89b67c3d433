"""Was Matryoshka training worth it? Other encoders, and other ways to short embeddings, on the same trials.

Resamples of the speakers depend on (seed, number) alone, so with the seed and number of resamples of the encoder under
test its intervals and these are of the same resamples.

Shapes: M vectors, E numbers of the released embedding, N trials, K prefixes, R resamples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrl.evaluation.bootstrap import SORTED_BYTES, TrialSpeakers, bootstrap_eers, interval
from mrl.evaluation.metrics import equal_error_rate
from mrl.evaluation.projections import Projection
from mrl.evaluation.results import Baseline, Interval
from mrl.evaluation.scoring import scores_by_prefix

FULL_SIZE = "released, full size"
_MOST_SYSTEMS = 40  # resampled at once
_MOST_BYTES = 200_000_000  # of their sorted copies


class Resampling(NamedTuple):
    """How intervals over speakers are made."""

    speakers: TrialSpeakers
    seed: int
    resamples: int
    confidence: float


def baselines(
    released: NDArray[np.float32],
    enrolment: NDArray[np.integer],
    test: NDArray[np.integer],
    labels: NDArray[np.bool_],
    dims: Sequence[int],
    *,
    projections: Sequence[Projection] = (),
    others: Mapping[str, NDArray[np.float32]] | None = None,
    resampling: Resampling | None = None,
) -> tuple[Baseline, ...]:
    """The baselines of one list: the released model at full size, its embeddings shortened, other encoders.

    Args:
        released: raw embeddings [M, E] by the released model.
        enrolment, test: rows of the vectors in each trial [N].
        labels: [N], true for targets.
        dims: prefixes to score at, ascending. A baseline with fewer numbers is scored at those that it has: LDA has
            one less than there are speakers, and no way to shorten an embedding makes it longer.
        projections: ways to shorten ``released``, fitted on training speakers (`fit_projections`).
        others: raw embeddings [M, D] of the same vectors by other encoders: the warm start, each trained stage.
        resampling: None: no intervals.

    One that is left with no prefix at all is left out.
    """
    found, intervals = [], None if resampling is None else _Intervals(labels, resampling)
    for name, vectors, at in _contenders(released, dims, projections, others or {}):
        eers = []
        for scores in scores_by_prefix(vectors, enrolment, test, at):
            eers.append(equal_error_rate(scores, labels).rate)
            if intervals is not None:
                intervals.add(scores)
        found.append(Baseline(name, tuple(at), tuple(eers), (None,) * len(at)))
    if intervals is None:
        return tuple(found)
    made = iter(intervals.all())
    return tuple(
        replace(baseline, intervals=tuple(itertools.islice(made, len(baseline.dims)))) for baseline in found
    )


def _contenders(
    released: NDArray[np.float32],
    dims: Sequence[int],
    projections: Sequence[Projection],
    others: Mapping[str, NDArray[np.float32]],
) -> Iterator[tuple[str, NDArray[np.float32], list[int]]]:
    """Name, vectors and prefixes of each baseline, one after the other, so that one's vectors are held at a time."""
    yield FULL_SIZE, released, [released.shape[1]]
    for projection in projections:
        if at := [dim for dim in dims if dim <= projection.width]:
            yield projection.name, projection.apply(released), at
    for name, vectors in others.items():
        if at := [dim for dim in dims if dim <= vectors.shape[1]]:
            yield name, vectors, at


class _Intervals:
    """Intervals of rows of scores, as many at once as memory allows: speakers are resampled once for all of these."""

    def __init__(self, labels: NDArray[np.bool_], resampling: Resampling) -> None:
        self._labels = labels
        self._resampling = resampling
        at_once = max(1, min(_MOST_SYSTEMS, _MOST_BYTES // (SORTED_BYTES * len(labels))))
        self._rows = np.empty((at_once, len(labels)))
        self._waiting = 0
        self._found: list[Interval] = []

    def add(self, scores: NDArray[np.float64]) -> None:
        """Take the next row [N], of which a copy is kept."""
        self._rows[self._waiting] = scores
        self._waiting += 1
        if self._waiting == len(self._rows):
            self._resample()

    def all(self) -> list[Interval]:
        """One for each row, in the order in which they came."""
        if self._waiting:
            self._resample()
        return self._found

    def _resample(self) -> None:
        speakers, seed, resamples, confidence = self._resampling
        rows = self._rows[: self._waiting]
        rates = bootstrap_eers(rows, self._labels, speakers, seed=seed, resamples=resamples)
        self._found += [interval(row, confidence) for row in rates]
        self._waiting = 0
