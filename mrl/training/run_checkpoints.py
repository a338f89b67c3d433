"""The content of a run's checkpoints, and what becomes of its folder when a run starts or resumes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mrl.atomic import write_atomically
from mrl.config import WARM_START, Config
from mrl.config_file import config_to_dict
from mrl.data.assemble import RunData
from mrl.errors import CheckpointError
from mrl.models.checkpoint_format import FORMAT, VERSION, stage_file
from mrl.models.encoder import SpeakerEncoder
from mrl.training.checkpoint import CheckpointFolder
from mrl.training.epoch_report import count
from mrl.training.finite_weights import require_finite
from mrl.training.live_weights import copied
from mrl.training.run_state import Best, RunState, Weights
from mrl.training.taking_up import Standing, take_up
from mrl.training.tracking import Tracker


class RunCheckpoints:
    """Writes weights with everything that a run needs to go on.

    ``teacher`` is what the stages' teacher terms compare with; it goes into each checkpoint too. Of several
    processes one is the writer; in the others nothing here does anything.
    """

    def __init__(
        self,
        config: Config,
        encoder: SpeakerEncoder,
        teacher: SpeakerEncoder | None,
        data: RunData,
        tracker: Tracker,
        run_id: str | None = None,
        *,
        is_writer: bool = True,
    ) -> None:
        self._tracker = tracker
        self._is_writer = is_writer
        self._run_id = run_id or tracker.course
        # Of the whole run, and made once: fingerprints read every path and trial.
        self._description = {
            "format": FORMAT,
            "version": VERSION,
            "config": config_to_dict(config),
            "model_config": encoder.model_config,
            "dims": list(encoder.dims),
            "speakers": list(data.train.speakers),
            "corpus": data.train.fingerprint(),
            "num_utterances": len(data.train),
            "lists": {trials.name: trials.fingerprint() for trials in data.validation},
            "run_id": self._run_id,
            "courses": tracker.courses,
            "teacher": None if teacher is None else _content_of(teacher),
        }
        self._stages = [stage.name for stage in config.stages]
        self._best_is_written = True
        self._folder = CheckpointFolder(config.checkpoints)
        self._saved: str | None = None  # how far the run is in last.pt
        self._minutes = config.checkpoints.every_minutes
        self._tried = time.monotonic()

    def save(
        self,
        weights: Weights,
        state: RunState,
        best: Best,
        *,
        stage_state: dict[str, Any] | None,
        is_best: bool,
    ) -> None:
        """Write the files of an epoch. If that fails it is said, and training goes on with the older files.

        ``weights`` are those that were scored; ``stage_state`` is what a stage needs to go on with them, None
        between two stages.

        A best.pt that could not be written, or was deleted, is written with a later epoch, from the best weights.
        Raises WeightsError for ``weights`` that are not finite.
        """
        require_finite(weights)
        if not self._is_writer:
            return
        self._best_is_written = self._best_is_written and not is_best
        with self._trying(state):
            content = self._content(weights, state, best, stage_state)
            self._folder.save(content, epoch=state.epoch, is_best=is_best)
            if is_best:
                self._best_is_written = True
            elif not self._has_best_file():
                self._write_best_weights(best)

    def save_within(self, weights: Weights, state: RunState, best: Best, stage_state: dict[str, Any]) -> None:
        """Write last.pt after an update within an epoch. Arguments, errors and failures as in :meth:`save`."""
        require_finite(weights)
        if self._is_writer:
            with self._trying(state):
                content = self._content(weights, state, best, stage_state)
                self._folder.save_within(content, epoch=state.epoch + 1)

    @contextmanager
    def _trying(self, state: RunState) -> Iterator[None]:
        """Save the run at ``state`` within the block."""
        self._tried = time.monotonic()  # even if it fails: a full disk is not asked again at each step
        try:
            yield
            self._saved = progress_words(state)
        except (CheckpointError, OSError, RuntimeError) as error:
            self._tracker.say(str(error))

    @property
    def is_due(self) -> bool:
        """Whether so much time has gone by that last.pt is to be written within an epoch; asked of the writer."""
        minutes = self._minutes
        return self._is_writer and minutes is not None and time.monotonic() - self._tried >= 60 * minutes

    def keep_stage(self, name: str, best: Best) -> None:
        """Write the encoder that a stage ended with, or the warm start, for evaluate.py to compare; no run resumes
        from it. If that fails it is said, and training goes on."""
        if not self._is_writer:
            return
        content = {**self._description, "encoder": best.weights["encoder"], "epoch": best.epoch}
        path = self._folder.directory / stage_file(name)
        try:
            write_atomically(path, lambda temporary: torch.save(content, temporary))
        except (OSError, RuntimeError) as error:
            self._tracker.say(f"{path}: could not be written ({error}); evaluate.py will not know this stage")

    def require_best_file(self, best: Best) -> None:
        """At the end of a run: best.pt, written again where it was deleted; CheckpointError where that fails."""
        if not self._is_writer or self._has_best_file():
            return
        try:
            self._write_best_weights(best)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"{self._folder.best}: the best weights could not be written ({error})"
            ) from error

    def _has_best_file(self) -> bool:
        """Whether best.pt holds the best weights; a file that somebody has deleted meanwhile is said."""
        if not self._best_is_written:
            return False
        if not (is_there := self._folder.best.is_file()):
            self._tracker.say(f"{self._folder.best} is gone; it is written again, with the best weights")
        return is_there

    def _write_best_weights(self, best: Best) -> None:
        """best.pt without what is needed to resume from it."""
        content = {**self._description, **best.weights}
        write_atomically(self._folder.best, lambda path: torch.save(content, path))
        self._best_is_written = True

    def save_evidence(
        self,
        path: Path,
        weights: Weights,
        state: RunState,
        best: Best,
        stage_state: dict[str, Any],
        extra: dict[str, Any],
    ) -> None:
        """Write the state of a run that must stop, with ``extra`` facts, to ``path``."""
        if not self._is_writer:
            return
        content = {**self._content(weights, state, best, stage_state), **extra}
        write_atomically(path, lambda temporary: torch.save(content, temporary))

    def go_on_from(self, best: Best, state: RunState, source: Path, courses: Sequence[str]) -> None:
        """On resuming from ``source``, to which ``courses`` led: make the folder that of the run as it stands there.

        See :func:`mrl.training.taking_up.take_up`. Raises CheckpointError where files cannot be written.
        """
        if self._is_writer:
            over = (WARM_START, *self._stages[: state.stage])
            run = Standing(self._run_id, tuple(courses), best, state, tuple(map(stage_file, over)))
            try:
                take_up(self._folder, run, source, lambda: self._write_best_weights(best), self._tracker.say)
            except (OSError, RuntimeError) as error:
                raise CheckpointError(
                    f"{self._folder.directory}: the run cannot go on here from {source} ({error}); nothing is lost"
                ) from error
            self._saved = progress_words(state)

    def saved_words(self) -> str | None:
        """How far the run is in last.pt; None where it is not there, and in processes that do not write."""
        return self._saved and f"{self._saved}, in {self._folder.last}"

    def _content(
        self, weights: Weights, state: RunState, best: Best, stage_state: dict[str, Any] | None
    ) -> dict[str, Any]:
        is_best = best.epoch == state.epoch and state.epoch_step == 0
        return {
            **self._description,
            **weights,
            "stage_state": stage_state,
            "state": state.to_dict(),
            "best": {
                "rank": list(best.rank),
                "epoch": best.epoch,
                "stage": best.stage,
                "weights": None if is_best else best.weights,
            },
            "wandb_run_id": self._tracker.wandb_run_id,
        }


def _content_of(teacher: SpeakerEncoder) -> dict[str, Any]:
    """What `encoder_from_checkpoint` makes it from again."""
    return {
        "model_config": teacher.model_config,
        "dims": list(teacher.dims),
        "encoder": copied(teacher.state_dict()),
    }


def progress_words(state: RunState) -> str:
    """How far a run is: ``2 epochs and 1 step``."""
    within = f" and {count(state.epoch_step, 'step')}" if state.epoch_step else ""
    return f"{count(state.epoch, 'epoch')}{within}"
