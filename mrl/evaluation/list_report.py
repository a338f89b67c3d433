"""Everything that is asked about one trial list, from embeddings of its recordings.

Shapes: U utterances of the list, V vectors that its trials compare, N trials, D embedding, K prefixes, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrl.config import Config
from mrl.data.official_lists import describe_list
from mrl.data.trial_list import ScoredVectors, TrialList
from mrl.evaluation.baselines import Resampling, baselines
from mrl.evaluation.bootstrap import TrialSpeakers, bootstrap_eers, interval, trial_speakers
from mrl.evaluation.cascade import Cascade, DetectionCost, cascade
from mrl.evaluation.curves import score_curves
from mrl.evaluation.detection import report_prefix
from mrl.evaluation.grids import duration_grid, precision_grid
from mrl.evaluation.normalisation import centred, cohort_statistics, normalised_by_prefix
from mrl.evaluation.projections import Projection
from mrl.evaluation.recommendation import recommendation
from mrl.evaluation.results import Baseline, Grid, Interval, ListReport, PrefixReport, ScoreCurves
from mrl.evaluation.scoring import eer_curve, scores_by_prefix

Vectors = NDArray[np.float32]


class Compared(NamedTuple):
    """Raw embeddings of the list's utterances by other encoders, and maps fitted on those of training speakers."""

    released: Vectors  # [U, E]
    projections: Sequence[Projection]
    trained: Mapping[str, Vectors]  # [U, D] each


class ListFindings(NamedTuple):
    """A list's report, what its plots are drawn from, and sentences to say."""

    report: ListReport
    curves: tuple[ScoreCurves, ...]
    remarks: tuple[str, ...]


class ListAnalysis:
    """One list and the embeddings [U, D] of its utterances by the encoder under test.

    Args:
        trials: the list.
        embeddings: raw.
        dims: prefixes, ascending.
        config: of the run; its section ``evaluation`` has the numbers.
    """

    def __init__(self, trials: TrialList, embeddings: Vectors, dims: Sequence[int], config: Config) -> None:
        self._trials = trials
        self._dims = list(dims)
        self._config = config
        self._numbers = config.evaluation
        self._scored = trials.vectors(embeddings)
        self._remarks: list[str] = []
        self._describe()

    def report(
        self,
        *,
        cohort: Vectors | None = None,
        compared: Compared | None = None,
        durations: Mapping[float | None, Vectors] | None = None,
        with_precisions: bool = False,
        with_cascade: bool = False,
    ) -> ListFindings:
        """The report.

        Args:
            cohort: means of the unit-length embeddings of training speakers [S, D], for AS-norm and centring.
            compared: other encoders.
            durations: raw embeddings [U, D] of the utterances by the seconds that were read; None: whole.
            with_precisions: make the grid of precisions.
            with_cascade: make the cascade of the narrowest and the widest prefix.

        Raises DataError where the folders of the list contradict its labels, and a bootstrap is asked for.
        """
        scores = self._table(self._scores_of(self._scored))
        speakers = self._speakers if self._numbers.bootstrap or with_cascade else None
        resampled = self._resampled(scores, speakers)
        intervals = self._intervals(resampled)
        prefixes = self._prefix_reports(scores, intervals)
        curve = eer_curve(
            self._scored.vectors, self._scored.enrolment, self._scored.test, self._trials.labels
        )
        cascaded = self._cascade(scores, speakers) if with_cascade else None
        report = ListReport(
            name=self._trials.name,
            official_name=self._description["official_name"],
            sha256=self._description["sha256"],
            num_trials=len(self._trials),
            num_targets=self._trials.num_targets,
            num_utterances=len(self._trials.utterances),
            prefixes=prefixes,
            curve=tuple(float(rate) for rate in curve.rates),
            normalised=() if cohort is None else self._normalised(cohort),
            centred=() if cohort is None else self._centred(cohort),
            baselines=() if compared is None else self._baselines(compared, speakers),
            durations=None if durations is None else self._duration_grid(durations),
            precisions=self._precision_grid(cohort) if with_precisions else None,
            cascade=() if cascaded is None else cascaded.points,
            recommendation=self._recommendation(prefixes, resampled, speakers),
        )
        curves = tuple(
            score_curves(self._trials.name, dim, row, self._trials.labels)
            for dim, row in zip(self._dims, scores, strict=True)
        )
        return ListFindings(report, curves, tuple(self._remarks))

    def _scores_of(self, scored: ScoredVectors) -> Iterator[NDArray[np.float64]]:
        return scores_by_prefix(scored.vectors, scored.enrolment, scored.test, self._dims)

    def _describe(self) -> None:
        """Remarks on trials that a reader would not expect."""
        name, description = self._trials.name, describe_list(self._trials)
        if repeated := description["repeated"]:
            self._remarks.append(f"{name}: {repeated:,} trials repeat the pair of another, and count like it")
        if alone := description["with_itself"]:
            self._remarks.append(f"{name}: {alone:,} trials compare a recording with itself")
        self._description = description

    def _table(self, rows: Iterator[NDArray[np.float64]]) -> NDArray[np.float64]:
        """``rows`` [N], which share a buffer, as [K, N]."""
        scores = np.empty((len(self._dims), len(self._trials)))
        for place, row in enumerate(rows):
            scores[place] = row
        return scores

    @cached_property
    def _speakers(self) -> TrialSpeakers:
        return trial_speakers(self._trials)

    def _resampled(
        self, scores: NDArray[np.float64], speakers: TrialSpeakers | None
    ) -> NDArray[np.float64] | None:
        """EERs [K, R]; None where no bootstrap is asked for."""
        count = self._numbers.bootstrap
        if not count:
            return None
        assert speakers is not None
        return bootstrap_eers(scores, self._trials.labels, speakers, seed=self._config.seed, resamples=count)

    def _intervals(self, resampled: NDArray[np.float64] | None) -> list[Interval | None]:
        if resampled is None:
            return [None] * len(self._dims)
        return [interval(rates, self._numbers.confidence) for rates in resampled]

    def _prefix_reports(
        self,
        scores: Sequence[NDArray[np.float64]] | NDArray[np.float64],
        intervals: Sequence[Interval | None],
    ) -> tuple[PrefixReport, ...]:
        return tuple(
            report_prefix(row, self._trials.labels, dim, self._numbers, bounds)
            for dim, row, bounds in zip(self._dims, scores, intervals, strict=True)
        )

    def _normalised(self, cohort: Vectors) -> tuple[PrefixReport, ...]:
        scored = self._scored
        statistics = cohort_statistics(scored.vectors, cohort, self._dims, self._numbers.as_norm_top)
        rows = normalised_by_prefix(scored.vectors, scored.enrolment, scored.test, statistics)
        return self._with_intervals(rows)

    def _centred(self, cohort: Vectors) -> tuple[PrefixReport, ...]:
        vectors = centred(self._scored.vectors, cohort)
        return self._with_intervals(self._scores_of(self._scored._replace(vectors=vectors)))

    def _with_intervals(self, rows: Iterator[NDArray[np.float64]]) -> tuple[PrefixReport, ...]:
        """Reports of other ``rows`` of scores, which resample the same speakers as the plain ones."""
        scores = self._table(rows)
        speakers = self._speakers if self._numbers.bootstrap else None
        return self._prefix_reports(scores, self._intervals(self._resampled(scores, speakers)))

    def _baselines(self, compared: Compared, speakers: TrialSpeakers | None) -> tuple[Baseline, ...]:
        numbers, trials = self._numbers, self._trials
        resampling = None
        if numbers.bootstrap:
            assert speakers is not None
            resampling = Resampling(speakers, self._config.seed, numbers.bootstrap, numbers.confidence)
        released = trials.vectors(compared.released)
        return baselines(
            released.vectors,
            released.enrolment,
            released.test,
            trials.labels,
            self._dims,
            projections=compared.projections,
            others={name: trials.vectors(rows).vectors for name, rows in compared.trained.items()},
            resampling=resampling,
        )

    def _duration_grid(self, durations: Mapping[float | None, Vectors]) -> Grid:
        vectors = {seconds: self._trials.vectors(rows).vectors for seconds, rows in durations.items()}
        scored = self._scored
        return duration_grid(vectors, scored.enrolment, scored.test, self._trials.labels, self._dims)

    def _precision_grid(self, cohort: Vectors | None) -> Grid:
        scored = self._scored
        return precision_grid(
            scored.vectors, scored.enrolment, scored.test, self._trials.labels, self._dims, cohort=cohort
        )

    def _cascade(self, scores: NDArray[np.float64], speakers: TrialSpeakers | None) -> Cascade:
        assert speakers is not None
        numbers = self._numbers
        found = cascade(
            scores[0],
            scores[-1],
            self._trials.labels,
            speakers,
            dims=(self._dims[0], self._dims[-1]),
            cost=DetectionCost(numbers.p_targets[0], numbers.cost_miss, numbers.cost_false_accept),
            seed=self._config.seed,
        )
        self._remarks.append(f"{self._trials.name}, cascade: {found.words}")
        return found

    def _recommendation(
        self,
        prefixes: Sequence[PrefixReport],
        resampled: NDArray[np.float64] | None,
        speakers: TrialSpeakers | None,
    ) -> str:
        if len(self._dims) == 1:
            return ""
        return recommendation(
            self._dims,
            [prefix.eer for prefix in prefixes],
            resampled,
            tolerance=self._numbers.tolerance / 100,
            num_speakers=len(self._trials.speakers()) if speakers is None else speakers.num_speakers,
            confidence=self._numbers.confidence,
        ).words
