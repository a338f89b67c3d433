"""The scores of the epochs: how they rank, and what is said and recorded of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mrl.config import Config
from mrl.evaluation.report import result_metrics
from mrl.evaluation.verification import VerificationResult
from mrl.training.epoch_report import report_epoch
from mrl.training.run_state import RunState
from mrl.training.selection import Rank, choosing, full_size_eer, guard_excess, mean_eer, rank
from mrl.training.tracking import Tracker


class Scores(NamedTuple):
    """What was measured of an epoch."""

    results: Sequence[VerificationResult]
    held_out: dict[str, float]


class Scoreboard:
    """Ranks and records the epochs of a run."""

    def __init__(self, config: Config, tracker: Tracker) -> None:
        self._config, self._tracker = config, tracker

    def rank_of(self, scores: Scores, state: RunState) -> Rank:
        """Where ``scores`` stand, in the run of ``state``."""
        validation, history = self._config.validation, state.history
        guarded = guard_excess(scores.results, history[0], validation) if history else 0.0
        chosen = choosing(scores.results, validation)
        return rank(chosen, self._config.checkpoints, state.reference, guarded)

    def enter(self, scores: Scores, state: RunState, place: Rank, facts: Mapping[str, Any]) -> None:
        """Put the scores of the epoch that ``state`` counts into its history, with ``facts``; record and say them."""
        results = scores.results
        chosen = choosing(results, self._config.validation)
        values = {
            **result_metrics(results),
            "mean_eer": mean_eer(chosen),
            "full_size_eer": full_size_eer(chosen),
            "evaluation_seconds": sum(result.seconds for result in results),
            **scores.held_out,
            **facts,
        }
        state.history.append({"epoch": state.epoch, **values})
        self._tracker.epoch(state.epoch, state.step, values)
        report_epoch(self._tracker, self._config, results, state.history, place)
