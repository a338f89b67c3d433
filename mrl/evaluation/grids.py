"""EER over the prefix and one more axis: how precisely the numbers are stored, how long the test recording is.

Shapes: M vectors, C vectors of the cohort, D embedding, N trials.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mrl.evaluation.metrics import equal_error_rate
from mrl.evaluation.results import Grid
from mrl.evaluation.scoring import prefix_scores

_INT8_LARGEST = 127
_SMALLEST = 1e-12
_ROWS = 16_384  # vectors in float64 at a time

Vectors = NDArray[np.float32]
_Store = Callable[[Vectors], Vectors]


def stored_float32(unit: Vectors) -> Vectors:
    return unit


def stored_float16(unit: Vectors) -> Vectors:
    return unit.astype(np.float16).astype(np.float32)


def stored_int8(unit: Vectors) -> Vectors:
    """Whole numbers of -127..127, the largest of each vector being 127 or -127.

    A cosine does not see the scale of a vector, so the scale need not be stored.
    """
    scales = _INT8_LARGEST / np.maximum(np.abs(unit).max(axis=1, keepdims=True), _SMALLEST)
    return np.rint(unit * scales).astype(np.float32)


def stored_binary(unit: Vectors) -> Vectors:
    """The signs, as 1 and -1. Their cosine is 1 - 2 h / d, where h of d bits differ (the Hamming distance)."""
    return np.where(unit >= 0, np.float32(1), np.float32(-1))


_PRECISIONS: tuple[tuple[str, _Store, int], ...] = (
    ("float32", stored_float32, 32),
    ("float16", stored_float16, 16),
    ("int8", stored_int8, 8),
    ("binary", stored_binary, 1),
)
"""Name, what is read back of a unit vector, bits of one number."""


def precision_grid(
    vectors: Vectors,
    enrolment: NDArray[np.integer],
    test: NDArray[np.integer],
    labels: NDArray[np.bool_],
    dims: Sequence[int],
    *,
    cohort: Vectors | None = None,
) -> Grid:
    """EER and bytes per speaker of raw ``vectors`` [M, D] by how their numbers are stored.

    A prefix is sliced, normalised, stored, and read back; both sides of a trial are stored alike. Signs about 0 say
    little of a number whose mean over speakers is large. With a ``cohort`` [C, D] of training speakers the row
    "binary, centred" has the signs about the mean of its normalised prefixes, which is one vector for all speakers
    and adds nothing to the bytes of each. Bytes per speaker are those of one vector.
    """
    rows: list[tuple[str, _Store, int, Vectors | None]] = [(*precision, None) for precision in _PRECISIONS]
    if cohort is not None:
        rows.append(("binary, centred", stored_binary, 1, cohort))
    eers = np.empty((len(rows), len(dims)))
    for column, dim in enumerate(dims):
        unit = _unit_prefix(vectors, dim)
        for row, (_, store, _, about) in enumerate(rows):
            stored = store(unit if about is None else unit - _unit_prefix(about, dim).mean(0))
            scores = prefix_scores(stored, enrolment, test, [dim])[0]
            eers[row, column] = equal_error_rate(scores, labels).rate
    return Grid(
        "Precision",
        tuple(row[0] for row in rows),
        tuple(dims),
        _as_tuples(eers),
        tuple(tuple(-(-dim * bits // 8) for dim in dims) for _, _, bits, _ in rows),
    )


def duration_grid(
    vectors: Mapping[float | None, Vectors],
    enrolment: NDArray[np.integer],
    test: NDArray[np.integer],
    labels: NDArray[np.bool_],
    dims: Sequence[int],
) -> Grid:
    """EER by the seconds of the test recording; the enrolled one stays whole.

    That is how short speech is met in use and in the field's evaluations: enrolment has time, a test has not
    (core-10sec of NIST's evaluations; Kye et al., "Meta-learning for short utterance speaker recognition with
    imbalance length pairs", Interspeech 2020, on VoxCeleb1). Trials are the same in each row. A recording shorter than
    a row's seconds counts whole.

    Args:
        vectors: raw embeddings [M, D] of the same recordings by the seconds that were read of each; None: whole. Of
            cut ones only the rows that ``test`` names are read.
        enrolment, test: rows of the vectors in each trial [N].
        labels: [N], true for targets.
        dims: prefixes, ascending.

    Raises ValueError where there are no whole recordings.
    """
    if None not in vectors:
        raise ValueError("the grid of durations needs the embeddings of whole recordings, under None")
    enrolled, enrolled_places = np.unique(enrolment, return_inverse=True)
    tested, test_places = np.unique(test, return_inverse=True)
    durations = [*sorted(seconds for seconds in vectors if seconds is not None), None]
    eers = np.empty((len(durations), len(dims)))
    for row, seconds in enumerate(durations):
        both = np.concatenate([vectors[None][enrolled], vectors[seconds][tested]])
        scores = prefix_scores(both, enrolled_places, test_places + len(enrolled), dims)
        eers[row] = [equal_error_rate(of_prefix, labels).rate for of_prefix in scores]
    names = tuple("full" if seconds is None else f"{seconds:g} s" for seconds in durations)
    return Grid("Seconds of the test recording", names, tuple(dims), _as_tuples(eers))


def _unit_prefix(vectors: Vectors, dim: int) -> Vectors:
    """The first ``dim`` numbers of each of ``vectors`` [M, D], at length 1."""
    unit = np.empty((len(vectors), dim), dtype=np.float32)
    for start in range(0, len(vectors), _ROWS):
        rows = vectors[start : start + _ROWS, :dim].astype(np.float64)
        unit[start : start + _ROWS] = rows / np.maximum(
            np.linalg.norm(rows, axis=1, keepdims=True), _SMALLEST
        )
    return unit


def _as_tuples(eers: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in eers.tolist())
