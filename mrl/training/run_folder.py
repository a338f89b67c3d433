"""The files of a run in its log folder: kept under numbers by the next run, cut back by a resumed one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mrl.atomic import write_atomically, write_text_atomically

METRICS, LOG, CONFIG, NON_FINITE = "metrics.jsonl", "training.log", "config.yaml", "non_finite.txt"


def make_folder(directory: Path) -> Path:
    """Create the folder, and those above it, where missing; returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def free_number(directory: Path, names: Sequence[str]) -> int:
    """The first number that none of ``names`` has yet."""
    number = 1
    while any((directory / numbered(name, number)).exists() for name in names):
        number += 1
    return number


def write_records_until(target: Path, earlier: Path, step: int, epoch: int | None = None) -> None:
    """Write those records of the metrics file ``earlier``, perhaps the same file, that are not beyond ``step``.

    All or nothing; broken lines are left out. An epoch that only averages weights ends with the same step as the one
    before: ``epoch`` tells them apart.
    """
    if not earlier.exists():
        return

    def write(temporary: Path) -> None:
        with earlier.open("rb") as old, temporary.open("wb") as new:
            new.writelines(line for line in old if _is_kept(line, step, epoch))

    write_atomically(target, write)


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


def records_until(metrics: Path, step: int, epoch: int | None = None) -> Iterator[dict[str, Any]]:
    """Those that `write_records_until` writes, in their order."""
    return (record for record in _records(metrics) if not _is_beyond(record, step, epoch))


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
        path.rename(directory / numbered(CONFIG, free_number(directory, [CONFIG])))
    write_text_atomically(path, text)


def numbered(name: str, number: int) -> str:
    """``metrics.3.jsonl`` for ``metrics.jsonl`` and 3."""
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
    return record is not None and not _is_beyond(record, step, epoch)


def _is_beyond(record: dict[str, Any], step: int, epoch: int | None) -> bool:
    is_later = epoch is not None and record["kind"] == "epoch" and record["epoch"] > epoch
    return record["step"] > step or is_later
