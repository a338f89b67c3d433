"""Records of a short run, and what is drawn of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from mrl.evaluation.run_history import RunHistory, read_history

DIMS = (64, 128, 192, 256)
Entry = dict[str, Any]


def epoch(number: int, stage: str, eer: float, *, best: bool = False, **more: Any) -> Entry:
    """An epoch whose EER is ``eer`` at 256 numbers, twice that at 192, and so on."""
    eers = {f"eer/vox1-o/{dim}": eer * factor for dim, factor in zip(DIMS, (4, 3, 2, 1), strict=True)}
    return {
        "kind": "epoch",
        "step": 10 * number,
        "epoch": number,
        **eers,
        "stage": stage,
        "is_best": best,
        **more,
    }


def step(number: int, stage: str, loss: float | None) -> Entry:
    parts = {f"train/loss_{dim}": None if loss is None else loss / 4 for dim in DIMS}
    return {"kind": "step", "step": number, "epoch": 1, "train/loss": loss, **parts, "stage": stage}


def flow(number: int, stage: str, **gradients: float | None) -> Entry:
    """The gradients of a step, by block."""
    blocks = {f"gradient/{block}": value for block, value in gradients.items()}
    return {"kind": "step", "step": number, "epoch": 1, **blocks, "stage": stage}


def held_out(number: int, stage: str, loss: float, **more: Any) -> Entry:
    """An epoch with held-out losses of ``loss`` times 1 at 64 numbers, 2 at 256; half of that in training."""
    values: Entry = {}
    for factor, dim in enumerate((64, 256), start=1):
        values |= {f"held_out/loss_{dim}": factor * loss, f"held_out/accuracy_{dim}": 0.25}
        values |= {f"train_sample/loss_{dim}": factor * loss / 2, f"train_sample/accuracy_{dim}": 0.75}
    return epoch(number, stage, 0.01, **values, **{"held_out/gap": 0.75 * loss}, **more)


RUN = [
    epoch(0, "pretrained", 0.010, best=True, **{"pretrained/eer": 0.009}),
    *(step(number, "head", 8.0 - number / 10) for number in (10, 20)),
    epoch(1, "head", 0.009, best=True),
    epoch(2, "head", 0.0095),
    *(step(number, "full", 4.0) for number in (30, 40, 50)),
    epoch(3, "full", 0.007, best=True),
    epoch(4, "full", 0.008),
]


def write(path: Path, entries: Sequence[Entry], tail: str = "") -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail)


def history(folder: Path, entries: Sequence[Entry] = RUN) -> RunHistory:
    """``entries``, written to ``folder`` and read back."""
    write(folder / "metrics.jsonl", entries)
    return read_history(folder / "metrics.jsonl")


def lines(axis: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Labelled lines: their x and y."""
    named = [line for line in axis.get_lines() if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in named}


def diamonds(axis: Axes) -> list[tuple[float, float]]:
    """Where the means of epochs are marked, (epoch, value)."""
    marks = [line for line in axis.get_lines() if line.get_marker() == "D"]
    return [point for line in marks for point in zip(line.get_xdata(), line.get_ydata(), strict=True)]
