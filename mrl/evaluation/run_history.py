"""The metrics of a run, read back from ``metrics.jsonl``: its records by step and by epoch.

Step records hold ``train/loss`` and ``train/loss_<dim>``, or ``gradient/<block>``; epoch records
``eer/<list>/<dim>`` (shares) and ``is_best``, some of them ``average_of`` or ``held_out/...``; both the name of
their ``stage``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Record = dict[str, Any]
FloatArray = np.ndarray[tuple[int], np.dtype[np.float64]]

_EER_KEY = re.compile(r"eer/(?P<list>.+)/(?P<dim>\d+)")
_LOSS_KEY = re.compile(r"train/loss_(?P<dim>\d+)")
_HELD_OUT_KEY = re.compile(r"held_out/loss_(?P<dim>\d+)")
_GRADIENT_KEY = re.compile(r"gradient/(?P<block>.+)")
_STAGE_BLOCK = re.compile(r"stage(\d+)")
_LAST_BLOCKS = ("pooling", "head", "classifier")


@dataclass(frozen=True)
class RunHistory:
    """The records of a run, ascending by step and by epoch."""

    steps: list[Record]
    epochs: list[Record]

    @property
    def loss_dims(self) -> list[int]:
        """Prefix sizes with a training loss, ascending."""
        return sorted({int(match["dim"]) for match in _matches(_LOSS_KEY, self.steps)})

    @property
    def held_out_dims(self) -> list[int]:
        """Prefix sizes with a loss on held-out utterances, ascending."""
        return sorted({int(match["dim"]) for match in _matches(_HELD_OUT_KEY, self.epochs)})

    @property
    def blocks(self) -> list[str]:
        """Blocks of the network with a gradient, from the input to the classifier."""
        return sorted({match["block"] for match in _matches(_GRADIENT_KEY, self.steps)}, key=_depth)

    @property
    def lists(self) -> list[str]:
        """Trial lists, in the order of their first appearance."""
        return list(dict.fromkeys(match["list"] for match in _matches(_EER_KEY, self.epochs)))

    @property
    def dims(self) -> list[int]:
        """Prefix sizes with an EER, ascending."""
        return sorted({int(match["dim"]) for match in _matches(_EER_KEY, self.epochs)})

    def pretrained_eer(self, trial_list: str) -> float | None:
        """Full-size EER of the pretrained model on one list (a share): ``pretrained/eer/<list>``.

        ``pretrained/eer`` is the mean over the lists, so it serves where there is one list alone.
        """
        keys = [f"pretrained/eer/{trial_list}", *(["pretrained/eer"] if len(self.lists) == 1 else [])]
        return next((record[key] for key in keys for record in self.epochs if is_value(record, key)), None)


def read_history(metrics_path: Path) -> RunHistory:
    """Read ``metrics.jsonl``; a missing file is an empty history, a half-written line is skipped.

    What stands twice for a step or epoch counts as it stands last. A step may have several records, of its loss
    and of its gradients; they are one here.
    """
    steps: dict[int, Record] = {}
    epochs: dict[int, Record] = {}
    text = metrics_path.read_text(encoding="utf-8", errors="replace") if metrics_path.exists() else ""
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["kind"] == "step":
            steps.setdefault(record["step"], {}).update(record)
        else:
            epochs[record["epoch"]] = record
    return RunHistory(
        steps=[steps[step] for step in sorted(steps)], epochs=[epochs[epoch] for epoch in sorted(epochs)]
    )


def runs_of_stages(records: Sequence[Record]) -> list[list[Record]]:
    """The records, cut where the stage changes."""
    runs: list[list[Record]] = []
    for record in records:
        if not runs or runs[-1][-1].get("stage") != record.get("stage"):
            runs.append([])
        runs[-1].append(record)
    return runs


def series(records: Sequence[Record], position: str, key: str) -> tuple[FloatArray, FloatArray]:
    """Positions (``step`` or ``epoch``) and values of ``key``, in the records that hold a number for it."""
    present = [record for record in records if is_value(record, key)]
    return (
        np.array([record[position] for record in present], dtype=np.float64),
        np.array([record[key] for record in present], dtype=np.float64),
    )


def is_value(record: Record, key: str) -> bool:
    """Whether the record holds a number under ``key`` (NaN is stored as null)."""
    value = record.get(key)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _depth(block: str) -> tuple[int, int, str]:
    """Sorts the stem first, then the stages by number, what ends the network last."""
    if stage := _STAGE_BLOCK.fullmatch(block):
        return 1, int(stage[1]), block
    if block in _LAST_BLOCKS:
        return 2, _LAST_BLOCKS.index(block), block
    return 0, 0, block


def _matches(pattern: re.Pattern[str], records: Sequence[Record]) -> list[re.Match[str]]:
    keys = dict.fromkeys(key for record in records for key in record if is_value(record, key))
    return [match for key in keys if (match := pattern.fullmatch(key))]
