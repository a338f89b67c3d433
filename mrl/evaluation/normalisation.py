"""Scores after normalisation by a cohort of other speakers: AS-norm, S-norm, and subtraction of the cohort's mean.

S-norm (Kenny, "Bayesian speaker verification with heavy-tailed priors", Odyssey 2010) asks how far a score s(e, t) lies
above what either side scores against a cohort C of other speakers:

    ((s(e, t) - mean s(e, C)) / deviation s(e, C) + (s(e, t) - mean s(t, C)) / deviation s(t, C)) / 2

AS-norm takes the highest N of each side's cohort scores in place of all (Karam, Campbell and Dehak, "Towards reduced
false-alarms using cohorts", and Cumani et al., "Comparison of speaker recognition approaches for real applications",
both Interspeech 2011). Here each side has its own N highest: AS-norm1 of Matejka et al., "Analysis of score
normalization in multilingual speaker recognition", Interspeech 2017. With N = S it is S-norm.

Shapes: M vectors, S cohort speakers, D embedding, N trials, K prefixes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrl.errors import DataError
from mrl.evaluation.scoring import Scores, scores_by_prefix

Vectors = NDArray[np.float32]

_SCORES_AT_ONCE = 2_000_000  # of vectors against the cohort: 8 MB, three times
_SHORTEST = np.float32(1e-12)
_LEAST_DEVIATION = 1e-6  # what float32 tells of a cosine


@dataclass(frozen=True, eq=False)
class CohortStatistics:
    """What each vector scores against the cohort at each prefix: mean and deviation of the highest scores."""

    dims: tuple[int, ...]
    means: Scores  # [K, M]
    deviations: Scores  # [K, M], above 0

    def normalised(
        self, scores: Scores, enrolment: NDArray[np.integer], test: NDArray[np.integer], dim: int
    ) -> Scores:
        """AS-norm scores [N] of the cosines ``scores`` [N] at prefix ``dim`` of trials (enrolment[n], test[n])."""
        means, deviations = (of[self.dims.index(dim)] for of in (self.means, self.deviations))
        sides = [(scores - means[side]) / deviations[side] for side in (enrolment, test)]
        return np.asarray((sides[0] + sides[1]) / 2.0)


def cohort_statistics(vectors: Vectors, cohort: Vectors, dims: Sequence[int], top: int) -> CohortStatistics:
    """Mean and deviation of the ``top`` highest scores of each of ``vectors`` [M, D] against ``cohort`` [S, D].

    Lengths play no part; each prefix is normalised after slicing. The deviation is that of the scores themselves
    (divided by their number). Every product is computed once for all prefixes, for so many vectors at a time that
    about 40 MB are enough beside the result.

    Args:
        vectors: the distinct utterances of the trials, or models of several.
        cohort: one for each of other speakers.
        dims: prefixes, ascending.
        top: how many of the scores; all of them where the cohort is smaller.

    Raises:
        DataError: fewer than two scores, which have no deviation.
    """
    assert list(dims) == sorted(set(dims))
    assert dims[-1] <= vectors.shape[1] == cohort.shape[1]
    top = min(top, len(cohort))
    if top < 2:
        raise DataError(
            f"AS-norm needs the deviation of at least two cohort scores, and there would be {top} "
            f"(a cohort of {len(cohort)}): raise evaluation.as_norm_top or evaluation.cohort_speakers"
        )
    means, deviations = np.empty((2, len(dims), len(vectors)))
    rows = max(1, _SCORES_AT_ONCE // len(cohort))
    for start in range(0, len(vectors), rows):
        chunk = slice(start, start + rows)
        for place, cosines in enumerate(_cosines_by_prefix(vectors[chunk], cohort, dims)):
            cosines.partition(len(cohort) - top, axis=1)
            highest = cosines[:, len(cohort) - top :]
            means[place, chunk] = highest.mean(axis=1, dtype=np.float64)
            deviations[place, chunk] = highest.std(axis=1, dtype=np.float64)
    return CohortStatistics(tuple(dims), means, np.maximum(deviations, _LEAST_DEVIATION))


def normalised_by_prefix(
    vectors: Vectors,
    enrolment: NDArray[np.integer],
    test: NDArray[np.integer],
    statistics: CohortStatistics,
) -> Iterator[Scores]:
    """AS-norm scores [N] of trials ``(enrolment[n], test[n])`` at each prefix of ``statistics`` of ``vectors``."""
    all_scores = scores_by_prefix(vectors, enrolment, test, statistics.dims)
    for dim, scores in zip(statistics.dims, all_scores, strict=True):
        yield statistics.normalised(scores, enrolment, test, dim)


def centred(vectors: Vectors, cohort: Vectors) -> Vectors:
    """``vectors`` [M, D] brought to unit length, less the mean of ``cohort`` [S, D], before anything is sliced.

    The cohort holds the mean of the unit-length embeddings of each speaker, so both are of one scale, whatever the
    length of raw vectors. The prefix of a centred vector is the centred prefix, and a score is the cosine of what two
    recordings have beyond the average speaker.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.maximum(lengths, _SHORTEST)
    return np.asarray(units - cohort.mean(axis=0, dtype=np.float64), dtype=np.float32)


def _cosines_by_prefix(vectors: Vectors, cohort: Vectors, dims: Sequence[int]) -> Iterator[Vectors]:
    """Cosines [m, S] of all pairs at each prefix, in one buffer that the next prefix replaces."""
    dots = np.zeros((len(vectors), len(cohort)), dtype=np.float32)
    products, cosines = np.empty_like(dots), np.empty_like(dots)
    squares = [np.zeros(len(rows), dtype=np.float32) for rows in (vectors, cohort)]
    for start, stop in zip((0, *dims[:-1]), dims, strict=True):
        blocks = [rows[:, start:stop] for rows in (vectors, cohort)]
        dots += np.matmul(blocks[0], blocks[1].T, out=products)
        for sums, block in zip(squares, blocks, strict=True):
            sums += np.einsum("nd,nd->n", block, block)
        lengths = [np.maximum(np.sqrt(sums), _SHORTEST) for sums in squares]
        np.divide(dots, lengths[0][:, None], out=cosines)
        yield np.divide(cosines, lengths[1], out=cosines)
