"""The checkpoint folder of a run that begins, or goes on from a checkpoint: nothing that is there is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrl.atomic import link_file
from mrl.config import WARM_START, CheckpointConfig
from mrl.errors import CheckpointError
from mrl.models.checkpoint_format import read_checkpoint, stage_file
from mrl.training.checkpoint import CheckpointFolder
from mrl.training.courses import courses_of
from mrl.training.run_state import Best, RunState

Say = Callable[[str], None]


class Standing(NamedTuple):
    """A run, and where it stands."""

    run_id: str
    courses: tuple[str, ...]
    """Those that led there."""
    best: Best
    state: RunState
    stage_files: tuple[str, ...]
    """Names of those of the warm start and of the stages that are over."""


def set_earlier_run_aside(config: CheckpointConfig, say: Say) -> None:
    """A fresh run overwrites no checkpoint: those that are there move to a folder of their own."""
    folder = CheckpointFolder(config)
    folder.sweep()
    if (earlier := folder.set_aside()) is not None:
        say(f"checkpoints of an earlier run are kept in {earlier}")


def take_up(
    folder: CheckpointFolder, run: Standing, source: Path, write_best: Callable[[], None], say: Say
) -> None:
    """Make ``folder`` that of ``run``, which goes on from ``source``: with ``source`` as last.pt.

    best.pt becomes the best epoch that the run knows of. If neither the folder nor that of ``source`` has it,
    ``write_best`` makes it of the weights that every checkpoint carries along. What another run, or another course of
    this one, has left is set aside. At each moment there is a last.pt, the old one or the new.
    """
    folder.sweep()
    is_last = folder.last.is_file() and source.samefile(folder.last)
    look = cache(partial(_look, run=run))  # each file is read once
    others = _others(folder, run, source, look, is_last=is_last)
    staged, staged_best = (folder.directory / f".resumed_{name}.pt.tmp" for name in ("last", "best"))
    if not is_last:
        link_file(source, staged)
    best_file = _file_of_best(folder, run, source, look)
    has_best = best_file == folder.best and folder.best.name not in others
    if best_file is not None and not has_best:
        link_file(best_file, staged_best)
    if others and (kept := folder.set_aside(*others, leaving_last=True)) is not None:
        say(f"checkpoints of another course of the run, or of another run, are kept in {kept}")
    for name in run.stage_files:
        file = source.parent / name
        if not (folder.directory / name).exists() and (found := look(file)) and found.belongs:
            link_file(file, folder.directory / name)
    if not is_last:
        staged.replace(folder.last)
    if best_file is None:
        write_best()
    elif not has_best:
        staged_best.replace(folder.best)
    if is_last and run.state.epoch_step == 0:  # the run may have been killed before it had all its names
        folder.give_names(run.state.epoch, is_best=run.best.epoch == run.state.epoch)


def _file_of_best(folder: CheckpointFolder, run: Standing, source: Path, look: Look) -> Path | None:
    """A file with the best weights: the folder's own best.pt, ``source``, or its neighbour."""
    for candidate in (folder.best, source, source.parent / "best.pt"):
        if (found := look(candidate)) is not None and found.belongs and found.is_best:
            return candidate
    return None


def _others(folder: CheckpointFolder, run: Standing, source: Path, look: Look, *, is_last: bool) -> list[str]:
    """Names of the files that are no part of ``run`` as it stands."""
    others = set(folder.numbered_after(run.state.epoch))
    best = look(folder.best)
    if best is None or not best.belongs or not (best.is_best or best.epoch <= run.best.epoch):
        others |= {folder.best, *folder.decisions()}
    if not is_last:
        others |= {folder.last, folder.previous}
        for path in folder.numbered_and_stages():
            is_later_stage = path.match("stage_*.pt") and path.name not in run.stage_files
            if is_later_stage or (found := look(path)) is None or not found.belongs:
                others.add(path)
    return sorted(path.name for path in others if path == folder.last or not _is_same(path, source))


def _is_same(path: Path, source: Path) -> bool:
    return path.exists() and path.samefile(source)


class _Found(NamedTuple):
    """What a file of weights is to the run that goes on: of its courses, with its best weights, of which epoch."""

    belongs: bool
    is_best: bool
    epoch: int


Look = Callable[[Path], _Found | None]


def _look(path: Path, run: Standing) -> _Found | None:
    """None for a file that is no checkpoint of a run, or cannot be read."""
    try:
        content = read_checkpoint(path)
        is_warm_start = path.name == stage_file(WARM_START)  # all courses of a run have one
        is_on_the_way = is_warm_start or courses_of(content)[-1] in run.courses
        belongs = content["run_id"] == run.run_id and is_on_the_way
        is_best = all(_are_same(content.get(part), weights) for part, weights in run.best.weights.items())
        return _Found(belongs, is_best, content.get("state", {}).get("epoch", 0))
    except (CheckpointError, KeyError, AttributeError, TypeError):
        return None


def _are_same(saved: Any, weights: Mapping[str, Tensor]) -> bool:
    if not isinstance(saved, Mapping) or saved.keys() != weights.keys():
        return False
    return all(
        saved[name].dtype == weight.dtype and torch.equal(saved[name], weight)
        for name, weight in weights.items()
    )
