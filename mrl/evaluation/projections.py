"""Other ways to shorten a released embedding: linear maps to an ordered basis, the baselines of Matryoshka training.

A map is fitted once; a prefix of what it gives is the embedding of that size. All are fitted on training speakers.
Scores are cosines, which a rotation leaves as they are and the subtraction of a mean does not. So truncation, the
random projection and PCA are applied to embeddings as they come: at full size each scores exactly what the released
model scores. Both practices exist, and where the embeddings share a large mean, subtracting it can help, so centred
PCA is a map of its own. LDA, which is no rotation anyway, subtracts the mean as Kaldi's recipes do
(ivector-subtract-global-mean before ivector-transform).

Shapes: C embeddings of the sample, E their numbers, S speakers, W directions of a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf

from mrl.errors import DataError
from mrl.randomness import numpy_generator

_ROWS = 16_384  # embeddings in float64 at a time
_SMALLEST_NORM = 1e-12
_SMALLEST_SHARE = 1e-9  # of the largest direction's between-speaker variance; what is below is rounding

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Projection:
    """``x -> x basis``, or where there is a ``mean``, ``x / |x| - mean`` in the place of x."""

    name: str
    basis: Matrix  # [E, W], the most telling direction first
    mean: Matrix | None = None  # [E], of embeddings of length 1

    @property
    def width(self) -> int:
        return self.basis.shape[1]

    def apply(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Projected embeddings [M, W] of raw ``embeddings`` [M, E]; a prefix of a row is the shorter embedding."""
        projected = np.empty((len(embeddings), self.width), dtype=np.float32)
        for start in range(0, len(embeddings), _ROWS):
            rows = embeddings[start : start + _ROWS].astype(np.float64)
            if self.mean is not None:
                rows = _unit(rows) - self.mean
            projected[start : start + _ROWS] = rows @ self.basis
        return projected


def fit_projections(sample: ArrayLike, speakers: ArrayLike, seed: int) -> tuple[Projection, ...]:
    """Every map, fitted on ``sample`` [C, E] of training speakers, numbered in ``speakers`` [C].

    LDA is left out where no speaker has two embeddings or there is one speaker (see `lda`).
    """
    width = np.shape(sample)[1]
    maps = [truncation(width), random_projection(width, seed), pca(sample), centred_pca(sample)]
    if _tells_speakers_apart(np.asarray(speakers)):
        maps.append(lda(sample, speakers))
    return tuple(maps)


def truncation(width: int) -> Projection:
    """The first numbers of an embedding of ``width`` numbers."""
    return Projection("truncation", np.eye(width))


def random_projection(width: int, seed: int) -> Projection:
    """A rotation [E, E] drawn uniformly.

    Mezzadri, "How to generate random matrices from the classical compact groups", Notices of the AMS 54(5), 2007.
    """
    normal = numpy_generator(seed, "random projection").standard_normal((width, width))
    rotation, triangular = np.linalg.qr(normal)
    return Projection("random projection", rotation * np.sign(np.diagonal(triangular)))


def pca(sample: ArrayLike) -> Projection:
    """The directions in which embeddings of length 1 are longest, about the origin; nothing is subtracted."""
    unit = _unit(np.asarray(sample, dtype=np.float64))
    return Projection("PCA", _principal(unit.T @ unit))


def centred_pca(sample: ArrayLike) -> Projection:
    """The directions in which embeddings of length 1 vary most, about their mean, which is subtracted."""
    unit = _unit(np.asarray(sample, dtype=np.float64))
    mean = unit.mean(0)
    centred = unit - mean
    return Projection("centred PCA", _principal(centred.T @ centred), mean)


def lda(sample: ArrayLike, speakers: ArrayLike) -> Projection:
    """The directions that tell speakers apart, scaled so that one speaker varies by 1 in each: at most S - 1.

    The generalised eigenvectors of between- and within-speaker scatter (Bishop, Pattern Recognition and Machine
    Learning, section 4.1.6). The scatter within speakers is shrunk towards a multiple of the identity, by how much
    the sample says (Ledoit and Wolf, Journal of Multivariate Analysis 88(2), 2004), so that it can be inverted.

    Raises DataError where no speaker has two embeddings, or there is one speaker.
    """
    numbers = np.asarray(speakers)
    if not _tells_speakers_apart(numbers):
        raise DataError(
            "LDA needs two training speakers or more, and two embeddings of one of them: raise "
            "evaluation.cohort_speakers or evaluation.cohort_utterances_per_speaker"
        )
    unit = _unit(np.asarray(sample, dtype=np.float64))
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), unit.shape[1]))
    np.add.at(sums, inverse, unit)
    means = sums / counts[:, None]
    mean = unit.mean(0)
    spread = (means - mean) * np.sqrt(counts / len(unit))[:, None]
    within, _ = ledoit_wolf((unit - means[inverse]) * np.sqrt(len(unit) / (len(unit) - len(counts))))
    variances, directions = eigh(spread.T @ spread, within)  # ascending
    kept = variances > _SMALLEST_SHARE * variances[-1]
    kept[: -(len(counts) - 1)] = False
    return Projection("LDA", _with_fixed_signs(directions[:, kept][:, ::-1]), mean)


def _tells_speakers_apart(speakers: NDArray[np.generic]) -> bool:
    counts = np.unique(speakers, return_counts=True)[1]
    return len(counts) > 1 and int(counts.max()) > 1


def _principal(scatter: Matrix) -> Matrix:
    """Eigenvectors of ``scatter`` [E, E] as columns, the largest eigenvalue first."""
    return _with_fixed_signs(np.linalg.eigh(scatter)[1][:, ::-1])


def _with_fixed_signs(directions: Matrix) -> Matrix:
    """``directions`` as columns, each with its largest number positive: LAPACKs choose the sign differently."""
    largest = np.abs(directions).argmax(0)
    return directions * np.sign(directions[largest, np.arange(directions.shape[1])])


def _unit(rows: Matrix) -> Matrix:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _SMALLEST_NORM)
