"""Cosine scores of trials at every prefix, from one pass over the embeddings.

Shapes: U utterances, D embedding, N trials, K prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_CHUNK_NUMBERS = 4_000_000  # products held at a time: 32 MB in float64
_SMALLEST_SQUARE = 1e-24


def prefix_scores(
    embeddings: NDArray[np.float32],
    enrolment: NDArray[np.int32],
    test: NDArray[np.int32],
    dims: Sequence[int],
) -> NDArray[np.float64]:
    """Cosines [K, N] of trials ``(enrolment[n], test[n])`` at each prefix in ``dims`` (ascending).

    ``embeddings`` [U, D] are raw. Per-coordinate products are summed block by block and accumulated, squared
    lengths likewise, in float64, so that K prefixes cost one pass. An all-zero prefix scores 0.
    """
    if list(dims) != sorted(set(dims)) or dims[0] < 1 or dims[-1] > embeddings.shape[1]:
        raise ValueError(f"prefixes {list(dims)} must ascend within 1..{embeddings.shape[1]}")
    starts = [0, *dims[:-1]]
    values = embeddings[:, : dims[-1]].astype(np.float64)
    squares = np.add.reduceat(np.square(values), starts, axis=1).cumsum(axis=1)  # [U, K]
    inverse_lengths = 1.0 / np.sqrt(np.maximum(squares, _SMALLEST_SQUARE))
    scores = np.empty((len(dims), len(enrolment)), dtype=np.float64)
    step = max(1, _CHUNK_NUMBERS // dims[-1])
    for start in range(0, len(enrolment), step):
        first, second = enrolment[start : start + step], test[start : start + step]
        dots = np.add.reduceat(values[first] * values[second], starts, axis=1).cumsum(axis=1)  # [n, K]
        scores[:, start : start + step] = (dots * inverse_lengths[first] * inverse_lengths[second]).T
    return scores
