"""What an evaluation finds, as plain values: what tables, files and plots are made from.

Rates and EERs are shares, not percent; scores and thresholds are cosines unless a field says otherwise.
D embedding, K prefixes, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Interval(NamedTuple):
    """Where a rate lies with the confidence asked for."""

    low: float
    high: float


class Threshold(NamedTuple):
    """An operating point: trials that score ``value`` or more are accepted."""

    value: float
    false_accepts: float  # share of non-target trials accepted
    misses: float  # share of target trials rejected


class ScoreStatistics(NamedTuple):
    """Mean and standard deviation of the scores of each class."""

    target_mean: float
    target_deviation: float
    nontarget_mean: float
    nontarget_deviation: float


class Calibration(NamedTuple):
    """Log-likelihood ratio (natural) of a score: ``scale * score + offset``."""

    scale: float
    offset: float


@dataclass(frozen=True)
class PrefixReport:
    """One kind of scores of one list at one prefix."""

    dim: int
    eer: float
    interval: Interval | None  # of the EER over speakers; None where no bootstrap was asked for
    min_dcf: dict[float, float]  # by target prior
    thresholds: dict[str, Threshold]  # "eer", "min_dcf_<p_target>", "far_<rate>"
    statistics: ScoreStatistics
    calibration: Calibration  # fitted on this list
    cllr: float  # bits, of the calibrated scores
    min_cllr: float  # bits, after the best monotone map


@dataclass(frozen=True)
class Baseline:
    """Another encoder, or another way to short embeddings, on the same audio; ``dims`` are those it was scored at."""

    name: str
    dims: tuple[int, ...]
    eers: tuple[float, ...]
    intervals: tuple[Interval | None, ...]


@dataclass(frozen=True)
class Grid:
    """EER over one more axis than the prefix."""

    title: str
    rows: tuple[str, ...]  # "1 s", "full"; "float32", "binary"
    dims: tuple[int, ...]
    eers: tuple[tuple[float, ...], ...]  # [rows][dims]
    bytes_per_speaker: tuple[tuple[int, ...], ...] | None = None  # likewise


@dataclass(frozen=True)
class CascadePoint:
    """Decide at ``small_dim`` outside a band of scores, at ``full_dim`` inside it; measured on other speakers than
    those that the band was chosen on."""

    small_dim: int
    full_dim: int
    low: float  # of the band, a score at small_dim
    high: float
    escalation_rate: float  # share of trials inside the band
    eer: float
    min_dcf: float
    full_eer: float
    full_min_dcf: float


@dataclass(frozen=True)
class SearchPoint:
    """A shortlist by a short prefix, re-ranked at full size, among many enrolled vectors."""

    method: str
    small_dim: int
    full_dim: int
    enrolled: int
    shortlist: int
    recall: float  # share of queries whose exact nearest neighbour at full size is found
    queries_per_second: float
    megabytes: float


@dataclass(frozen=True)
class ListReport:
    """Everything about one trial list."""

    name: str
    official_name: str | None  # where its content is that of a list that is known
    sha256: str
    num_trials: int
    num_targets: int
    num_utterances: int
    prefixes: tuple[PrefixReport, ...]
    curve: tuple[float, ...] = ()  # EER at each prefix 1..D
    normalised: tuple[PrefixReport, ...] = ()  # of AS-norm scores
    centred: tuple[PrefixReport, ...] = ()  # of scores after the cohort's mean was subtracted
    baselines: tuple[Baseline, ...] = ()
    durations: Grid | None = None
    precisions: Grid | None = None
    cascade: tuple[CascadePoint, ...] = ()
    recommendation: str = ""


@dataclass(frozen=True)
class Report:
    """One evaluation of one encoder."""

    encoder: str  # the checkpoint's path
    dims: tuple[int, ...]
    confidence: float  # of all intervals
    lists: tuple[ListReport, ...]
    search: tuple[SearchPoint, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)  # by part of the evaluation
    command: str = ""  # what the user ran
    resamples: int = 0  # of the speakers, for the intervals
    cost_miss: float = 1.0  # in every minDCF
    cost_false_accept: float = 1.0


@dataclass(frozen=True)
class ScoreCurves:
    """What the plots of the scores of one list at one prefix are drawn from; some hundreds of numbers."""

    list_name: str
    dim: int
    false_accepts: tuple[float, ...]  # of the DET curve, rising from 0 to 1
    misses: tuple[float, ...]  # likewise, falling from 1 to 0
    bin_edges: tuple[float, ...]  # [B + 1], scores
    targets: tuple[int, ...]  # [B], target trials in each bin
    nontargets: tuple[int, ...]  # [B]
