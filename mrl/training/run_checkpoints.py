"""The content of a run's checkpoints, and what becomes of its folder when a run starts or resumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mrl.atomic import write_atomically
from mrl.config import Config
from mrl.config_file import config_to_dict
from mrl.errors import CheckpointError
from mrl.loss import SlicedMarginClassifier
from mrl.models.checkpoint_format import FORMAT, VERSION, read_checkpoint
from mrl.models.encoder import SpeakerEncoder
from mrl.training.checkpoint import CheckpointFolder, link_file
from mrl.training.run_state import Best, RunState, Weights
from mrl.training.tracking import Tracker


class RunCheckpoints:
    """Writes what ``encoder`` and ``classifier`` hold, with everything that a run needs to go on."""

    def __init__(
        self,
        config: Config,
        encoder: SpeakerEncoder,
        classifier: SlicedMarginClassifier,
        speakers: Sequence[str],
        tracker: Tracker,
    ) -> None:
        self._config = config
        self._modules = {"encoder": encoder, "classifier": classifier}
        self._encoder = encoder
        self._speakers = list(speakers)
        self._tracker = tracker
        self._folder = CheckpointFolder(config.checkpoints)

    def weights(self) -> Weights:
        """A copy of the weights, on the CPU."""
        return {
            name: {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
            for name, module in self._modules.items()
        }

    def load_weights(self, weights: Weights) -> None:
        for name, module in self._modules.items():
            module.load_state_dict(weights[name])

    def save(self, state: RunState, best: Best, *, optimizer: dict[str, Any] | None, is_best: bool) -> None:
        """Write the files of an epoch. If that fails it is said, and training goes on with the older files."""
        try:
            self._folder.save(self._content(state, best, optimizer), epoch=state.epoch, is_best=is_best)
        except CheckpointError as error:
            self._tracker.say(str(error))

    def save_evidence(
        self, path: Path, state: RunState, best: Best, optimizer: dict[str, Any], extra: dict[str, Any]
    ) -> None:
        """Write the state of a run that must stop, with ``extra`` facts, to ``path``."""
        content = {**self._content(state, best, optimizer), **extra}
        write_atomically(path, lambda temporary: torch.save(content, temporary))

    def set_earlier_run_aside(self) -> None:
        """A fresh run overwrites no checkpoint: those that are there move to a folder of their own."""
        if (earlier := self._folder.set_aside()) is not None:
            self._tracker.say(f"checkpoints of an earlier run are kept in {earlier}")

    def ensure_best_file(self, best: Best, source: Path) -> None:
        """On resuming from ``source``: make best.pt the best epoch that the resumed run knows of.

        If neither the run's folder nor that of ``source`` has it, it is written from the weights that every
        checkpoint carries along, without what is needed to resume from it.
        """
        if _epoch_of(self._folder.best) == best.epoch:
            return
        if (earlier := self._folder.set_aside("best.pt")) is not None:
            self._tracker.say(f"the best.pt of another course of the run is kept in {earlier}")
        beside = source.parent / "best.pt"
        if _epoch_of(source) == best.epoch:
            link_file(source, self._folder.best)
        elif _epoch_of(beside) == best.epoch:
            link_file(beside, self._folder.best)
        else:
            content = {**self._description(), **best.weights}
            write_atomically(self._folder.best, lambda path: torch.save(content, path))

    def _description(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "config": config_to_dict(self._config),
            "model_config": self._encoder.model_config,
            "dims": list(self._encoder.dims),
            "speakers": self._speakers,
        }

    def _content(self, state: RunState, best: Best, optimizer: dict[str, Any] | None) -> dict[str, Any]:
        is_best = best.epoch == state.epoch
        return {
            **self._description(),
            **self.weights(),
            "optimizer": optimizer,
            "state": state.to_dict(),
            "best": {
                "rank": list(best.rank),
                "epoch": best.epoch,
                "stage": best.stage,
                "weights": None if is_best else best.weights,
            },
            "wandb_run_id": self._tracker.wandb_run_id,
        }


def _epoch_of(path: Path) -> int | None:
    """The epoch of a checkpoint that a run can go on from; none for anything else."""
    try:
        return int(read_checkpoint(path)["state"]["epoch"])
    except (CheckpointError, KeyError):
        return None
