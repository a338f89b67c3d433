"""Speaker verification: an encoder and trial lists in, EER and minDCF at every prefix out.

Each utterance is embedded once for all lists, without padding, so a score depends on its two recordings only.
Shapes: U utterances, D embedding, N trials, K prefixes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrl.data.trials import TrialList
from mrl.evaluation.embedding import Advance, Utterances, embed_utterances
from mrl.evaluation.metrics import equal_error_rate, least_cost, operating_points
from mrl.evaluation.scoring import scores_by_prefix
from mrl.models.encoder import SpeakerEncoder
from mrl.models.released import ReleasedModel

P_TARGETS = (0.01, 0.05)
"""Target priors at which minDCF is reported."""


class PrefixResult(NamedTuple):
    """One trial list at one prefix. ``eer`` and ``min_dcf`` are shares, ``threshold`` a cosine.

    `mrl.evaluation.collapse` reads the last two.
    """

    dim: int
    eer: float
    threshold: float
    min_dcf: dict[float, float]  # by target prior
    between_speakers: float  # mean cosine of the non-target trials
    num_zero: int  # embeddings that are all zero


@dataclass(frozen=True)
class VerificationResult:
    """One trial list at every prefix asked for, ascending."""

    name: str
    num_trials: int
    num_targets: int
    num_utterances: int
    seconds: float  # of scoring, and of embedding what no list before it named
    prefixes: tuple[PrefixResult, ...]
    embedding_seconds: float = 0.0  # the part of ``seconds`` spent on embedding

    def at(self, dim: int) -> PrefixResult:
        return next(prefix for prefix in self.prefixes if prefix.dim == dim)

    @property
    def mean_eer(self) -> float:
        return float(np.mean([prefix.eer for prefix in self.prefixes]))

    @property
    def full_size(self) -> PrefixResult:
        return self.prefixes[-1]


def score_list(embeddings: NDArray[np.float32], trials: TrialList, dims: Sequence[int]) -> VerificationResult:
    """Results of ``trials`` from ``embeddings`` [U, D] of its utterances, at each prefix in ``dims`` (ascending)."""
    started = time.perf_counter()
    prefixes = []
    different = ~trials.labels
    all_scores = scores_by_prefix(*trials.vectors(embeddings), dims)
    for dim, scores in zip(dims, all_scores, strict=True):
        rate, threshold = equal_error_rate(scores, trials.labels)
        points = operating_points(scores, trials.labels)
        costs = {p_target: least_cost(points, p_target) for p_target in P_TARGETS}
        between_speakers = float(scores.mean(where=different))
        num_zero = len(embeddings) - int(embeddings[:, :dim].any(axis=1).sum())
        prefixes.append(PrefixResult(dim, rate, threshold, costs, between_speakers, num_zero))
    return VerificationResult(
        trials.name,
        len(trials.labels),
        trials.num_targets,
        len(trials.utterances),
        time.perf_counter() - started,
        tuple(prefixes),
    )


def verify_lists(
    encoder: SpeakerEncoder | ReleasedModel,
    lists: Sequence[TrialList],
    dims: Sequence[int],
    *,
    max_seconds: float | None = None,
    workers: int = 2,
    batch_size: int = 32,
    advance: Advance | None = None,
) -> list[VerificationResult]:
    """Embed the distinct utterances of ``lists`` and score each list at each prefix in ``dims`` (ascending).

    Arguments and errors are those of `embed_utterances`. The time of embedding is divided among the lists by how
    many utterances each is the first to name, so that their seconds add up to what all took.
    """
    started = time.perf_counter()
    utterances = Utterances.of(lists)
    embeddings = embed_utterances(
        encoder,
        utterances.paths,
        max_seconds=max_seconds,
        batch_size=batch_size,
        workers=workers,
        advance=advance,
    )
    each = (time.perf_counter() - started) / max(1, len(utterances.paths))
    results = []
    for number, trials in enumerate(lists):
        result = score_list(embeddings[utterances.places(number)], trials, dims)
        embedding = each * utterances.newly_named(number)
        results.append(replace(result, seconds=result.seconds + embedding, embedding_seconds=embedding))
    return results


def verify(
    encoder: SpeakerEncoder | ReleasedModel,
    trials: TrialList,
    dims: Sequence[int],
    *,
    max_seconds: float | None = None,
    workers: int = 2,
    advance: Advance | None = None,
) -> VerificationResult:
    """`verify_lists` of one list."""
    return verify_lists(encoder, [trials], dims, max_seconds=max_seconds, workers=workers, advance=advance)[0]
