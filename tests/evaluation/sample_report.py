"""A report in which every part is filled, and one with the required parts alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mrl.evaluation.curves import score_curves
from mrl.evaluation.metrics import equal_error_rate, min_dcf, operating_points
from mrl.evaluation.results import (
    Baseline,
    Calibration,
    CascadePoint,
    Grid,
    Interval,
    ListReport,
    PrefixReport,
    Report,
    ScoreCurves,
    ScoreStatistics,
    SearchPoint,
    Threshold,
)

DIMS = (64, 128, 192, 256)
PRIORS = (0.01, 0.05)
# How far the means of the classes lie apart, in deviations, by dimension.
DISTANCES = {64: 4.2, 128: 4.5, 192: 4.6, 256: 4.65}


def sample_scores(
    dim: int, seed: int = 0, num_trials: int = 4000
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores [N] and labels [N] of two normal classes; half of the trials are targets."""
    labels = np.arange(num_trials) % 2 == 0
    noise = np.random.default_rng([seed, dim]).normal(size=num_trials)
    return 0.05 + 0.13 * (noise + DISTANCES[dim] * labels) / (1 + 0.1 * labels), labels


def prefix_report(dim: int, seed: int = 0, *, intervals: bool = True) -> PrefixReport:
    scores, labels = sample_scores(dim, seed)
    points = operating_points(scores, labels)
    eer = equal_error_rate(scores, labels)

    def at(place: int) -> Threshold:
        return Threshold(*(float(column[place]) for column in points))

    thresholds = {"eer": at(int(np.searchsorted(-points.thresholds, -eer.threshold)))}
    for prior in PRIORS:
        costs = prior * points.misses + (1 - prior) * points.false_accepts
        thresholds[f"min_dcf_{prior:g}"] = at(int(costs.argmin()))
    for rate in (0.01, 0.001):
        thresholds[f"far_{rate:g}"] = at(int(np.flatnonzero(points.false_accepts <= rate)[-1]))
    return PrefixReport(
        dim=dim,
        eer=eer.rate,
        interval=Interval(0.82 * eer.rate, 1.21 * eer.rate) if intervals else None,
        min_dcf={prior: min_dcf(scores, labels, prior) for prior in PRIORS},
        thresholds=thresholds,
        statistics=ScoreStatistics(
            float(scores[labels].mean()),
            float(scores[labels].std()),
            float(scores[~labels].mean()),
            float(scores[~labels].std()),
        ),
        calibration=Calibration(22.5, -7.25),
        cllr=0.081,
        min_cllr=0.074,
    )


def sample_curves(names: tuple[str, ...] = ("vox1-o", "call-centre")) -> list[ScoreCurves]:
    return [
        score_curves(name, dim, *sample_scores(dim, seed)) for seed, name in enumerate(names) for dim in DIMS
    ]


def list_report(name: str, seed: int = 0, official_name: str | None = None) -> ListReport:
    """Every part filled."""
    prefixes = tuple(prefix_report(dim, seed) for dim in DIMS)
    eers = np.array([prefix.eer for prefix in prefixes])
    all_dims = np.arange(1, DIMS[-1] + 1)
    curve = np.interp(all_dims, DIMS, eers) + 0.45 * np.exp(-all_dims / 10.0)
    around = tuple(Interval(0.85 * eer, 1.2 * eer) for eer in 1.1 * eers)
    return ListReport(
        name=name,
        official_name=official_name,
        sha256="3f0c1d9be5a86a1f4ab3c1f5f7f3c9c1a4e4f0d6b9b9c0f1f2a3b4c5d6e7f809",
        num_trials=37_611,
        num_targets=18_802,
        num_utterances=4_708,
        prefixes=prefixes,
        curve=tuple(curve.tolist()),
        normalised=tuple(prefix_report(dim, seed + 10) for dim in DIMS),
        centred=tuple(prefix_report(dim, seed + 20) for dim in DIMS),
        baselines=(
            Baseline(
                "released, first numbers", DIMS[:3], (2.6 * eers[0], 1.6 * eers[1], eers[2]), (None,) * 3
            ),
            Baseline("released, PCA", DIMS[:3], tuple((1.1 * eers[:3]).tolist()), around[:3]),
            Baseline("random rotation", DIMS[:3], (9 * eers[0], 1.7 * eers[1], eers[2]), (None,) * 3),
        ),
        durations=Grid(
            "Length of the test utterance",
            ("1 s", "2 s", "3 s", "5 s", "full"),
            DIMS,
            tuple(tuple((factor * eers).tolist()) for factor in (7.0, 3.1, 1.9, 1.3, 1.0)),
        ),
        precisions=Grid(
            "Precision of stored embeddings",
            ("float32", "float16", "int8", "binary"),
            DIMS,
            tuple(tuple((factor * eers).tolist()) for factor in (1.0, 1.0, 1.02, 2.2)),
            tuple(tuple(dim * bits // 8 for dim in DIMS) for bits in (32, 16, 8, 1)),
        ),
        cascade=(
            CascadePoint(64, 256, 0.21, 0.44, 0.118, 0.0107, 0.131, 0.0104, 0.128),
            CascadePoint(128, 256, 0.25, 0.41, 0.071, 0.0105, 0.129, 0.0104, 0.128),
        ),
        recommendation=(
            f"192 numbers. Their EER of {100 * eers[2]:.2f} % is within 0.1 percentage points of the best "
            f"({100 * eers.min():.2f} %), at three quarters of the size."
        ),
    )


def full_report() -> Report:
    """Two lists, four prefixes, every part."""
    return Report(
        encoder="checkpoints/vox2-b2/best.pt",
        dims=DIMS,
        confidence=0.95,
        lists=(list_report("vox1-o", 0, "VoxCeleb1-O (cleaned)"), list_report("call-centre", 1)),
        search=(
            SearchPoint("exact", 64, 256, 1_000_000, 0, 1.0, 118.0, 1024.0),
            SearchPoint("float32", 64, 256, 1_000_000, 100, 0.9987, 412.0, 1280.0),
            SearchPoint("int8, 62 of 1000 cells", 64, 256, 1_000_000, 100, 0.9921, 3937.0, 1096.3),
        ),
        seconds={"embedding": 214.2, "scoring": 9.1, "bootstrap": 31.7},
        command="python evaluate.py --checkpoint checkpoints/vox2-b2/best.pt --output reports/b2",
        resamples=1000,
    )


def bare_report() -> Report:
    """One list, no intervals, nothing that may be left out."""
    only = ListReport(
        name="vox1-o",
        official_name=None,
        sha256="0" * 64,
        num_trials=4000,
        num_targets=2000,
        num_utterances=300,
        prefixes=tuple(prefix_report(dim, intervals=False) for dim in DIMS),
    )
    return Report("best.pt", DIMS, 0.95, (only,))
