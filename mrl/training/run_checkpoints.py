"""The content of a run's checkpoints, and what becomes of its folder when a run starts or resumes."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import torch

from mrl.atomic import write_atomically
from mrl.config import Config
from mrl.config_file import config_to_dict
from mrl.data.assemble import RunData
from mrl.errors import CheckpointError
from mrl.models.checkpoint_format import FORMAT, VERSION, read_checkpoint, stage_file
from mrl.models.encoder import SpeakerEncoder
from mrl.training.checkpoint import CheckpointFolder, link_file
from mrl.training.live_weights import copied
from mrl.training.run_state import Best, RunState, Weights
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
        self._run_id = run_id or secrets.token_hex(8)
        # Of the whole run, and made once: fingerprints read every path and trial.
        self._description = {
            "format": FORMAT,
            "version": VERSION,
            "config": config_to_dict(config),
            "model_config": encoder.model_config,
            "dims": list(encoder.dims),
            "speakers": list(data.train.speakers),
            "corpus": data.train.fingerprint(),
            "lists": {trials.name: trials.fingerprint() for trials in data.validation},
            "run_id": self._run_id,
            "teacher": None if teacher is None else _content_of(teacher),
        }
        self._best_is_written = True
        self._folder = CheckpointFolder(config.checkpoints)

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

        A best.pt that could not be written is written with a later epoch, from the best weights.
        """
        if not self._is_writer:
            return
        try:
            self._folder.save(
                self._content(weights, state, best, stage_state), epoch=state.epoch, is_best=is_best
            )
            if is_best:
                self._best_is_written = True
            elif not self._best_is_written:
                self._write_best_weights(best)
        except (CheckpointError, OSError, RuntimeError) as error:
            self._best_is_written = self._best_is_written and not is_best
            self._tracker.say(str(error))

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
        """At the end of a run: CheckpointError where best.pt cannot be written even now."""
        if self._best_is_written:
            return
        try:
            self._write_best_weights(best)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"{self._folder.best}: the best weights could not be written ({error})"
            ) from error

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

    def set_earlier_run_aside(self) -> None:
        """A fresh run overwrites no checkpoint: those that are there move to a folder of their own."""
        if not self._is_writer:
            return
        if (earlier := self._folder.set_aside()) is not None:
            self._tracker.say(f"checkpoints of an earlier run are kept in {earlier}")

    def ensure_best_file(self, best: Best, state: RunState, source: Path) -> None:
        """On resuming from ``source``: make best.pt the best epoch that the resumed run knows of.

        What another run, or another course of this one, has left in the folder is set aside.

        If neither the run's folder nor that of ``source`` has it, it is written from the weights that every
        checkpoint carries along, without what is needed to resume from it.
        """
        if not self._is_writer:
            return
        wanted = (self._run_id, best.epoch)
        if _place_of(self._folder.best) != wanted:
            staged = self._folder.directory / "resumed_best.pt"
            for candidate in (source, source.parent / "best.pt"):
                if _place_of(candidate) == wanted:
                    link_file(candidate, staged)
                    break
            self._set_aside("best.pt")
            if staged.exists():
                staged.replace(self._folder.best)
            else:
                self._write_best_weights(best)
        later = self._folder.names_after(state.epoch)
        if source.resolve() != self._folder.last.resolve():
            later.append("last.pt")
        self._set_aside(*later)

    def _set_aside(self, *names: str) -> None:
        if names and (earlier := self._folder.set_aside(*names)) is not None:
            self._tracker.say(f"checkpoints of another course of the run are kept in {earlier}")

    def _content(
        self, weights: Weights, state: RunState, best: Best, stage_state: dict[str, Any] | None
    ) -> dict[str, Any]:
        is_best = best.epoch == state.epoch
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


def _place_of(path: Path) -> tuple[str, int] | None:
    """The run and epoch of a checkpoint that a run can go on from; none for anything else."""
    try:
        content = read_checkpoint(path)
        return content["run_id"], content["state"]["epoch"]
    except (CheckpointError, KeyError):
        return None
