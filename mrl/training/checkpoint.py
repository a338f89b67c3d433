"""Checkpoints: plain data, written whole or not at all.

A checkpoint is one file with everything that a run needs to go on: the resolved configuration, the backbone's
architecture, the weights, optimizer and scaler states, the place in the run, the history of scores, and the best
weights so far. ``best.pt``, ``last.pt``, ``previous.pt`` and ``epoch_NNN.pt`` have the same layout, so a run resumes
from any of them.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mrl.atomic import link_file, write_atomically
from mrl.config import CheckpointConfig
from mrl.errors import CheckpointError

_PATTERNS = (
    "last.pt",
    "best.pt",
    "previous.pt",
    "epoch_*.pt",
    "stage_*.pt",
    "*.decisions.json",
    "*.cohort.npz",
)


class CheckpointFolder:
    """The files of one run: ``last.pt`` each epoch and within long ones, ``previous.pt``, which was last.pt before,
    ``best.pt``, and every so many epochs ``epoch_NNN.pt``."""

    def __init__(self, config: CheckpointConfig) -> None:
        self.directory = config.directory
        self._every_epochs = config.every_epochs
        self._keep_last = config.keep_last

    @property
    def best(self) -> Path:
        return self.directory / "best.pt"

    @property
    def last(self) -> Path:
        return self.directory / "last.pt"

    @property
    def previous(self) -> Path:
        return self.directory / "previous.pt"

    def save(self, state: dict[str, Any], *, epoch: int, is_best: bool) -> None:
        """Write ``state``, of the end of ``epoch``, as last.pt and give it its further names.

        Raises CheckpointError where that fails; the old files stay.
        """
        with self._explained(f"the checkpoint of epoch {epoch}"):
            self._write_last(state)
            self.give_names(epoch, is_best=is_best)

    def save_within(self, state: dict[str, Any], *, epoch: int) -> None:
        """Write ``state``, from within ``epoch``, as last.pt. Errors as in :meth:`save`."""
        with self._explained(f"a checkpoint within epoch {epoch}"):
            self._write_last(state)

    def give_names(self, epoch: int, *, is_best: bool) -> None:
        """The further names of last.pt, which is that of the end of ``epoch``; those that it has stay."""
        if is_best:
            link_file(self.last, self.best)
        if epoch and epoch % self._every_epochs == 0:
            link_file(self.last, self.directory / f"epoch_{epoch:03d}.pt")
            self._drop_old()

    def _write_last(self, state: dict[str, Any]) -> None:
        def write(temporary: Path) -> None:
            torch.save(state, temporary)
            # Now that the new one is whole: they are two different files, whenever this is cut short.
            if self.last.exists():
                link_file(self.last, self.previous)

        write_atomically(self.last, write)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, pickle.PicklingError) as error:
            raise CheckpointError(
                f"{self.directory}: {what} could not be written ({error}); the files written before are intact"
            ) from error

    def sweep(self) -> None:
        """Delete what a killed run was writing, under temporary names."""
        for path in self.directory.glob(".*.pt*.tmp"):
            path.unlink(missing_ok=True)

    def present(self) -> list[Path]:
        """All files of a run that are there, last.pt first."""
        return [path for pattern in _PATTERNS for path in sorted(self.directory.glob(pattern))]

    def set_aside(self, *names: str, leaving_last: bool = False) -> Path | None:
        """Move those of ``names`` (default: all files of a run) that exist to a numbered folder; returns it.

        With ``leaving_last`` last.pt is there too, and stays until another file takes its place.
        """
        chosen = [self.directory / name for name in names] or self.present()
        present = [path for path in chosen if path.exists()]
        if not present:
            return None
        number = 1
        while (folder := self.directory / f"earlier_{number}").exists():
            number += 1
        folder.mkdir()
        for path in present:
            if leaving_last and path == self.last and path.is_file():
                link_file(path, folder / path.name)
            else:
                path.replace(folder / path.name)
        return folder

    def numbered_after(self, epoch: int) -> list[Path]:
        """The numbered checkpoints of later epochs."""
        return [path for number, path in self._numbered() if number > epoch]

    def numbered_and_stages(self) -> list[Path]:
        """The numbered checkpoints, and those that stages ended with."""
        return [path for path in self.present() if path.match("epoch_*.pt") or path.match("stage_*.pt")]

    def decisions(self) -> list[Path]:
        """What evaluate.py has decided with best.pt."""
        return [path for path in self.present() if path.suffix != ".pt"]

    def _drop_old(self) -> None:
        for _, old in self._numbered()[: -self._keep_last]:
            old.unlink(missing_ok=True)

    def _numbered(self) -> list[tuple[int, Path]]:
        """epoch_NNN.pt by NNN, ascending."""
        numbered = ((path.stem.removeprefix("epoch_"), path) for path in self.directory.glob("epoch_*.pt"))
        return sorted((int(number), path) for number, path in numbered if number.isdecimal())
