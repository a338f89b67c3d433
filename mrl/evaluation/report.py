"""Results as rows of a table and as flat metric names."""

from __future__ import annotations

from collections.abc import Sequence

from mrl.evaluation.verification import P_TARGETS, VerificationResult

RESULT_COLUMNS = (
    "trials",
    "dim",
    "EER %",
    "threshold",
    *(f"minDCF p={p_target:g}" for p_target in P_TARGETS),
)


def result_rows(results: Sequence[VerificationResult]) -> list[list[str]]:
    """Rows for :data:`RESULT_COLUMNS`: EER in percent, the cosine threshold at the EER, minDCF."""
    return [
        [
            result.name,
            str(prefix.dim),
            f"{100 * prefix.eer:.2f}",
            f"{prefix.threshold:.4f}",
            *(f"{prefix.min_dcf[p_target]:.4f}" for p_target in P_TARGETS),
        ]
        for result in results
        for prefix in result.prefixes
    ]


def result_metrics(results: Sequence[VerificationResult]) -> dict[str, float]:
    """Flat names: ``eer/<list>/<dim>``, ``threshold/<list>/<dim>``, ``min_dcf_<p>/<list>/<dim>`` (shares), and
    ``cosine_between_speakers/<list>/<dim>``, the mean over the non-target trials."""
    metrics: dict[str, float] = {}
    for result in results:
        for prefix in result.prefixes:
            place = f"{result.name}/{prefix.dim}"
            metrics[f"eer/{place}"] = prefix.eer
            metrics[f"threshold/{place}"] = prefix.threshold
            metrics[f"cosine_between_speakers/{place}"] = prefix.between_speakers
            for p_target, cost in prefix.min_dcf.items():
                metrics[f"min_dcf_{p_target:g}/{place}"] = cost
    return metrics
