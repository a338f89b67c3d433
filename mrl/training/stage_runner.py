"""The epochs of one stage: a batch, an update, and what is said and recorded of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrl.config import Config
from mrl.data.assemble import RunData
from mrl.data.augment import ramp
from mrl.errors import MRLError, TrainingError
from mrl.models.encoder import SpeakerEncoder
from mrl.processes import Processes
from mrl.progress import ProgressReport
from mrl.stopping import Stopped, heeding, is_stop_requested, stopped
from mrl.training.criterion import Criterion
from mrl.training.evidence import Evidence
from mrl.training.finite_weights import WeightsError, require_finite
from mrl.training.live_weights import LiveWeights, weights_of
from mrl.training.moving_average import recalibrate_batch_norm
from mrl.training.out_of_memory import naming_memory, training_advice
from mrl.training.pace import Pace
from mrl.training.run_checkpoints import RunCheckpoints
from mrl.training.run_state import Best, RunState, Weights
from mrl.training.schedules import StagePlan, plateau_reductions
from mrl.training.stage_batches import make_batches
from mrl.training.step_module import StepBatch
from mrl.training.step_report import StepReport, is_due
from mrl.training.step_values import NonFiniteError, Requests, StepValues
from mrl.training.tracking import Tracker
from mrl.training.updater import Updater


class StageRunner:
    """Data and optimizer of the stage of ``plan``, from the weights that the modules have.

    Args:
        state: of the run, at the point where the stage goes on.

    Attributes:
        weights: of the stage, live and exported.
    """

    def __init__(
        self,
        config: Config,
        plan: StagePlan,
        encoder: SpeakerEncoder,
        criterion: Criterion,
        data: RunData,
        checkpoints: RunCheckpoints,
        tracker: Tracker,
        state: RunState,
        processes: Processes,
    ) -> None:
        stage = plan.stage
        self.weights = LiveWeights(config, stage, encoder, criterion)
        self._encoder = encoder
        self._criterion = criterion
        self._config = config
        self._plan = plan
        self._checkpoints = checkpoints
        self._tracker = tracker
        self._processes = processes
        self._set_masks(0)
        first_epoch = state.epoch - state.stage_epoch + 1
        made = make_batches(config, plan, encoder, criterion, data, tracker, processes, first_epoch)
        self._batches = made.source
        self._updater = Updater(
            encoder,
            criterion,
            plan,
            config.runtime,
            config.seed,
            from_pooled=stage.cache_views > 0,
            processes=processes,
        )
        self._evidence = Evidence(data.train, config.logging.directory, processes, tracker.say)
        self._report = StepReport(config, plan, len(data.train), self._evidence, tracker, processes)
        self._report.unreadable(made.replaced, state)

    def state_dict(self) -> dict[str, Any]:
        """What is needed besides the exported weights to go on with the stage."""
        return {**self._updater.state_dict(), **self.weights.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError, KeyError or RuntimeError where the state is that of another kind of stage."""
        self.weights.load_state_dict(state)
        self._updater.load_state_dict(state)

    def recalibrate_norms(self, state: RunState) -> None:
        """Estimate the BatchNorm statistics of what the stage trains anew, on the batches of one epoch."""
        self._batches.set_epoch(state.epoch + 1)
        network: nn.Module = self._encoder.head if self._plan.stage.cache_views else self._encoder
        with self._tracker.progress("BatchNorm statistics", self._plan.steps_per_epoch) as bar:
            advance = heeding(bar.advance)

            def inputs() -> Iterator[torch.Tensor]:
                for batch in self._batches:
                    advance(1)
                    yield batch.inputs

            recalibrate_batch_norm(self._encoder, network, inputs(), self._plan.stage)

    def run_epoch(self, state: RunState, best: Best) -> None:
        """One pass over the training corpus, or what is left of it after ``state.epoch_step`` updates.

        Saves in between where that is due. Raises TrainingError where the run must end, Stopped where it was asked
        to: ``state`` then stands after the last update.
        """
        plan = self._plan
        title = f"{plan.stage.name} epoch {state.stage_epoch + 1}/{plan.stage.epochs}"
        self._batches.set_epoch(state.epoch + 1, state.epoch_step)
        self._set_masks(state.stage_epoch)
        for dim, first in sorted(plan.stage.prefix_start.items()):
            if first == state.stage_epoch + 1 and state.epoch_step == 0:
                self._tracker.say(f"prefix {dim} joins the loss, which rises by its part")
        reductions = plateau_reductions(_eers_of_stage(state, plan), plan.stage.plateau_patience)
        device = self._encoder.head.linear.weight.device
        advice = training_advice(self._config, plan.stage, self._processes.world_size)
        try:
            with (
                self._tracker.progress(title, plan.steps_per_epoch, state.epoch_step) as bar,
                naming_memory(f"in training, {title}", device, advice),
            ):
                self._steps(state, best, reductions, bar)
        except NonFiniteError as error:
            live = weights_of(self._encoder, self._criterion)
            raise self._evidence.of_update(
                error, state, live, self._writer_of_evidence(state, best)
            ) from None

    def _steps(self, state: RunState, best: Best, reductions: int, bar: ProgressReport) -> None:
        pace = Pace(self._processes.world_size)

        def report(known: Sequence[StepValues]) -> None:
            for values in known:
                is_last = values.run_step + 1 == state.step and state.epoch_step == self._plan.steps_per_epoch
                self._report.update(values, state, pace.speed(), bar, is_last=is_last)

        try:
            for batch in pace.timed(self._batches):
                known = self._update(batch, state, reductions)
                report(known)
                agreed = self._agreed(known)
                if (
                    any(agreed) or state.epoch_step == self._plan.steps_per_epoch
                ):  # nothing may be pending then
                    rest = self._updater.finish()
                    report(rest)
                    agreed = self._agreed([*known, *rest])
                if agreed.stop:
                    raise stopped()
                if agreed.save:
                    self.save(state, best)
        except Stopped as stop:
            if not stop.is_sudden:  # for want of a batch: what a GPU was given before it is whole
                report(self._updater.finish())
            raise

    def _update(self, batch: StepBatch, state: RunState, reductions: int) -> list[StepValues]:
        """An update from ``batch``, and its count; returns what is known of it and of the one before."""
        plan = self._plan
        self._evidence.remember(state.step, batch)
        known = self._updater.update(
            batch,
            stage_step=state.stage_epoch * plan.steps_per_epoch + state.epoch_step,
            run_step=state.step,
            plateau_reductions=reductions,
            measure_flow=is_due(state.step, self._config.logging.gradient_flow_every_steps),
            requests=self._wishes(),
        )
        self.weights.updated(self._updater.applied)
        state.step += 1
        state.epoch_step += 1
        return known

    def _wishes(self) -> Requests:
        """Of this process, now."""
        return Requests(save=self._checkpoints.is_due, stop=is_stop_requested())

    def _agreed(self, known: Sequence[StepValues]) -> Requests:
        """What all processes do after these updates."""
        if self._processes.world_size == 1:
            return self._wishes()  # a step sooner than through the update
        wishes = [values.requests for values in known]
        return Requests(any(wish.save for wish in wishes), any(wish.stop for wish in wishes))

    def save(self, state: RunState, best: Best) -> None:
        """Write last.pt as of the last update."""
        self._checkpoints.save_within(self.export(state, best), state, best, self.state_dict())

    def export(self, state: RunState, best: Best) -> Weights:
        """The exported weights. Raises TrainingError, with evidence, where they are not finite."""
        weights = self.weights.export()
        try:
            require_finite(weights)
        except WeightsError as error:
            raise self.with_evidence(error, state, best) from None
        return weights

    def with_evidence(self, error: MRLError, state: RunState, best: Best) -> TrainingError:
        """An ``error`` that was met after the last update, with a saved state to look at."""
        return self._evidence.of_epoch(error, state, self._writer_of_evidence(state, best))

    def _writer_of_evidence(self, state: RunState, best: Best) -> Callable[[Path, dict[str, Any]], None]:
        def write(path: Path, extra: dict[str, Any]) -> None:
            self._checkpoints.save_evidence(
                path, self.weights.export(), state, best, self.state_dict(), extra
            )

        return write

    def _set_masks(self, stage_epoch: int) -> None:
        """SpecAugment as this epoch has it, in a frozen backbone too."""
        augmentation, trunk = self._plan.stage.augmentation, self._encoder.backbone
        trunk.mask.configure(
            augmentation.spec_probability * ramp(augmentation, stage_epoch),
            augmentation.spec_time_masks,
            trunk.frames_in(augmentation.spec_time_seconds),
            augmentation.spec_band_masks,
            augmentation.spec_bands,
        )
        trunk.mask.train()


def _eers_of_stage(state: RunState, plan: StagePlan) -> list[float]:
    """Mean EER at each validation of the stage so far."""
    return [record["mean_eer"] for record in state.history if record["stage"] == plan.stage.name]
