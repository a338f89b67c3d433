"""The checkpoint folder of a run that begins, or goes on from a checkpoint: nothing that is there is lost."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mrl.config import CheckpointConfig
from mrl.errors import CheckpointError
from mrl.models.checkpoint_format import read_checkpoint
from mrl.training.checkpoint import CheckpointFolder, link_file
from mrl.training.run_state import Best, RunState

Say = Callable[[str], None]


class Standing(NamedTuple):
    """A run, and where it stands."""

    run_id: str
    best: Best
    state: RunState


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
    if is_last and run.state.epoch_step == 0:  # the run may have been killed before it had all its names
        folder.give_names(run.state.epoch, is_best=run.best.epoch == run.state.epoch)
    staged, staged_best = (folder.directory / f".resumed_{name}.pt.tmp" for name in ("last", "best"))
    if not is_last:
        link_file(source, staged)
    place_of = cache(_place_of)  # each file is read once
    best_file = _file_of_best(folder, run, source, place_of)
    if best_file is not None and best_file != folder.best:
        link_file(best_file, staged_best)
    others = _others(folder, run, source, place_of, is_last=is_last)
    if others and (kept := folder.set_aside(*others, leaving_last=True)) is not None:
        say(f"checkpoints of another course of the run, or of another run, are kept in {kept}")
    if not is_last:
        staged.replace(folder.last)
    if best_file is None:
        write_best()
    elif best_file != folder.best:
        staged_best.replace(folder.best)


def _file_of_best(folder: CheckpointFolder, run: Standing, source: Path, place_of: PlaceOf) -> Path | None:
    """The checkpoint of the best epoch: the folder's own best.pt, ``source``, or its neighbour."""
    for candidate in (folder.best, source, source.parent / "best.pt"):
        if place_of(candidate) == _Place(run.run_id, run.best.epoch, 0):
            return candidate
    return None


def _others(
    folder: CheckpointFolder, run: Standing, source: Path, place_of: PlaceOf, *, is_last: bool
) -> list[str]:
    """Names of the files that are no part of ``run`` as it stands."""
    present = folder.present()
    places = (place_of(path) for path in present if path.name in ("last.pt", "best.pt") or path == present[0])
    found = None if is_last else next((place for place in places if place is not None), None)
    if found is not None and found.run_id != run.run_id:
        others = present
    else:
        others = folder.numbered_after(run.state.epoch)
        if not is_last:
            others += [folder.last, folder.previous]
        best = place_of(folder.best)
        if best is None or best.epoch > run.best.epoch:
            others.append(folder.best)
    return [path.name for path in others if path == folder.last or not _is_same(path, source)]


def _is_same(path: Path, source: Path) -> bool:
    return path.exists() and path.samefile(source)


class _Place(NamedTuple):
    """Where a checkpoint stands."""

    run_id: str
    epoch: int
    epoch_step: int


PlaceOf = Callable[[Path], _Place | None]


def _place_of(path: Path) -> _Place | None:
    """That of a checkpoint that a run can go on from; none for anything else."""
    try:
        content = read_checkpoint(path)
        state = content["state"]
        return _Place(content["run_id"], state["epoch"], state.get("epoch_step", 0))
    except (CheckpointError, KeyError, TypeError, AttributeError):
        return None
