"""What is kept of an update or an epoch whose numbers are not finite: the files of the batch, and the run's state.

``non_finite.txt`` in the log folder lists the files, ``non_finite.pt`` beside it is a state to look at, from which no
run goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mrl.data.corpus import Corpus
from mrl.errors import MRLError, TrainingError
from mrl.processes import Processes
from mrl.training.finite_weights import WeightsError, require_finite
from mrl.training.run_folder import NON_FINITE
from mrl.training.run_state import RunState, Weights
from mrl.training.step_module import StepBatch
from mrl.training.step_values import NonFiniteError

_REMEMBERED = 3  # batches whose files are known when the numbers of an update are read, late on a GPU
MOST_LISTED = 100
"""Batches in a listing: some megabytes at most."""

WriteState = Callable[[Path, dict[str, Any]], None]
"""Writes the state of the run, with extra facts, to a file."""


class Heard(NamedTuple):
    """Which utterances an update learns from."""

    run_step: int
    utterances: Tensor  # int64 [B], on the CPU
    replaced: list[str]


class Evidence:
    """Remembers the files of the last updates.

    Args:
        corpus: that the batches are from.
        directory: where evidence is written.
        processes: all of them make the same calls.
        say: tells the user.
    """

    def __init__(
        self, corpus: Corpus, directory: Path, processes: Processes, say: Callable[[str], None]
    ) -> None:
        self._corpus = corpus
        self._state_file = directory / "non_finite.pt"
        self._listing = directory / NON_FINITE
        self._processes = processes
        self._say = say
        self._recent: deque[Heard] = deque(maxlen=_REMEMBERED)

    def remember(self, run_step: int, batch: StepBatch) -> None:
        """``batch`` is what the update ``run_step`` learns from."""
        self._recent.append(Heard(run_step, batch.utterances, batch.replaced))

    def heard(self, run_step: int) -> Heard:
        """What a recent update learnt from, in this process."""
        return next(heard for heard in self._recent if heard.run_step == run_step)

    def skipped(self, run_step: int, fault: str) -> None:
        """List the files of an update that was left out, and say so."""
        files = self._files(run_step)
        listed = self._list(f"step {run_step + 1}, skipped: {fault}", files)
        self._say(f"step {run_step + 1}: skipped, {fault}; the batch's {len(files)} files {listed}")

    def of_update(
        self, error: NonFiniteError, state: RunState, weights: Weights, write: WriteState
    ) -> TrainingError:
        """The ``error`` with the step and its files, which are listed; ``write`` writes the state from before it.

        ``weights`` are the live ones: where they are not finite, an earlier update is at fault.
        """
        files = self._files(error.run_step)
        # On a GPU another update has begun since, and changed nothing.
        state.epoch_step -= state.step - error.run_step
        state.step = error.run_step
        listed = self._list(f"step {error.run_step + 1}, stopped: {error}", files)
        kept = self._keep(write, {"files": files, "error": str(error)})
        blame = "the weights were not changed"
        try:
            require_finite(weights)
        except WeightsError as broken:
            blame = f"since an earlier update, {broken}"
        return TrainingError(
            f"step {error.run_step + 1}: {error}; {blame}. The batch's {len(files)} files ({files[0]}, ...) "
            f"{listed}, {kept}"
        )

    def of_epoch(self, error: MRLError, state: RunState, write: WriteState) -> TrainingError:
        """The ``error``, met after the last update, with the epoch and where the state is."""
        kept = self._keep(write, {"files": [], "error": str(error)})
        return TrainingError(
            f"epoch {state.epoch + 1}, after step {state.step}: {error}; best.pt is as it was, {kept}"
        )

    def _files(self, run_step: int) -> list[str]:
        own = [self._corpus.relative_path(int(item)) for item in self.heard(run_step).utterances]
        return [file for files in self._processes.gather(own) for file in files]

    def _list(self, title: str, files: Sequence[str]) -> str:
        """Append ``files`` to the listing; says where they are."""
        if not self._processes.is_first:
            return ""
        try:
            number = 0
            if self._listing.exists():
                with self._listing.open(encoding="utf-8", errors="replace") as lines:
                    number = sum(line.startswith("# ") for line in lines)
            if number >= MOST_LISTED:
                return f"are not listed: {self._listing} is full"
            with self._listing.open("a", encoding="utf-8", errors="backslashreplace") as listing:
                listing.write("\n".join([f"# {title}", *files]) + "\n")
        except OSError as failure:
            return f"could not be listed ({failure})"
        return f"are listed in {self._listing}"

    def _keep(self, write: WriteState, extra: dict[str, Any]) -> str:
        """Write the state; says where it is."""
        try:
            write(self._state_file, extra)
        except (OSError, RuntimeError) as failure:
            return f"and the state could not be saved ({failure})"
        return f"the state to look at is in {self._state_file}"
