"""The decision bundle: what turns an encoder's scores into decisions, a JSON file beside its checkpoint.

evaluate.py writes it (:mod:`mrl.evaluation.bundle`). For each prefix it holds the thresholds of one trial list, its
score statistics and a calibration. Thresholds of other weights would be wrong without a sign of it, so the file holds
the fingerprint of the encoder that it was made for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import from_json

from mrl.errors import CheckpointError

FORMAT: Final = "redimnet-mrl-decisions"
VERSION: Final = 1

_MAX_BYTES = 10_000_000
_LONGEST_NAME = 255  # bytes, as file systems have it
MAKE_ONE = "python evaluate.py --checkpoint <checkpoint>"

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, lt=1.0)]
# A threshold that rejects everything lies beyond the highest score by as little as numbers allow.
Cosine = Annotated[float, Field(ge=-1.0 - 1e-6, le=1.0 + 1e-6)]
Deviation = Annotated[float, Field(ge=0.0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Verification:
    """What `SpeakerEncoder.verify` says of two recordings; unpacks to ``score, decision``."""

    score: float  # cosine at the prefix
    decision: bool  # whether it is the same speaker: the score is at least the threshold
    threshold: float
    log_likelihood_ratio: float  # natural, of same to different speakers, as calibrated on the bundle's list

    def __iter__(self) -> Iterator[float | bool]:
        yield self.score
        yield self.decision


class _Part(BaseModel):
    """A part of the bundle: frozen, no unknown keys, no conversions, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class OperatingPoint(_Part):
    """Trials that score ``threshold`` or more are accepted; the error rates are those on the list."""

    threshold: Cosine
    false_accepts: Share
    misses: Share


class RateThreshold(OperatingPoint):
    """The lowest threshold with no more than a share ``rate`` of the non-target trials accepted."""

    rate: Rate


class CostThreshold(OperatingPoint):
    """The threshold of least detection cost at the target prior ``p_target``."""

    p_target: Rate
    min_dcf: Deviation


class Statistics(_Part):
    """Mean and standard deviation of the scores of each class."""

    target_mean: Cosine
    target_deviation: Deviation
    nontarget_mean: Cosine
    nontarget_deviation: Deviation


class AffineCalibration(_Part):
    """Natural log-likelihood ratio of a score: ``scale * score + offset``."""

    scale: Annotated[float, Field(gt=0.0)]
    offset: float


class DecisionRule(NamedTuple):
    """A threshold and a calibration for the cosines of one prefix."""

    threshold: float
    calibration: AffineCalibration

    def __call__(self, score: float) -> Verification:
        ratio = self.calibration.scale * score + self.calibration.offset
        return Verification(score, score >= self.threshold, self.threshold, ratio)


class PrefixDecisions(_Part):
    """One prefix. Rates are shares, thresholds cosines."""

    dim: Annotated[int, Field(ge=1)]
    eer: Share
    at_eer: OperatingPoint
    at_min_dcf: tuple[CostThreshold, ...]
    at_false_accept_rates: tuple[RateThreshold, ...]
    statistics: Statistics
    calibration: AffineCalibration


class Costs(_Part):
    """Detection costs behind minDCF."""

    miss: Annotated[float, Field(gt=0.0)]
    false_accept: Annotated[float, Field(gt=0.0)]


class MeasuredOn(_Part):
    """The trial list that everything was measured on."""

    name: Annotated[str, Field(max_length=_LONGEST_NAME, pattern=r"^\P{C}*$")]
    sha256: Sha256
    num_targets: Annotated[int, Field(ge=1)]
    num_nontargets: Annotated[int, Field(ge=1)]


class CohortReference(_Part):
    """The cohort of score normalisation, a file beside the bundle."""

    file: str
    sha256: Sha256
    num_speakers: Annotated[int, Field(ge=1)]
    top: Annotated[int, Field(ge=1)]  # how many of a vector's highest cohort scores AS-norm takes

    @field_validator("file")
    @classmethod
    def _plain_name(cls, file: str) -> str:
        plain = PurePosixPath(file).name == PureWindowsPath(file).name == file and file.isprintable()
        if file in ("", ".", "..") or not plain or len(file.encode()) > _LONGEST_NAME:
            raise ValueError("must be the name of a file beside the bundle")
        return file


class DecisionBundle(_Part):
    """The whole file."""

    format: Literal["redimnet-mrl-decisions"] = FORMAT
    version: Literal[1] = VERSION
    encoder_sha256: Sha256  # fingerprint of the encoder's state
    measured_on: MeasuredOn
    costs: Costs
    prefixes: Annotated[tuple[PrefixDecisions, ...], Field(min_length=1)]
    cohort: CohortReference | None = None

    @field_validator("prefixes")
    @classmethod
    def _ascending(cls, prefixes: tuple[PrefixDecisions, ...]) -> tuple[PrefixDecisions, ...]:
        dims = [prefix.dim for prefix in prefixes]
        if dims != sorted(set(dims)):
            raise ValueError(f"must be of ascending prefixes, not {dims!r:.200}")
        return prefixes

    def at(self, dim: int) -> PrefixDecisions:
        """The decisions at prefix ``dim``; CheckpointError, naming those that there are, where it has none."""
        for prefix in self.prefixes:
            if prefix.dim == dim:
                return prefix
        held = ", ".join(str(prefix.dim) for prefix in self.prefixes)
        raise CheckpointError(
            f"the decision bundle has no thresholds for prefix {dim}, only for {held}; add it: "
            f"{MAKE_ONE} --dims {dim}"
        )

    def rule(self, dim: int, false_accept_rate: float) -> DecisionRule:
        """How scores at prefix ``dim`` become decisions.

        Raises CheckpointError for a prefix or a false-accept rate that the bundle does not hold; names those that it
        holds.
        """
        prefix = self.at(dim)
        for point in prefix.at_false_accept_rates:
            if math.isclose(point.rate, false_accept_rate, rel_tol=1e-9):
                return DecisionRule(point.threshold, prefix.calibration)
        held = ", ".join(f"{point.rate:g}" for point in prefix.at_false_accept_rates) or "none"
        raise CheckpointError(
            f"the decision bundle has no threshold for a false-accept rate of {false_accept_rate:g}, only for: {held}; "
            f"others from {1 / self.measured_on.num_nontargets:.2g} on, which is one non-target trial of "
            f"{self.measured_on.name}, are measured by {MAKE_ONE} --set evaluation.false_accept_rates=[...]"
        )


def bundle_path(checkpoint: Path) -> Path:
    """The file for the decisions of ``checkpoint``: ``best.decisions.json`` for ``best.pt``."""
    return checkpoint.with_name(f"{checkpoint.stem}.decisions.json")


def read_bundle(path: Path, encoder_sha256: str) -> DecisionBundle:
    """The bundle in ``path``, for the encoder with this fingerprint.

    Raises CheckpointError for a file that cannot be read, is damaged, of another format or version, or that was made
    for other weights.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        values = from_json(content) if len(content) <= _MAX_BYTES else None
    except ValueError as error:
        raise CheckpointError(
            f"{path}: damaged, it is no JSON ({error}); make it anew: {MAKE_ONE}"
        ) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a decision bundle; make one: {MAKE_ONE}")
    if values.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: written in format version {values.get('version')!r:.40}, this version reads {VERSION}; make it "
            f"anew: {MAKE_ONE}"
        )
    try:
        bundle = DecisionBundle.model_validate_json(content)
    except ValidationError as error:
        raise CheckpointError(f"{path}: damaged: {_first_problem(error)}; make it anew: {MAKE_ONE}") from None
    if bundle.encoder_sha256 != encoder_sha256:
        raise CheckpointError(
            f"{path}: made for other weights than this encoder's, so its thresholds do not hold; make it anew: "
            f"{MAKE_ONE}"
        )
    return bundle


def _first_problem(error: ValidationError) -> str:
    """Where the first problem stands and what it is, in one line."""
    detail = error.errors()[0]
    place = ".".join(str(part) for part in detail["loc"])[:200]
    shown = place if place.isprintable() else repr(place)
    return f"{shown}: {detail['msg'].removeprefix('Value error, '):.300}"
