"""The files of a run in its log folder: kept under numbers by the next run, cut back by a resumed one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mrl.atomic import write_atomically, write_text_atomically

METRICS, LOG, CONFIG, NON_FINITE = "metrics.jsonl", "training.log", "config.yaml", "non_finite.txt"
REACHED = "reached.json"


def make_folder(directory: Path) -> Path:
    """Create the folder, and those above it, where missing; returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def set_aside(directory: Path, *names: str) -> list[str]:
    """Rename those of ``names`` that exist, all with the first number that none of them has yet.

    Returns the new names: ``metrics.jsonl`` becomes ``metrics.1.jsonl``.
    """
    present = [name for name in names if (directory / name).exists()]
    number = 1
    while any((directory / _numbered(name, number)).exists() for name in names):
        number += 1
    for name in present:
        (directory / name).rename(directory / _numbered(name, number))
    return [_numbered(name, number) for name in present]


def drop_records_after(metrics: Path, step: int, epoch: int | None = None) -> None:
    """Rewrite a metrics file, all or nothing, without records beyond ``step`` and without broken lines.

    An epoch that only averages weights ends with the same step as the one before: ``epoch`` tells them apart.
    """
    if not metrics.exists():
        return

    def write(temporary: Path) -> None:
        with metrics.open("rb") as old, temporary.open("wb") as new:
            new.writelines(line for line in old if _is_kept(line, step, epoch))

    write_atomically(metrics, write)


class Reached(NamedTuple):
    """The last step and epoch of which there is a record."""

    step: int
    epoch: int


NOTHING_YET = Reached(-1, -1)


def last_recorded(metrics: Path) -> Reached:
    """How far a metrics file goes; broken lines do not count."""
    step, epoch = NOTHING_YET
    for record in _records(metrics):
        if record["kind"] == "epoch":
            epoch = max(epoch, record["epoch"])
        else:
            step = max(step, record["step"])
    return Reached(step, epoch)


def reached_by(directory: Path) -> Reached:
    """How far the run in ``directory`` was ever recorded, also what was dropped since; it is remembered there.

    Raises OSError where that cannot be written.
    """
    known = last_recorded(directory / METRICS)
    try:
        step, epoch = json.loads((directory / REACHED).read_text(encoding="utf-8"))
        known = Reached(max(known.step, int(step)), max(known.epoch, int(epoch)))
    except (OSError, ValueError, TypeError):
        pass  # of a run that was not cut off before
    write_text_atomically(directory / REACHED, json.dumps(known))
    return known


def records_at(metrics: Path, step: int) -> list[dict[str, Any]]:
    """The records of one step, of both kinds, in their order."""
    return [record for record in _records(metrics) if record["step"] == step]


def _records(metrics: Path) -> Iterator[dict[str, Any]]:
    if not metrics.exists():
        return
    with metrics.open("rb") as lines:
        for line in lines:
            if (record := _parsed(line)) is not None:
                yield record


def write_config(directory: Path, run_config: dict[str, Any]) -> None:
    """Write ``config.yaml``; one with other content (of a resumed run) is kept under a numbered name."""
    text = yaml.safe_dump(run_config, sort_keys=False, allow_unicode=True)
    path = directory / CONFIG
    if path.exists() and path.read_text(encoding="utf-8") != text:
        set_aside(directory, CONFIG)
    write_text_atomically(path, text)


def tensorboard_folder(directory: Path, *, resumed: bool) -> Path:
    """``tensorboard/run-<n>``: the last one for a resumed run, a new one otherwise."""
    parent = directory / "tensorboard"
    numbers = [
        int(match[1]) for path in parent.glob("run-*") if (match := re.fullmatch(r"run-(\d+)", path.name))
    ]
    last = max(numbers, default=0)
    return parent / f"run-{max(1, last) if resumed else last + 1}"


def _numbered(name: str, number: int) -> str:
    path = Path(name)
    return f"{path.stem}.{number}{path.suffix}"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record of a whole line."""
    try:
        record = json.loads(line)
        is_whole = line.endswith(b"\n") and isinstance(record["step"], int)
        if record["kind"] == "epoch":
            is_whole = is_whole and isinstance(record["epoch"], int)
        return record if is_whole else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_kept(line: bytes, step: int, epoch: int | None) -> bool:
    record = _parsed(line)
    if record is None:
        return False
    is_later = epoch is not None and record["kind"] == "epoch" and record["epoch"] > epoch
    return record["step"] <= step and not is_later
