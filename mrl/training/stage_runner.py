"""The epochs of one stage: a batch, an update, and what is said and recorded of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from mrl.config import Config
from mrl.data.assemble import RunData
from mrl.data.augment import ramp
from mrl.errors import TrainingError
from mrl.models.encoder import SpeakerEncoder
from mrl.processes import Processes
from mrl.progress import ProgressReport
from mrl.training.criterion import Criterion
from mrl.training.gradient_flow import Flow
from mrl.training.live_weights import LiveWeights
from mrl.training.moving_average import recalibrate_batch_norm
from mrl.training.run_checkpoints import RunCheckpoints
from mrl.training.run_state import Best, RunState
from mrl.training.schedules import StagePlan, plateau_reductions
from mrl.training.stage_batches import make_batches
from mrl.training.tracking import Tracker
from mrl.training.updater import NonFiniteError, StepValues, Updater

_REMEMBERED = 3  # batches whose files are known when the numbers of an update are read, late on a GPU


class _Heard(NamedTuple):
    """Which utterances an update learns from."""

    run_step: int
    utterances: torch.Tensor  # int64 [B], on the CPU
    replaced: list[str]


class Speed(NamedTuple):
    """Of the epoch so far, over all processes."""

    utterances_per_second: float
    wait_share: float  # of the time, spent waiting for data


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
        self._config = config
        self._plan = plan
        self._corpus = data.train
        self._checkpoints = checkpoints
        self._tracker = tracker
        self._processes = processes
        self._set_masks(0)
        first_epoch = state.epoch - state.stage_epoch + 1
        made = make_batches(config, plan, encoder, criterion, data, tracker, processes, first_epoch)
        self._batches = made.source
        self._note_unreadable(made.replaced, state)
        self._updater = Updater(
            encoder,
            criterion,
            plan,
            config.runtime,
            config.seed,
            from_pooled=stage.cache_views > 0,
            processes=processes,
        )
        self._recent: deque[_Heard] = deque(maxlen=_REMEMBERED)

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

            def inputs() -> Iterator[torch.Tensor]:
                for batch in self._batches:
                    bar.advance(1)
                    yield batch.inputs

            recalibrate_batch_norm(self._encoder, network, inputs(), self._plan.stage)

    def run_epoch(self, state: RunState, best: Best) -> None:
        """One pass over the training corpus. Raises TrainingError where the run must stop."""
        plan = self._plan
        title = f"{plan.stage.name} epoch {state.stage_epoch + 1}/{plan.stage.epochs}"
        self._batches.set_epoch(state.epoch + 1)
        self._set_masks(state.stage_epoch)
        for dim, first in sorted(plan.stage.prefix_start.items()):
            if first == state.stage_epoch + 1:
                self._tracker.say(f"prefix {dim} joins the loss, which rises by its part")
        reductions = plateau_reductions(_eers_of_stage(state, plan), plan.stage.plateau_patience)
        try:
            with self._tracker.progress(title, plan.steps_per_epoch) as bar:
                self._steps(state, reductions, bar)
        except NonFiniteError as error:
            raise self._with_evidence(error, state, best) from None

    def _steps(self, state: RunState, reductions: int, bar: ProgressReport) -> None:
        plan = self._plan
        waited, started = 0.0, time.perf_counter()
        asked = started
        for index, batch in enumerate(self._batches):
            waited += time.perf_counter() - asked
            self._recent.append(_Heard(state.step, batch.utterances, batch.replaced))
            known = self._updater.update(
                batch,
                stage_step=state.stage_epoch * plan.steps_per_epoch + index,
                run_step=state.step,
                plateau_reductions=reductions,
                measure_flow=self._is_due(state.step, self._config.logging.gradient_flow_every_steps),
            )
            self.weights.updated()
            state.step += 1
            ended = index == plan.steps_per_epoch - 1
            if ended:
                known += self._updater.finish()
            elapsed = time.perf_counter() - started
            size = self._processes.world_size * len(batch.inputs)
            speed = Speed((index + 1) * size / elapsed, waited / elapsed)
            for values in known:
                is_last = ended and values.run_step + 1 == state.step
                self._report(values, state, speed, bar, is_last=is_last)
            asked = time.perf_counter()

    def _report(
        self, values: StepValues, state: RunState, speed: Speed, bar: ProgressReport, *, is_last: bool
    ) -> None:
        """Say and record what is known of an update."""
        if values.replaced:
            own = next(heard.replaced for heard in self._recent if heard.run_step == values.run_step)
            everybody = self._processes.gather(own)
            self._note_unreadable([message for messages in everybody for message in messages], state)
        done = values.run_step + 1
        if is_last or self._is_due(done, self._config.logging.every_steps):
            self._record(values, state, speed)
        if values.flow is not None:
            self._report_flow(values.flow, done, state)
        bar.advance(
            1,
            loss=f"{values.loss:.3f}",
            margin=f"{values.settings.margins[-1]:.2g}",
            speed=f"{speed.utterances_per_second:.0f} utt/s",
        )

    @staticmethod
    def _is_due(step: int, every: int | None) -> bool:
        return every is not None and step % every == 0

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

    def _record(self, values: StepValues, state: RunState, speed: Speed) -> None:
        per_prefix = zip(self._plan.dims, values.loss_per_prefix, strict=True)
        record: dict[str, float | str] = {
            "train/loss": values.loss,
            **{f"train/loss_{dim}": loss for dim, loss in per_prefix},
            **{f"train/learning_rate_{part}": value for part, value in values.rates.items()},
            "train/margin": values.settings.margins[-1],
            "train/teacher_loss": values.teacher_loss,
            "train/gradient_norm": values.gradient_norm,
            "train/utterances_per_second": speed.utterances_per_second,
            "train/data_wait_share": speed.wait_share,
            "train/skipped": float(values.skipped),
            "epoch": state.epoch + 1,
            "stage": self._plan.stage.name,
        }
        self._tracker.step(values.run_step + 1, record)

    def _report_flow(self, flow: Flow, step: int, state: RunState) -> None:
        self._tracker.step(step, {**flow.metrics, "epoch": state.epoch + 1, "stage": self._plan.stage.name})
        for message in flow.messages:
            self._tracker.say(f"step {step}: {message}")

    def _note_unreadable(self, messages: Sequence[str], state: RunState) -> None:
        """Name each file that had to be replaced, once; stop when they are too many."""
        for message in messages:
            path = message.partition(": ")[0]  # the reason may differ from crop to crop
            if path not in state.unreadable:
                state.unreadable[path] = message
                self._tracker.say(f"replaced: {message}")
        allowed = self._config.data.max_unreadable_share
        if len(state.unreadable) > allowed * len(self._corpus):
            last = list(state.unreadable.values())[-1]
            raise TrainingError(
                f"{len(state.unreadable)} of {len(self._corpus)} training utterances could not be read, more "
                f"than data.max_unreadable_share ({allowed:g}) allows; the last one: {last}"
            )

    def _with_evidence(self, error: NonFiniteError, state: RunState, best: Best) -> TrainingError:
        """The error with the step, the batch's files and a saved state to look at."""
        heard = next(heard for heard in self._recent if heard.run_step == error.run_step)
        own = [self._corpus.relative_path(int(item)) for item in heard.utterances]
        files = [file for files in self._processes.gather(own) for file in files]
        state.step = error.run_step  # on a GPU another update has begun since, and changed nothing
        path = self._config.logging.directory / "non_finite.pt"
        extra = {"files": files, "error": str(error)}
        listing = path.with_suffix(".txt")
        try:
            self._checkpoints.save_evidence(
                path, self.weights.export(), state, best, self.state_dict(), extra
            )
            if self._processes.is_first:
                listing.write_text("\n".join(files) + "\n", encoding="utf-8")
        except (OSError, RuntimeError) as failure:
            self._tracker.say(
                f"{path}: the state could not be saved ({failure}); the files: {', '.join(files)}"
            )
        return TrainingError(
            f"step {state.step + 1}: {error}; the weights were not changed. The batch's {len(files)} "
            f"files ({files[0]}, ...) are listed in {listing}, the state to look at is in {path}"
        )


def _eers_of_stage(state: RunState, plan: StagePlan) -> list[float]:
    """Mean EER at each validation of the stage so far."""
    return [record["mean_eer"] for record in state.history if record["stage"] == plan.stage.name]
