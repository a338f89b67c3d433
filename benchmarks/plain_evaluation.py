"""Verification as it is often written: two forwards for each trial and prefix, and a ROC for each EER.

The plain path beside `mrl.evaluation`. U utterances, T samples, D embedding, N trials, K prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve
from torch import Tensor, nn
from torch.nn import functional

from mrl.data.trials import TrialList


@torch.no_grad()
def two_forwards_per_trial(
    network: nn.Module, waveforms: Sequence[Tensor], trials: TrialList, dims: Sequence[int]
) -> NDArray[np.float64]:
    """Cosines [K, N]; ``waveforms`` [T] are those of the utterances of ``trials``, in their order."""
    scores = np.empty((len(dims), len(trials)))
    for k, dim in enumerate(dims):
        for n, (enrolment, test) in enumerate(zip(trials.enrolment, trials.test, strict=True)):
            first = network(waveforms[enrolment][None])[0, :dim]
            second = network(waveforms[test][None])[0, :dim]
            scores[k, n] = functional.cosine_similarity(first, second, dim=0).item()
    return scores


def prefix_by_prefix(
    embeddings: NDArray[np.float32], trials: TrialList, dims: Sequence[int]
) -> NDArray[np.float64]:
    """The EER [K] at each prefix: slice, normalise, multiply, draw the ROC, find where it crosses."""
    rates = np.empty(len(dims))
    for k, dim in enumerate(dims):
        prefix = embeddings[:, :dim].astype(np.float64)
        units = prefix / np.linalg.norm(prefix, axis=1, keepdims=True)
        scores = (units[trials.enrolment] * units[trials.test]).sum(axis=1)
        rates[k] = eer_by_roc(scores, trials.labels)
    return rates


def eer_by_roc(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """The EER where scikit-learn's ROC, read along straight lines, meets hits = 1 - false accepts."""
    false_accepts, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(brentq(lambda x: 1.0 - x - interp1d(false_accepts, hits)(x), 0.0, 1.0, xtol=1e-15))
