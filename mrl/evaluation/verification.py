"""Speaker verification: an encoder and a trial list in, EER and minDCF at every prefix out.

Each utterance is embedded once, whole and alone: no padding, so a score depends on its two recordings only.
Shapes: U utterances, T samples, D embedding, N trials, K prefixes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mrl.audio import SAMPLE_RATE
from mrl.data.trials import TrialList
from mrl.errors import DataError, TrainingError
from mrl.evaluation.metrics import equal_error_rate, min_dcf
from mrl.evaluation.scoring import prefix_scores
from mrl.models.encoder import evaluating
from mrl.read_ahead import read_ahead

P_TARGETS = (0.01, 0.05)
"""Target priors at which minDCF is reported."""

Advance = Callable[[int], None]


class PrefixResult(NamedTuple):
    """One trial list at one prefix. ``eer`` and ``min_dcf`` are shares, ``threshold`` a cosine."""

    dim: int
    eer: float
    threshold: float
    min_dcf: dict[float, float]  # by target prior


@dataclass(frozen=True)
class VerificationResult:
    """One trial list at every prefix asked for, ascending."""

    name: str
    num_trials: int
    num_targets: int
    num_utterances: int
    seconds: float
    prefixes: tuple[PrefixResult, ...]

    def at(self, dim: int) -> PrefixResult:
        return next(prefix for prefix in self.prefixes if prefix.dim == dim)

    @property
    def mean_eer(self) -> float:
        return float(np.mean([prefix.eer for prefix in self.prefixes]))

    @property
    def full_size(self) -> PrefixResult:
        return self.prefixes[-1]


@torch.inference_mode()
def embed_utterances(
    encoder: nn.Module,
    trials: TrialList,
    *,
    max_seconds: float | None = None,
    workers: int = 2,
    advance: Advance | None = None,
) -> NDArray[np.float32]:
    """Raw embeddings [U, D] of the utterances of ``trials``, in their order, in float32.

    ``encoder`` maps [1, T] at 16 kHz to [1, D] and is put into eval mode for the time. Raises AudioError for a
    file that cannot be read and TrainingError for an embedding that is not finite; both name the file.
    """
    device = next(encoder.parameters()).device
    max_samples = None if max_seconds is None else round(max_seconds * SAMPLE_RATE)
    paths = [trials.root / utterance for utterance in trials.utterances]
    rows = []
    # TF32 convolutions, the default on recent GPUs, would leave ten bits of each product.
    with evaluating(encoder), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for path, samples in zip(paths, read_ahead(paths, workers, max_samples), strict=True):
            try:
                row = encoder(torch.from_numpy(samples).to(device)[None])[0].float().cpu()
            except ValueError as error:
                raise DataError(f"{path}: {error}") from None
            if not row.isfinite().all():
                raise TrainingError(f"{path}: its embedding is not finite; the encoder's weights are damaged")
            rows.append(row.numpy())
            if advance is not None:
                advance(1)
    return np.stack(rows)


def score_list(embeddings: NDArray[np.float32], trials: TrialList, dims: Sequence[int]) -> VerificationResult:
    """Results of ``trials`` from ``embeddings`` [U, D] of its utterances, at each prefix in ``dims`` (ascending)."""
    started = time.perf_counter()
    all_scores = prefix_scores(embeddings, trials.enrolment, trials.test, dims)
    prefixes = []
    for dim, scores in zip(dims, all_scores, strict=True):
        rate, threshold = equal_error_rate(scores, trials.labels)
        costs = {p_target: min_dcf(scores, trials.labels, p_target) for p_target in P_TARGETS}
        prefixes.append(PrefixResult(dim, rate, threshold, costs))
    return VerificationResult(
        trials.name,
        len(trials.labels),
        trials.num_targets,
        len(trials.utterances),
        time.perf_counter() - started,
        tuple(prefixes),
    )


def verify(
    encoder: nn.Module,
    trials: TrialList,
    dims: Sequence[int],
    *,
    max_seconds: float | None = None,
    workers: int = 2,
    advance: Advance | None = None,
) -> VerificationResult:
    """Embed the utterances of ``trials`` and score them at each prefix in ``dims`` (ascending)."""
    started = time.perf_counter()
    embeddings = embed_utterances(encoder, trials, max_seconds=max_seconds, workers=workers, advance=advance)
    result = score_list(embeddings, trials, dims)
    return replace(result, seconds=time.perf_counter() - started)
