"""What is said of an epoch that was scored: the table, what changed since epoch 0, and what gives cause for concern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mrl.config import Config
from mrl.evaluation.collapse import collapse_warnings
from mrl.evaluation.report import RESULT_COLUMNS, result_rows
from mrl.evaluation.verification import VerificationResult
from mrl.training.held_out import describe_held_out, overfitting_warning
from mrl.training.schedules import StagePlan
from mrl.training.selection import Rank, gains, guard_excess
from mrl.training.tracking import Tracker

History = Sequence[Mapping[str, Any]]


def report_epoch(
    tracker: Tracker,
    config: Config,
    results: Sequence[VerificationResult],
    history: History,
    place: Rank,
) -> None:
    """Say what the last record of ``history`` holds, whose scores are ``results`` and whose rank is ``place``."""
    record = history[-1]
    title = f"epoch {record['epoch']} ({record['stage']})"
    if "average_of" in record:
        title = f"epoch {record['epoch']} ({record['stage']}), the mean of epochs {record['average_of']}"
    tracker.table(
        f"{title}: {_verdict(config, results, history, place)}", RESULT_COLUMNS, result_rows(results)
    )
    seconds = sum(result.seconds for result in results)
    embedding = sum(result.embedding_seconds for result in results)
    tracker.say(f"scored in {seconds:.1f} s, {embedding:.1f} s of it in the network")
    if len(history) > 1:
        for gain in gains(results, history[0], config.validation):
            points = ", ".join(f"{0.0 - change:+.2f} at {dim}" for dim, change in gain.points.items())
            tracker.say(f"{gain.name}{' (guard)' if gain.is_guard else ''}: EER since epoch 0 {points}")
    if (described := describe_held_out(record, config.dims)) is not None:
        tracker.say(described)
    worse = None if "average_of" in record else worse_line(history)
    for warning in (overfitting_warning(history), worse, *collapse_warnings(results)):
        if warning is not None:
            tracker.say(warning)


def _verdict(config: Config, results: Sequence[VerificationResult], history: History, place: Rank) -> str:
    if not place.excess:
        return "new best" if history[-1]["is_best"] else "not better"
    on_guard = guard_excess(results, history[0], config.validation) >= place.excess
    where = "on a guard list" if on_guard else "at full size"
    return f"{100 * place.excess:.2f} EER points beyond what is allowed {where}"


def worse_line(history: History) -> str | None:
    """A sentence where the last two validations of a stage or more have all been worse than epoch 0."""
    record, start = history[-1], history[0]
    stage = [earlier for earlier in history[1:] if earlier["stage"] == record["stage"]]
    row = 0
    while row < len(stage) and stage[-1 - row]["mean_eer"] > start["mean_eer"]:
        row += 1
    if row < 2:
        return None
    return (
        f"stage {record['stage']}: the mean EER has been {_compared(record, start)} in {row} validations in a row; "
        "early_stopping_patience says how many a stage may have without a new best"
    )


def early_end_line(stage: str, stale: int, history: History) -> str:
    """What is said where a stage ends after ``stale`` validations without a new best."""
    record, start = history[-1], history[0]
    worse = (
        f", and the mean EER is {_compared(record, start)}" if record["mean_eer"] > start["mean_eer"] else ""
    )
    return f"stage {stage}: no new best in {count(stale, 'validation')}, it ends early{worse}"


def _compared(record: Mapping[str, Any], start: Mapping[str, Any]) -> str:
    return f"worse than at epoch 0 ({100 * start['mean_eer']:.2f} -> {100 * record['mean_eer']:.2f} %)"


def stage_line(plan: StagePlan, has_classes: bool, start_epoch: int) -> str:
    """How a stage is announced."""
    stage = plan.stage
    return (
        f"stage {stage.name}: trains {', '.join(trained_parts(plan, has_classes))}, from the weights of epoch "
        f"{start_epoch}; {count(stage.epochs, 'epoch')} of {count(plan.steps_per_epoch, 'step')}"
    )


def trained_parts(plan: StagePlan, has_classes: bool) -> list[str]:
    """What learns in a stage, in words."""
    stage = plan.stage
    parts = [
        f"adapters of the backbone (rank {stage.lora.rank})" if part == "backbone" and stage.lora else part
        for part in stage.train
    ]
    if has_classes:
        parts.append("classifier")
    elif stage.learning_rate.classifier is not None:
        parts.append("map to the teacher")
    return parts


def count(number: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
