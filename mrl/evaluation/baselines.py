"""Was Matryoshka training worth it? Other encoders, and other ways to short embeddings, on the same trials.

Resamples of the speakers depend on (seed, number) alone, so with the seed and number of resamples of the encoder under
test its intervals and these are of the same resamples.

Shapes: M vectors, E numbers of the released embedding, N trials, K prefixes, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrl.evaluation.bootstrap import TrialSpeakers, bootstrap_eers, interval
from mrl.evaluation.metrics import equal_error_rate
from mrl.evaluation.projections import Projection
from mrl.evaluation.results import Baseline, Interval
from mrl.evaluation.scoring import prefix_scores

FULL_SIZE = "released, full size"


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
    found = []
    for name, vectors, at in _contenders(released, dims, projections, others or {}):
        scores = prefix_scores(vectors, enrolment, test, at)
        eers = tuple(equal_error_rate(row, labels).rate for row in scores)
        found.append(Baseline(name, tuple(at), eers, _intervals(scores, labels, resampling)))
    return tuple(found)


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


def _intervals(
    scores: NDArray[np.float64], labels: NDArray[np.bool_], resampling: Resampling | None
) -> tuple[Interval | None, ...]:
    if resampling is None:
        return (None,) * len(scores)
    rates = bootstrap_eers(
        scores, labels, resampling.speakers, seed=resampling.seed, resamples=resampling.resamples
    )
    return tuple(interval(row, resampling.confidence) for row in rates)
