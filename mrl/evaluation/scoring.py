"""Cosine scores of trials at every prefix, from one pass over the coordinates.

Shapes: U utterances, D embedding, N trials, K prefixes.

The dot products of all trials grow by one coordinate at a time, so that besides the embeddings no more than a few
vectors [N] and [U] are held, whatever the number of prefixes. Sums are in float64: over d coordinates a cosine is off
by at most (2 d + 1) 2^-53, 6e-14 for 256. What must tie does: (a, b) scores what (b, a) does, and one number, or an
embedding and itself, exactly 1 or -1, because the root of a rounded square is the number that was squared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrl.evaluation.metrics import equal_error_rate_of_sorted

_COLUMNS = 16  # coordinates brought to float64 and to rows of memory at a time
_SMALLEST_SQUARE = 1e-24

Scores = NDArray[np.float64]


class EERCurve(NamedTuple):
    """EER (a share) and its threshold (a cosine) at each prefix 1..D: place d - 1 holds prefix d."""

    rates: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def eer_curve(
    embeddings: NDArray[np.float32],
    enrolment: NDArray[np.integer],
    test: NDArray[np.integer],
    labels: ArrayLike,
) -> EERCurve:
    """EER of trials ``(enrolment[n], test[n])`` at every prefix of raw ``embeddings`` [U, D].

    Exactly what `equal_error_rate` says of each row of `prefix_scores`. ``labels`` [N] are true for targets.
    Raises ValueError for a class without trials and for scores that are not finite.
    """
    targets = np.asarray(labels, dtype=bool)
    order = np.argsort(~targets, kind="stable")  # targets first, so that each class is one slice
    num_targets = int(targets.sum())
    dims = range(1, embeddings.shape[1] + 1)
    rates, thresholds = np.empty(len(dims)), np.empty(len(dims))
    for place, scores in enumerate(scores_by_prefix(embeddings, enrolment[order], test[order], dims)):
        scores[:num_targets].sort()
        scores[num_targets:].sort()
        point = equal_error_rate_of_sorted(scores[:num_targets], scores[num_targets:])
        rates[place], thresholds[place] = point
    return EERCurve(rates, thresholds)


def prefix_scores(
    embeddings: NDArray[np.float32],
    enrolment: NDArray[np.integer],
    test: NDArray[np.integer],
    dims: Sequence[int],
) -> Scores:
    """Cosines [K, N] of trials ``(enrolment[n], test[n])`` at each prefix in ``dims`` (ascending).

    ``embeddings`` [U, D] are raw. An all-zero prefix scores 0.
    """
    scores = np.empty((len(dims), len(enrolment)))
    for row, of_prefix in zip(scores, scores_by_prefix(embeddings, enrolment, test, dims), strict=True):
        row[:] = of_prefix
    return scores


def scores_by_prefix(
    embeddings: NDArray[np.float32],
    enrolment: NDArray[np.integer],
    test: NDArray[np.integer],
    dims: Sequence[int],
) -> Iterator[Scores]:
    """The rows of `prefix_scores` one after the other, each in one buffer [N] that the next row replaces."""
    if list(dims) != sorted(set(dims)) or dims[0] < 1 or dims[-1] > embeddings.shape[1]:
        raise ValueError(f"prefixes {list(dims)} must ascend within 1..{embeddings.shape[1]}")
    wanted = set(dims)
    first, second = enrolment.astype(np.intp), test.astype(np.intp)  # what numpy gathers by, converted once
    for places in (first, second):
        assert places.min(initial=0) >= 0
        assert places.max(initial=0) < len(embeddings)
    dots, squares = np.zeros(len(first)), np.zeros(len(embeddings))
    left, right = np.empty_like(dots), np.empty_like(dots)
    for dim, column in enumerate(_columns(embeddings, dims[-1]), start=1):
        squares += np.square(column)
        dots += _pair_products(column, first, second, left, right)
        if dim in wanted:
            scores = _pair_products(np.maximum(squares, _SMALLEST_SQUARE), first, second, left, right)
            np.sqrt(scores, out=scores)
            yield np.divide(dots, scores, out=scores)


def _columns(embeddings: NDArray[np.float32], count: int) -> Iterator[Scores]:
    """The first ``count`` coordinates, each as a vector [U] in float64."""
    for start in range(0, count, _COLUMNS):
        block = embeddings[:, start : min(start + _COLUMNS, count)]
        yield from np.ascontiguousarray(block.T, dtype=np.float64)


def _pair_products(
    values: Scores, first: NDArray[np.intp], second: NDArray[np.intp], left: Scores, right: Scores
) -> Scores:
    """``values[first] * values[second]``, written to ``left``; ``right`` is overwritten too."""
    # mode="clip" lets numpy write to the output without a copy between; the places have been checked.
    np.take(values, first, out=left, mode="clip")
    np.take(values, second, out=right, mode="clip")
    return np.multiply(left, right, out=left)
