"""Whose records a log folder holds: those of one run, or one course of it, are never mixed with another's.

A run takes another course where it is resumed with another configuration or other data. ``run.json`` names the course
of the files beside it, ``run.3.json`` that of those with the number 3.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mrl.atomic import link_file, write_text_atomically
from mrl.training.run_folder import (
    CONFIG,
    LOG,
    METRICS,
    NON_FINITE,
    NOTHING_YET,
    Reached,
    free_number,
    last_recorded,
    numbered,
)

RUN = "run.json"
_FILES = (METRICS, LOG, CONFIG, NON_FINITE, RUN)


@dataclass(frozen=True)
class Resumption:
    """The point that a run goes on from: ``step`` updates and ``epoch`` epochs are done."""

    step: int
    epoch: int | None
    left: str
    """The course of the checkpoint; the run may take another one from here."""
    wandb_run_id: str | None = None


@dataclass(frozen=True)
class Records:
    """What a log folder has of a course, when the run begins or goes on."""

    course: str
    tensorboard: Path
    kept: tuple[str, ...] = ()
    """The names under which files of another course were set aside."""
    earlier: Path | None = None
    """A metrics file that holds, among others, the records up to the point that the run goes on from."""
    is_continued: bool = False
    """Whether ``earlier`` is the course's own."""
    reached: Reached = NOTHING_YET
    """How far the course was ever recorded, also what is to be recorded anew."""


def courses_of(content: Mapping[str, Any]) -> list[str]:
    """Those that led to a run's checkpoint, its own last. The first course of a run has the name of the run."""
    return list(content.get("courses") or [content["run_id"]])


def new_name() -> str:
    """Of a run and its first course; no other has it."""
    return secrets.token_hex(8)


def branch(left: str, *what: object) -> str:
    """The name of the course that leaves another one for ``what`` reasons: the same for the same."""
    return hashlib.sha256(json.dumps([left, *what], sort_keys=True, default=str).encode()).hexdigest()[:16]


def begin(directory: Path, course: str) -> Records:
    """For a run that begins: what is in the folder is set aside. Raises OSError where that cannot be done."""
    _finish_move(directory)
    kept = _set_aside(directory)
    return Records(course, _new_tensorboard(directory), tuple(kept))


def take_up(directory: Path, course: str, left: str) -> Records:
    """For a run that goes on with ``course``, perhaps another one than it ``left``.

    Files of other courses are set aside; those of ``course`` are brought back where they had been. Raises OSError where
    that cannot be done.
    """
    _finish_move(directory)
    found, kept = _read(directory / RUN), []
    is_unnamed = found is None and (directory / METRICS).exists()
    if is_unnamed and _number_of(directory, left) is None:  # its run.json was lost, or could not be written
        found = _Found(
            left, _tensorboard(directory, max(_numbers_taken(directory), default=1)).name, NOTHING_YET
        )
        remember(directory, Records(left, directory / found.tensorboard))
    if found is None or found.course != course:
        kept = _set_aside(directory)
        number = _number_of(directory, course)
        if number is not None:
            _bring_back(directory, number)
        found = _read(directory / RUN)
    if found is None:
        earlier = _branched_off(directory, left)
        return Records(course, _new_tensorboard(directory), tuple(kept), earlier)
    metrics, tensorboard = directory / METRICS, directory / "tensorboard" / found.tensorboard
    if not metrics.exists():  # which alone says what there is a record of
        return Records(course, tensorboard, tuple(kept))
    reached = Reached(*map(max, zip(last_recorded(metrics), found.reached, strict=True)))
    return Records(course, tensorboard, tuple(kept), metrics, True, reached)


def unused_number(directory: Path) -> int:
    """One that no file of a course has."""
    return free_number(directory, _FILES)


def remember(directory: Path, records: Records) -> None:
    """Write ``run.json``. Raises OSError where that cannot be done."""
    content = {
        "course": records.course,
        "tensorboard": records.tensorboard.name,
        "reached": records.reached,
    }
    write_text_atomically(directory / RUN, json.dumps(content) + "\n")


class _Found(NamedTuple):
    course: str
    tensorboard: str
    reached: Reached


def _read(path: Path) -> _Found | None:
    """The content of a ``run.json``; None where there is none, or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        step, epoch = map(int, content["reached"])
        tensorboard = re.fullmatch(r"run-\d+", content["tensorboard"])
        return tensorboard and _Found(str(content["course"]), tensorboard[0], Reached(step, epoch))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _numbered_runs(directory: Path) -> dict[int, _Found]:
    """Those whose files were set aside, by their numbers."""
    names = ((path, re.fullmatch(r"run\.(\d+)\.json", path.name)) for path in directory.glob("run.*.json"))
    found = {int(match[1]): _read(path) for path, match in names if match}
    return {number: run for number, run in found.items() if run is not None}


def _number_of(directory: Path, course: str) -> int | None:
    """The latest number of the files of ``course`` that were set aside."""
    numbers = [number for number, run in _numbered_runs(directory).items() if run.course == course]
    return max(numbers, default=None)


def _set_aside(directory: Path) -> list[str]:
    """All files of a course under numbered names, which are returned.

    Killed in between, it leaves both names of run.json; so does `_bring_back`.
    """
    number = unused_number(directory)
    kept = [numbered(name, number) for name in _FILES if (directory / name).exists()]
    if (directory / RUN).exists():
        link_file(directory / RUN, directory / numbered(RUN, number))
    for name in _FILES:
        if name != RUN and (directory / name).exists():
            (directory / name).rename(directory / numbered(name, number))
    (directory / RUN).unlink(missing_ok=True)
    return kept


def _bring_back(directory: Path, number: int) -> None:
    """The files with ``number`` under their plain names again."""
    link_file(directory / numbered(RUN, number), directory / RUN)
    for name in _FILES:
        path = directory / numbered(name, number)
        if name != RUN and path.exists() and not (directory / name).exists():
            path.rename(directory / name)
    (directory / numbered(RUN, number)).unlink()


def _finish_move(directory: Path) -> None:
    """Where a move was cut short, in either direction, bring all of it back."""
    found = _read(directory / RUN)
    number = None if found is None else _number_of(directory, found.course)
    if number is not None:
        _bring_back(directory, number)


def _branched_off(directory: Path, course: str) -> Path | None:
    """The metrics of ``course``, which were set aside, while a copy of its log goes on; None where there are none."""
    number = _number_of(directory, course)
    if number is None:
        return None
    try:
        shutil.copyfile(directory / numbered(LOG, number), directory / LOG)
    except OSError:  # no log, or no room: the whole one is there under its number
        with suppress(OSError):
            (directory / LOG).unlink()
    metrics = directory / numbered(METRICS, number)
    return metrics if metrics.exists() else None


def _tensorboard(directory: Path, number: int) -> Path:
    return directory / "tensorboard" / f"run-{number}"


def _new_tensorboard(directory: Path) -> Path:
    """``tensorboard/run-<n>``, which no course has or had."""
    return _tensorboard(directory, 1 + max(_numbers_taken(directory), default=0))


def _numbers_taken(directory: Path) -> list[int]:
    """Of folders for TensorBoard: those that are there, and those that courses without TensorBoard were given."""
    names = [path.name for path in (directory / "tensorboard").glob("run-*")]
    runs = [_read(directory / RUN), *_numbered_runs(directory).values()]
    names += [run.tensorboard for run in runs if run is not None]
    return [int(match[1]) for name in names if (match := re.fullmatch(r"run-(\d+)", name))]
