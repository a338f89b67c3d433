"""What evaluate.py measures, and with which numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from mrl.config.base import Count, Name, NonNegative, Positive, Section, require_unique

Prior = Annotated[float, Field(gt=0.0, lt=1.0)]


class EvaluationListConfig(Section):
    name: Name
    """Name of this list in tables, plots and files."""
    trials: Path
    """Trial list: ``label enrolment test``, or ``enrolment test target|nontarget`` (Kaldi)."""
    root: Path
    """Folder that the list's paths start from."""
    enrolment_map: Path | None = None
    """Where the list names models: a file of lines ``model utterance [utterance ...]`` (CN-Celeb, Kaldi)."""


class EvaluationConfig(Section):
    lists: tuple[EvaluationListConfig, ...] = ()
    """Trial lists; empty: those of ``validation``."""
    p_targets: Annotated[tuple[Prior, ...], Field(min_length=1)] = (0.01, 0.05)
    """Target priors at which minDCF is reported."""
    cost_miss: Positive = 1.0
    """Cost of rejecting a target."""
    cost_false_accept: Positive = 1.0
    """Cost of accepting a non-target."""
    false_accept_rates: tuple[Prior, ...] = (0.01, 0.001)
    """Shares of accepted non-targets at which thresholds are given."""
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    """Resamples of the speakers for the intervals; 0: none."""
    confidence: Prior = 0.95
    """Of the intervals."""
    tolerance: NonNegative = 0.1
    """The recommended prefix may be so many EER percentage points worse than the best."""
    cohort_speakers: Count = 3000
    """Training speakers of the cohort, and for the baselines that are fitted on speakers."""
    cohort_utterances_per_speaker: Count = 10
    """Utterances of each, whose embeddings are averaged."""
    as_norm_top: Count = 300
    """AS-norm: so many of the cohort's scores, the highest, give mean and deviation."""
    durations: tuple[Positive, ...] = (1.0, 2.0, 3.0, 5.0)
    """Seconds of each test utterance in the grid of durations; whole utterances are its last row."""
    search_enrolled: Count = 1_000_000
    """Enrolled vectors in the shortlist search."""
    search_shortlist: Count = 100
    """Length of the shortlist."""

    @field_validator("lists")
    @classmethod
    def _unique(cls, lists: tuple[EvaluationListConfig, ...]) -> tuple[EvaluationListConfig, ...]:
        return require_unique(lists, "name")
