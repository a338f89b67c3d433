"""Whose records a log folder holds: those of one run, or one course of it, are never mixed with another's.

A run takes another course where it is resumed with another configuration or other data. ``run.json`` names the course
of the files beside it, ``run.3.json`` that of those with the number 3.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mrl.atomic import write_text_atomically
from mrl.training.run_folder import (
    CONFIG,
    LOG,
    METRICS,
    NON_FINITE,
    NOTHING_YET,
    Reached,
    last_recorded,
    numbered,
    set_aside,
    tensorboard_folder,
)

RUN = "run.json"
_FILES = (METRICS, LOG, CONFIG, NON_FINITE, RUN)  # the last one says whose the others are


@dataclass(frozen=True)
class Resumption:
    """The point that a run goes on from: ``step`` updates and ``epoch`` epochs are done."""

    step: int
    epoch: int | None = None
    left: str = ""
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


def begin(directory: Path, course: str) -> Records:
    """For a run that begins: what is in the folder is set aside. Raises OSError where that cannot be done."""
    kept = set_aside(directory, *_FILES)
    return Records(course, tensorboard_folder(directory, is_new=True), tuple(kept))


def take_up(directory: Path, course: str, left: str) -> Records:
    """For a run that goes on with ``course``, perhaps another one than it ``left``.

    Files of other courses are set aside; those of ``course`` are brought back where they had been. Raises OSError where
    that cannot be done.
    """
    found, kept = _read(directory / RUN), []
    if found is None and (directory / METRICS).exists():  # its run.json could not be written
        found = _Found(course, tensorboard_folder(directory, is_new=False).name, NOTHING_YET)
    elif found is None or found.course != course:
        kept = set_aside(directory, *_FILES)
        found = _brought_back(directory, course)
    if found is None:
        earlier = _branched_off(directory, left)
        return Records(course, tensorboard_folder(directory, is_new=True), tuple(kept), earlier)
    recorded = last_recorded(directory / METRICS)
    reached = Reached(*map(max, zip(recorded, found.reached, strict=True)))
    tensorboard = directory / "tensorboard" / found.tensorboard
    return Records(course, tensorboard, tuple(kept), directory / METRICS, True, reached)


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _number_of(directory: Path, course: str) -> int | None:
    """The latest number of the files of ``course`` that were set aside."""
    numbers = [
        int(match[1])
        for path in directory.glob("run.*.json")
        if (match := re.fullmatch(r"run\.(\d+)\.json", path.name))
        and (found := _read(path)) is not None
        and found.course == course
    ]
    return max(numbers, default=None)


def _branched_off(directory: Path, course: str) -> Path | None:
    """The metrics of ``course``, which were set aside, while a copy of its log goes on; None where there are none."""
    number = _number_of(directory, course)
    if number is None:
        return None
    log = directory / numbered(LOG, number)
    if log.exists():
        shutil.copyfile(log, directory / LOG)
    return directory / numbered(METRICS, number)


def _brought_back(directory: Path, course: str) -> _Found | None:
    """The files of ``course`` under their plain names again; None where there are none."""
    number = _number_of(directory, course)
    if number is None:
        return None
    for name in _FILES:
        if (directory / numbered(name, number)).exists():
            (directory / numbered(name, number)).rename(directory / name)
    return _read(directory / RUN)
