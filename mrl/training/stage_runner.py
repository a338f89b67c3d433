"""The epochs of one stage: batches from the loader, augmented on the device, one update each."""

from __future__ import annotations

import time

from mrl.audio import SAMPLE_RATE
from mrl.config import Config
from mrl.data.assemble import RunData
from mrl.data.augment import Augmenter
from mrl.data.loading import Batch, CropDataset, EpochBatches, make_loader
from mrl.errors import TrainingError
from mrl.loss import SlicedLoss, Targets
from mrl.models.encoder import SpeakerEncoder
from mrl.training.run_checkpoints import RunCheckpoints
from mrl.training.run_state import Best, RunState
from mrl.training.schedules import StagePlan
from mrl.training.tracking import Tracker
from mrl.training.updater import NonFiniteError, StepValues, Updater


class StageRunner:
    """Data, augmentation and optimizer of the stage of ``plan``, which ``encoder`` and ``classifier`` have entered."""

    def __init__(
        self,
        config: Config,
        plan: StagePlan,
        encoder: SpeakerEncoder,
        classifier: SlicedLoss,
        data: RunData,
        checkpoints: RunCheckpoints,
        tracker: Tracker,
    ) -> None:
        stage, seed, corpus = plan.stage, config.seed, data.train
        self.updater = Updater(encoder, classifier, plan, config.runtime, seed)
        self._config = config
        self._plan = plan
        self._corpus = corpus
        self._checkpoints = checkpoints
        self._tracker = tracker
        self._dims = classifier.dims
        self._device = encoder.head.linear.weight.device
        self._augmenter = Augmenter(
            stage.augmentation, seed=seed, noise=data.noise, rooms=data.rooms, sample_rate=SAMPLE_RATE
        )
        self._batches = EpochBatches(len(corpus), stage.batch_size, seed)
        self._loader = make_loader(
            CropDataset(corpus, round(stage.crop_seconds * SAMPLE_RATE), seed),
            self._batches,
            config.data.workers,
            pin_memory=self._device.type == "cuda",
            augmenter=self._augmenter,
        )

    def run_epoch(self, state: RunState, best: Best) -> None:
        """One pass over the training corpus. Raises TrainingError where the run must stop."""
        plan = self._plan
        title = f"{plan.stage.name} epoch {state.stage_epoch + 1}/{plan.stage.epochs}"
        self._batches.set_epoch(state.epoch + 1)
        waited, started = 0.0, time.perf_counter()
        with self._tracker.progress(title, plan.steps_per_epoch) as bar:
            asked = started
            for index, batch in enumerate(self._loader):
                waited += time.perf_counter() - asked
                self._note_unreadable(batch, state)
                values = self._update(batch, index, state, best)
                state.step += 1
                elapsed = time.perf_counter() - started
                rate = (index + 1) * len(batch.speakers) / elapsed
                is_last = index == plan.steps_per_epoch - 1
                if is_last or state.step % self._config.logging.every_steps == 0:
                    self._record(values, state, rate, waited / elapsed)
                bar.advance(1, loss=f"{values.loss:.3f}", speed=f"{rate:.0f} utt/s")
                asked = time.perf_counter()

    def _update(self, batch: Batch, index: int, state: RunState, best: Best) -> StepValues:
        waveforms = batch.waveforms.to(self._device, non_blocking=True)
        speakers = batch.speakers.to(self._device, non_blocking=True)
        assert batch.plan is not None
        waveforms = self._augmenter.apply(waveforms, batch.plan)
        stage_step = state.stage_epoch * self._plan.steps_per_epoch + index
        try:
            return self.updater.update(
                waveforms, Targets(speakers), stage_step=stage_step, run_step=state.step
            )
        except NonFiniteError as error:
            raise self._with_evidence(error, batch, state, best) from None

    def _record(self, values: StepValues, state: RunState, rate: float, wait_share: float) -> None:
        per_prefix = zip(self._dims, values.loss_per_prefix, strict=True)
        record: dict[str, float | str] = {
            "train/loss": values.loss,
            **{f"train/loss_{dim}": loss for dim, loss in per_prefix},
            **{f"train/learning_rate_{part}": value for part, value in values.rates.items()},
            "train/margin": values.settings.margins[-1],
            "train/gradient_norm": values.gradient_norm,
            "train/utterances_per_second": rate,
            "train/data_wait_share": wait_share,
            "train/skipped": float(values.skipped),
            "epoch": state.epoch + 1,
            "stage": self._plan.stage.name,
        }
        self._tracker.step(state.step, record)

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
            self._checkpoints.save_evidence(path, state, best, self.updater.state_dict(), extra)
            listing.write_text("\n".join(files) + "\n", encoding="utf-8")
        except (OSError, RuntimeError) as failure:
            self._tracker.say(
                f"{path}: the state could not be saved ({failure}); the files: {', '.join(files)}"
            )
        return TrainingError(
            f"step {state.step + 1}: {error}; the weights were not changed. The batch's {len(files)} "
            f"files ({files[0]}, ...) are listed in {listing}, the state before the step is in {path}"
        )
