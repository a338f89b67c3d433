"""The closing summary: what the pretrained model scored, what each stage made of it, what best.pt holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl.atomic import write_text_atomically
from mrl.config import PRETRAINED
from mrl.data.unreadable import count_kinds, describe_unreadable
from mrl.training.run_state import RunState
from mrl.training.tracking import Tracker
from mrl.training.trainer import Trainer


def write_summary(trainer: Trainer, directory: Path, tracker: Tracker) -> None:
    """Print the summary of a finished run and write it as ``summary.json`` into ``directory``."""
    history, dims, entries = trainer.state.history, trainer.encoder.dims, trainer.config.validation.lists
    lists = [entry.name for entry in entries if not entry.guard]
    picked = _picked(trainer)
    rows = [
        [
            label,
            str(record["epoch"]),
            _percent(record["mean_eer"]),
            *(_percent(eer_of(record, dim, lists)) for dim in dims),
        ]
        for label, record in picked
    ]
    which = " that choose" if len(lists) < len(entries) else ""
    columns = ["weights", "epoch", "mean EER %", *(f"EER % at {dim}" for dim in dims)]
    tracker.table(f"summary (mean over the trial lists{which})", columns, rows)
    sentences = _sentences(trainer, history[0], picked[-1][1])
    for sentence in sentences:
        tracker.say(sentence)
    text = json.dumps(_content(trainer, picked, lists, sentences), indent=2) + "\n"
    try:
        write_text_atomically(directory / "summary.json", text)
    except OSError as error:
        tracker.say(f"summary.json could not be written: {error}")


def _picked(trainer: Trainer) -> list[tuple[str, Mapping[str, Any]]]:
    """The records that the summary shows: the pretrained model, each stage that was scored, best.pt."""
    history = trainer.state.history
    assert trainer.best is not None
    picked: list[tuple[str, Mapping[str, Any]]] = [("pretrained", history[0])]
    for stage in trainer.config.stages:
        if (of_stage := best_of_stage(history, stage.name)) is not None:
            picked.append((f"stage {stage.name}", of_stage))
    best = next(record for record in history if record["epoch"] == trainer.best.epoch)
    return [*picked, ("best.pt", best)]


def _sentences(trainer: Trainer, start: Mapping[str, Any], best: Mapping[str, Any]) -> list[str]:
    sentences = [stage_verdict(trainer.state.history, stage.name) for stage in trainer.config.stages]
    sentences.append(_closing(trainer, start, best))
    sentences += _guards(trainer, start, best)
    if trainer.data.diagnostic:
        sentences.append(
            "DIAGNOSTIC RUN: the validation speakers were trained on; these scores say nothing of new speakers"
        )
    if unreadable := trainer.state.unreadable:
        sentences.append(describe_unreadable(unreadable.values(), len(trainer.data.train)))
    return sentences + _left_out(trainer.state)


def _content(
    trainer: Trainer,
    picked: Sequence[tuple[str, Mapping[str, Any]]],
    lists: Sequence[str],
    sentences: Sequence[str],
) -> dict[str, Any]:
    """What summary.json holds."""
    dims, unreadable = trainer.encoder.dims, trainer.state.unreadable.values()
    return {
        "dims": list(dims),
        "rows": [
            {
                "weights": label,
                "epoch": record["epoch"],
                "mean_eer": record["mean_eer"],
                "eer": {str(dim): eer_of(record, dim, lists) for dim in dims},
            }
            for label, record in picked
        ],
        "reference_full_size_eer": trainer.state.reference,
        "sentences": list(sentences),
        "diagnostic": trainer.data.diagnostic,
        "unreadable": sorted(unreadable),
        "unreadable_by_kind": count_kinds(unreadable),
        "skipped_updates": trainer.state.skipped,
        "overflowed_updates": trainer.state.overflowed,
    }


def eer_of(record: Mapping[str, Any], dim: int, lists: Sequence[str]) -> float:
    """EER at one prefix in a history record, mean over ``lists``."""
    return float(np.mean([record[f"eer/{name}/{dim}"] for name in lists]))


def best_of_stage(history: Sequence[Mapping[str, Any]], stage: str) -> Mapping[str, Any] | None:
    """The stage's last new best; where it gave none, its lowest mean EER; none if it was never scored."""
    records = [record for record in history if record["stage"] == stage]
    if not records:
        return None
    bests = [record for record in records if record["is_best"]]
    return bests[-1] if bests else min(records, key=lambda record: record["mean_eer"])


def stage_verdict(history: Sequence[Mapping[str, Any]], stage: str) -> str:
    """One sentence: whether the stage helped."""
    of_stage = best_of_stage(history, stage)
    if of_stage is None:
        return f"stage {stage} was not scored"
    first = next(index for index, record in enumerate(history) if record["stage"] == stage)
    before = [record for record in history[:first] if record["is_best"]][-1]
    change = f"mean EER {_percent(before['mean_eer'])} -> {_percent(of_stage['mean_eer'])} %"
    if of_stage["is_best"]:
        return f"stage {stage} helped: {change} (epoch {of_stage['epoch']})"
    return (
        f"stage {stage} did not help: {change} at its best (epoch {of_stage['epoch']}), "
        f"full size {_percent(before['full_size_eer'])} -> {_percent(of_stage['full_size_eer'])} %; "
        "its weights are not used"
    )


def _closing(trainer: Trainer, start: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    reference = trainer.state.reference
    sentence = (
        f"best.pt is epoch {best['epoch']} ({best['stage']}): mean EER {_percent(start['mean_eer'])} -> "
        f"{_percent(best['mean_eer'])} %, full size {_percent(reference)} -> {_percent(best['full_size_eer'])} %"
    )
    allowed = reference + trainer.config.checkpoints.full_size_tolerance / 100
    if best["full_size_eer"] > allowed:
        return (
            f"{sentence}; at full size this is WORSE than the pretrained model: use the pretrained one there"
        )
    if best["stage"] == PRETRAINED:
        return f"{sentence}; no stage improved on the warm start"
    return sentence


def _guards(trainer: Trainer, start: Mapping[str, Any], best: Mapping[str, Any]) -> list[str]:
    """A sentence for each guard list: what best.pt lost there."""
    dims = trainer.encoder.dims
    sentences = []
    for entry in trainer.config.validation.lists:
        if entry.guard:
            before, after = (
                float(np.mean([eer_of(r, dim, [entry.name]) for dim in dims])) for r in (start, best)
            )
            sentences.append(
                f"guard {entry.name}: mean EER {_percent(before)} -> {_percent(after)} % "
                f"(allowed {_percent(before + entry.tolerance / 100)} %)"
            )
    return sentences


def _left_out(state: RunState) -> list[str]:
    """Sentences on the updates that did not happen, of ``state.step``."""
    sentences = []
    if state.skipped:
        sentences.append(
            f"{state.skipped:,} of {state.step:,} updates were skipped, their loss or gradient was not finite; "
            "non_finite.txt names their files"
        )
    if state.overflowed:
        sentences.append(
            f"{state.overflowed:,} of {state.step:,} updates were skipped for a gradient that overflowed fp16, which "
            "lowers the loss scale"
        )
    return sentences


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
