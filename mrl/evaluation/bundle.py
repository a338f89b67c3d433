"""Writing the decision bundle and the cohort beside a checkpoint; the schema is in :mod:`mrl.models.decision_bundle`.

Shapes: S cohort speakers, D embedding.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrl.atomic import write_atomically
from mrl.config import EvaluationConfig
from mrl.errors import CheckpointError
from mrl.evaluation.detection import EER_KEY, cost_key, rate_key, unresolved_rates
from mrl.evaluation.results import ListReport, PrefixReport, Threshold
from mrl.models.decision_bundle import (
    AffineCalibration,
    CohortReference,
    Costs,
    CostThreshold,
    DecisionBundle,
    MeasuredOn,
    OperatingPoint,
    PrefixDecisions,
    RateThreshold,
    Statistics,
    bundle_path,
    read_bundle,
)
from mrl.stored_zip import load_arrays


def bundle_of(
    report: ListReport, encoder_sha256: str, config: EvaluationConfig, cohort: CohortReference | None = None
) -> DecisionBundle:
    """The decisions that ``report``, the list to be trusted, allows.

    False-accept rates that its non-target trials cannot resolve are left out: a threshold above all of them would
    promise a rate that nobody measured.

    Args:
        report: made with ``config``.
        encoder_sha256: :func:`mrl.models.fingerprint.fingerprint_of` the encoder.
        config: its priors, costs and rates.
        cohort: what `write_cohort` returned.
    """
    num_nontargets = report.num_trials - report.num_targets
    unresolved = unresolved_rates(config.false_accept_rates, num_nontargets)
    rates = [rate for rate in config.false_accept_rates if rate not in unresolved]
    return DecisionBundle(
        encoder_sha256=encoder_sha256,
        measured_on=MeasuredOn(
            name=report.name,
            sha256=report.sha256,
            num_targets=report.num_targets,
            num_nontargets=num_nontargets,
        ),
        costs=Costs(miss=config.cost_miss, false_accept=config.cost_false_accept),
        prefixes=tuple(_decisions(prefix, rates) for prefix in report.prefixes),
        cohort=cohort,
    )


def bundle_to_keep(path: Path, encoder_sha256: str) -> DecisionBundle | None:
    """The bundle in ``path``, where it is intact and of the encoder with this fingerprint."""
    try:
        return read_bundle(path, encoder_sha256) if path.exists() else None
    except CheckpointError:
        return None


def merged(kept: DecisionBundle, new: DecisionBundle) -> DecisionBundle:
    """``new`` with the prefixes and the cohort of ``kept`` that it lacks, where both are of one list and its costs."""
    if kept.measured_on.sha256 != new.measured_on.sha256 or kept.costs != new.costs:
        return new
    fresh = {prefix.dim for prefix in new.prefixes}
    prefixes = [*new.prefixes, *(prefix for prefix in kept.prefixes if prefix.dim not in fresh)]
    prefixes.sort(key=lambda prefix: prefix.dim)
    return new.model_copy(update={"prefixes": tuple(prefixes), "cohort": new.cohort or kept.cohort})


def write_bundle(bundle: DecisionBundle, checkpoint: Path) -> Path:
    """Write ``bundle`` beside ``checkpoint``, whole or not at all, and return its path.

    Raises CheckpointError where it cannot be written; an earlier one is intact.
    """
    path = bundle_path(checkpoint)
    _write(path, (bundle.model_dump_json(indent=2) + "\n").encode())
    return path


def write_cohort(cohort: NDArray[np.float32], checkpoint: Path, top: int) -> CohortReference:
    """Write ``cohort`` [S, D] (float32, so that scores come out the same) as ``best.cohort.npz`` beside ``best.pt``.

    ``top`` is the number of scores that AS-norm takes of it. Raises CheckpointError where it cannot be written.
    """
    content = io.BytesIO()
    np.savez(content, cohort=cohort.astype(np.float32, copy=False))
    path = checkpoint.with_name(f"{checkpoint.stem}.cohort.npz")
    _write(path, content.getvalue())
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    return CohortReference(file=path.name, sha256=digest, num_speakers=len(cohort), top=top)


def read_cohort(reference: CohortReference, folder: Path) -> NDArray[np.float32]:
    """The cohort [S, D] that a bundle in ``folder`` refers to.

    Raises CheckpointError for a file that is missing, that is not the one that was written, or that holds no cohort.
    """
    path = folder / reference.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: the cohort cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != reference.sha256:
        raise CheckpointError(f"{path}: not the cohort that the decision bundle was written with, or damaged")
    try:
        cohort = load_arrays(io.BytesIO(content))["cohort"]
    except (ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{path}: holds no cohort: {error}") from error
    if cohort.dtype != np.float32 or cohort.ndim != 2 or len(cohort) != reference.num_speakers:
        raise CheckpointError(
            f"{path}: its cohort is {cohort.dtype} {list(cohort.shape)}, not float32 "
            f"[{reference.num_speakers}, D]"
        )
    if not np.isfinite(cohort).all():
        raise CheckpointError(f"{path}: its cohort holds NaN or infinity")
    return np.asarray(cohort)


def _decisions(prefix: PrefixReport, rates: list[float]) -> PrefixDecisions:
    def point(key: str) -> dict[str, float]:
        found: Threshold = prefix.thresholds[key]
        return {"threshold": found.value, "false_accepts": found.false_accepts, "misses": found.misses}

    return PrefixDecisions(
        dim=prefix.dim,
        eer=prefix.eer,
        at_eer=OperatingPoint(**point(EER_KEY)),
        at_min_dcf=tuple(
            CostThreshold(p_target=p_target, min_dcf=cost, **point(cost_key(p_target)))
            for p_target, cost in prefix.min_dcf.items()
        ),
        at_false_accept_rates=tuple(RateThreshold(rate=rate, **point(rate_key(rate))) for rate in rates),
        statistics=Statistics(**prefix.statistics._asdict()),
        calibration=AffineCalibration(**prefix.calibration._asdict()),
    )


def _write(path: Path, content: bytes) -> None:
    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    try:
        write_atomically(path, write)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error})") from error
