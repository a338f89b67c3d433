"""The epochs of one stage: batches from the loader, augmented on the device, one update each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from mrl.audio import SAMPLE_RATE
from mrl.config import Config
from mrl.data.assemble import RunData
from mrl.data.augment import Augmenter, ramp
from mrl.data.epoch_batches import EpochBatches
from mrl.data.loading import Batch, CropDataset, make_loader
from mrl.data.sampling import stage_sampling
from mrl.errors import TrainingError
from mrl.models.encoder import SpeakerEncoder
from mrl.training.criterion import Criterion
from mrl.training.gradient_flow import Flow
from mrl.training.live_weights import LiveWeights
from mrl.training.moving_average import recalibrate_batch_norm
from mrl.training.run_checkpoints import RunCheckpoints
from mrl.training.run_state import Best, RunState
from mrl.training.schedules import StagePlan, plateau_reductions
from mrl.training.tracking import Tracker
from mrl.training.updater import NonFiniteError, StepValues, Updater


class StageRunner:
    """Data, augmentation and optimizer of the stage of ``plan``, from the weights that the modules have.

    Args:
        first_epoch: the run's number of the stage's first epoch.

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
        first_epoch: int,
    ) -> None:
        stage, seed, corpus = plan.stage, config.seed, data.train
        self.weights = LiveWeights(config, stage, encoder, criterion)
        self._updater = Updater(encoder, criterion, plan, config.runtime, seed)
        self._encoder = encoder
        self._config = config
        self._plan = plan
        self._corpus = corpus
        self._checkpoints = checkpoints
        self._tracker = tracker
        self._dims = plan.dims
        self._device = encoder.head.linear.weight.device
        self._augmenter = Augmenter(stage.augmentation, seed=seed, banks=data.banks, first_epoch=first_epoch)
        num_samples = round(stage.crop_seconds * SAMPLE_RATE)
        self._batches = EpochBatches(stage_sampling(config, stage, corpus), stage.batch_size)
        self._loader = make_loader(
            CropDataset(corpus, self._augmenter.source_samples(num_samples), seed),
            self._batches,
            config.data.workers,
            pin_memory=self._device.type == "cuda",
            augmenter=self._augmenter,
        )

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
        with self._tracker.progress("BatchNorm statistics", self._plan.steps_per_epoch) as bar:

            def waveforms() -> Iterator[Tensor]:
                for batch in self._loader:
                    assert batch.plan is not None
                    bar.advance(1)
                    yield self._augmenter.apply(batch.waveforms.to(self._device), batch.plan)

            recalibrate_batch_norm(self._encoder, waveforms(), self._plan.stage)

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
        waited, started = 0.0, time.perf_counter()
        with self._tracker.progress(title, plan.steps_per_epoch) as bar:
            asked = started
            for index, batch in enumerate(self._loader):
                waited += time.perf_counter() - asked
                self._note_unreadable(batch, state)
                values = self._update(batch, index, state, best, reductions)
                state.step += 1
                elapsed = time.perf_counter() - started
                rate = (index + 1) * len(batch.speakers) / elapsed
                is_last = index == plan.steps_per_epoch - 1
                if is_last or state.step % self._config.logging.every_steps == 0:
                    self._record(values, state, rate, waited / elapsed)
                if values.flow is not None:
                    self._report_flow(values.flow, state)
                bar.advance(
                    1,
                    loss=f"{values.loss:.3f}",
                    margin=f"{values.settings.margins[-1]:.2g}",
                    speed=f"{rate:.0f} utt/s",
                )
                asked = time.perf_counter()

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

    def _update(
        self, batch: Batch, index: int, state: RunState, best: Best, plateau_reductions: int
    ) -> StepValues:
        waveforms = batch.waveforms.to(self._device, non_blocking=True)
        speakers = batch.speakers.to(self._device, non_blocking=True)
        assert batch.plan is not None
        waveforms = self._augmenter.apply(waveforms, batch.plan)
        stage_step = state.stage_epoch * self._plan.steps_per_epoch + index
        every = self._config.logging.gradient_flow_every_steps
        try:
            values = self._updater.update(
                waveforms,
                batch.plan.targets(speakers, len(self._corpus.speakers)),
                stage_step=stage_step,
                run_step=state.step,
                plateau_reductions=plateau_reductions,
                measure_flow=every is not None and state.step % every == 0,
            )
        except NonFiniteError as error:
            raise self._with_evidence(error, batch, state, best) from None
        if not values.skipped:
            self.weights.updated()
        return values

    def _record(self, values: StepValues, state: RunState, rate: float, wait_share: float) -> None:
        per_prefix = zip(self._dims, values.loss_per_prefix, strict=True)
        record: dict[str, float | str] = {
            "train/loss": values.loss,
            **{f"train/loss_{dim}": loss for dim, loss in per_prefix},
            **{f"train/learning_rate_{part}": value for part, value in values.rates.items()},
            "train/margin": values.settings.margins[-1],
            "train/teacher_loss": values.teacher_loss,
            "train/gradient_norm": values.gradient_norm,
            "train/utterances_per_second": rate,
            "train/data_wait_share": wait_share,
            "train/skipped": float(values.skipped),
            "epoch": state.epoch + 1,
            "stage": self._plan.stage.name,
        }
        self._tracker.step(state.step, record)

    def _report_flow(self, flow: Flow, state: RunState) -> None:
        self._tracker.step(
            state.step, {**flow.metrics, "epoch": state.epoch + 1, "stage": self._plan.stage.name}
        )
        for message in flow.messages:
            self._tracker.say(f"step {state.step}: {message}")

    def _note_unreadable(self, batch: Batch, state: RunState) -> None:
        """Name each file that had to be replaced, once; stop when they are too many."""
        for message in batch.replaced:
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

    def _with_evidence(
        self, error: NonFiniteError, batch: Batch, state: RunState, best: Best
    ) -> TrainingError:
        """The error with the step, the batch's files and a saved state to look at."""
        files = [self._corpus.relative_path(int(item)) for item in batch.utterances]
        path = self._config.logging.directory / "non_finite.pt"
        extra = {"files": files, "error": str(error)}
        listing = path.with_suffix(".txt")
        try:
            self._checkpoints.save_evidence(
                path, self.weights.export(), state, best, self.state_dict(), extra
            )
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
