"""The run: epoch 0, then stage after stage, each from the best weights so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from mrl.atomic import write_atomically
from mrl.config import Config
from mrl.config_file import config_to_dict
from mrl.data.assemble import RunData
from mrl.data.audio import SAMPLE_RATE
from mrl.data.augment import Augmenter
from mrl.data.clips import ClipBank
from mrl.data.loading import Batch, CropDataset, EpochBatches, make_loader
from mrl.errors import CheckpointError, TrainingError
from mrl.evaluation.report import RESULT_COLUMNS, result_metrics, result_rows
from mrl.evaluation.verification import VerificationResult, verify
from mrl.loss import SlicedMarginClassifier
from mrl.models.checkpoint_format import FORMAT, VERSION
from mrl.models.encoder import SpeakerEncoder
from mrl.training.checkpoint import CheckpointFolder
from mrl.training.run_state import Best, RunState, Weights
from mrl.training.selection import full_size_eer, mean_eer, rank
from mrl.training.stages import StagePlan, enter_stage, plan_stages
from mrl.training.tracking import Tracker
from mrl.training.updater import NonFiniteError, StepValues, Updater

PRETRAINED = "pretrained"
"""Stage name of epoch 0 in the history."""


class Trainer:
    """Runs the stages of ``config`` and keeps the checkpoints.

    Args:
        encoder, classifier: warm-started, or with the weights of the checkpoint that ``state`` comes from.
        baseline: the released model as an encoder of its own, where epoch 0 does not score what it scores.
        state, best, optimizer: from a checkpoint, to resume.
    """

    def __init__(
        self,
        config: Config,
        encoder: SpeakerEncoder,
        classifier: SlicedMarginClassifier,
        data: RunData,
        tracker: Tracker,
        *,
        baseline: SpeakerEncoder | None = None,
        state: RunState | None = None,
        best: Best | None = None,
        optimizer: dict[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.encoder = encoder
        self.classifier = classifier
        self.data = data
        self.tracker = tracker
        self.device = classifier.class_vectors.device
        self.folder = CheckpointFolder(config.checkpoints)
        self.plans = plan_stages(config.stages, len(data.train), config.loss.margin)
        self.state = state or RunState()
        self.best = best
        self._baseline = baseline
        self._optimizer_state = optimizer
        noise, rooms = config.data.noise, config.data.room_responses
        self._noise = None if noise is None else ClipBank.from_folder(noise, "noise")
        self._rooms = None if rooms is None else ClipBank.from_folder(rooms, "room_responses")

    def run(self) -> RunState:
        """Train to the end; returns the final state. ``best`` then holds the weights of best.pt."""
        if self.best is None:
            self._score_pretrained()
        for plan in self.plans[self.state.stage :]:
            self._run_stage(plan)
        return self.state

    def _score_pretrained(self) -> None:
        """Epoch 0: what the warm start scores, and what best.pt is held to."""
        results = self._validate(self.encoder, "epoch 0")
        self.state.reference = full_size_eer(results)
        released = results
        if self._baseline is not None:
            released = self._validate(self._baseline, "released model")
            self.state.reference = full_size_eer(released)
        full_size = {f"pretrained/eer/{result.name}": result.full_size.eer for result in released}
        self._record(PRETRAINED, results, {"pretrained/eer": self.state.reference, **full_size})
        self._save(optimizer=None)

    def _run_stage(self, plan: StagePlan) -> None:
        stage, state = plan.stage, self.state
        if state.stage_epoch == 0:
            assert self.best is not None
            self._load_weights(self.best.weights)
            state.stale = 0
            self.tracker.say(
                f"stage {stage.name}: trains {', '.join(stage.train)} and the classifier from epoch "
                f"{self.best.epoch}, {stage.epochs} epochs of {plan.steps_per_epoch} steps"
            )
        enter_stage(self.encoder, self.classifier, stage)
        updater = Updater(self.encoder, self.classifier, plan, self.config.runtime, self.config.seed)
        if self._optimizer_state is not None:
            updater.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        augmenter = Augmenter(
            stage.augmentation,
            seed=self.config.seed,
            noise=self._noise,
            rooms=self._rooms,
            sample_rate=SAMPLE_RATE,
        )
        dataset = CropDataset(self.data.train, round(stage.crop_seconds * SAMPLE_RATE), self.config.seed)
        batches = EpochBatches(len(self.data.train), stage.batch_size, self.config.seed)
        loader = make_loader(
            dataset, batches, self.config.data.workers, pin_memory=self.device.type == "cuda"
        )
        while state.stage == plan.index:
            batches.set_epoch(state.epoch + 1)
            self._run_epoch(plan, updater, augmenter, loader)
            self._finish_epoch(plan, updater)

    def _run_epoch(self, plan: StagePlan, updater: Updater, augmenter: Augmenter, loader: Any) -> None:
        """One pass over the training corpus."""
        state, stage = self.state, plan.stage
        title = f"{stage.name} epoch {state.stage_epoch + 1}/{stage.epochs}"
        waited, started = 0.0, time.perf_counter()
        with self.tracker.progress(title, plan.steps_per_epoch) as bar:
            asked = time.perf_counter()
            for index, batch in enumerate(loader):
                waited += time.perf_counter() - asked
                self._note_unreadable(batch)
                waveforms = batch.waveforms.to(self.device, non_blocking=True)
                speakers = batch.speakers.to(self.device, non_blocking=True)
                waveforms = augmenter(waveforms, batch.utterances, batch.speakers, epoch=state.epoch + 1)
                stage_step = state.stage_epoch * plan.steps_per_epoch + index
                try:
                    values = updater.update(waveforms, speakers, stage_step=stage_step, run_step=state.step)
                except NonFiniteError as error:
                    raise self._with_evidence(error, batch, updater) from None
                state.step += 1
                elapsed = time.perf_counter() - started
                rate = (index + 1) * len(batch.speakers) / elapsed
                if state.step % self.config.logging.every_steps == 0 or index == plan.steps_per_epoch - 1:
                    self._log_step(stage.name, values, rate, waited / elapsed)
                bar.advance(1, loss=f"{values.loss:.3f}", speed=f"{rate:.0f} utt/s")
                asked = time.perf_counter()

    def _finish_epoch(self, plan: StagePlan, updater: Updater) -> None:
        """Count the epoch, validate, keep the best, decide whether the stage is over, save."""
        state, stage = self.state, plan.stage
        state.epoch += 1
        state.stage_epoch += 1
        last = state.stage_epoch == stage.epochs
        if last or state.stage_epoch % self.config.validation.every_epochs == 0:
            results = self._validate(self.encoder, f"epoch {state.epoch}")
            is_best = self._record(stage.name, results)
            state.stale = 0 if is_best else state.stale + 1
        else:
            is_best = False
        patience = stage.early_stopping_patience
        if not last and patience is not None and state.stale >= patience:
            self.tracker.say(f"stage {stage.name}: no new best in {state.stale} validations, it ends early")
            last = True
        if last:
            state.stage, state.stage_epoch, state.stale = plan.index + 1, 0, 0
        self._save(None if last else updater.state_dict(), is_best=is_best)
        enter_stage(self.encoder, self.classifier, stage)

    def _validate(self, encoder: SpeakerEncoder, title: str) -> list[VerificationResult]:
        validation, lists = self.config.validation, self.data.validation
        total = sum(len(trials.utterances) for trials in lists)
        results = []
        with self.tracker.progress(f"scoring {title}", total) as bar:
            for trials in lists:
                results.append(
                    verify(
                        encoder,
                        trials,
                        encoder.dims,
                        max_seconds=validation.max_utterance_seconds,
                        workers=max(1, self.config.data.workers),
                        advance=bar.advance,
                    )
                )
        return results

    def _record(
        self, stage: str, results: Sequence[VerificationResult], extra: dict[str, Any] | None = None
    ) -> bool:
        """Log an epoch's scores and compare them with the best; returns whether they are the new best."""
        state = self.state
        place = rank(results, self.config.checkpoints, state.reference)
        is_best = self.best is None or place < self.best.rank
        if is_best:
            self.best = Best(place, state.epoch, stage, self._weights())
        values = {
            **result_metrics(results),
            "mean_eer": mean_eer(results),
            "full_size_eer": full_size_eer(results),
            "evaluation_seconds": sum(result.seconds for result in results),
            **(extra or {}),
            "stage": stage,
            "is_best": is_best,
        }
        state.history.append({"epoch": state.epoch, **values})
        self.tracker.epoch(state.epoch, state.step, values)
        verdict = "new best" if is_best else "not better"
        if place.excess:
            verdict = f"full size {100 * place.excess:.2f} points beyond what is allowed"
        self.tracker.table(f"epoch {state.epoch} ({stage}): {verdict}", RESULT_COLUMNS, result_rows(results))
        return is_best

    def _log_step(self, stage: str, values: StepValues, rate: float, wait_share: float) -> None:
        per_prefix = zip(self.classifier.dims, values.loss_per_prefix, strict=True)
        record: dict[str, float | str] = {
            "train/loss": values.loss,
            **{f"train/loss_{dim}": loss for dim, loss in per_prefix},
            **{f"train/learning_rate_{part}": value for part, value in values.rates.items()},
            "train/margin": values.margin,
            "train/gradient_norm": values.gradient_norm,
            "train/utterances_per_second": rate,
            "train/data_wait_share": wait_share,
            "train/skipped": float(values.skipped),
            "epoch": self.state.epoch + 1,
            "stage": stage,
        }
        self.tracker.step(self.state.step, record)

    def _note_unreadable(self, batch: Batch) -> None:
        """Name each file that had to be replaced, once; stop when they are too many."""
        for message in batch.replaced:
            if message not in self.state.unreadable:
                self.state.unreadable[message] = f"epoch {self.state.epoch + 1}"
                self.tracker.say(f"replaced: {message}")
        allowed = self.config.data.max_unreadable_share * len(self.data.train)
        if len(self.state.unreadable) > allowed:
            raise TrainingError(
                f"{len(self.state.unreadable)} of {len(self.data.train)} training utterances could not be "
                f"read, more than data.max_unreadable_share ({self.config.data.max_unreadable_share:g}) "
                f"allows; the last one: {list(self.state.unreadable)[-1]}"
            )

    def _with_evidence(self, error: NonFiniteError, batch: Batch, updater: Updater) -> TrainingError:
        """The error with the step, the batch's files and a saved state to look at."""
        files = [self.data.train.relative_path(int(item)) for item in batch.utterances]
        path = self.config.logging.directory / "non_finite.pt"
        state = {**self._content(updater.state_dict()), "files": files, "error": str(error)}
        write_atomically(path, lambda temporary: torch.save(state, temporary))
        listing = path.with_suffix(".txt")
        listing.write_text("\n".join(files) + "\n", encoding="utf-8")
        return TrainingError(
            f"step {self.state.step + 1}: {error}; the weights were not changed. The batch's {len(files)} "
            f"files ({files[0]}, ...) are listed in {listing}, the state before the step is in {path}"
        )

    def _weights(self) -> Weights:
        modules = {"encoder": self.encoder, "classifier": self.classifier}
        return {
            name: {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
            for name, module in modules.items()
        }

    def _load_weights(self, weights: Weights) -> None:
        self.encoder.load_state_dict(weights["encoder"])
        self.classifier.load_state_dict(weights["classifier"])

    def _save(self, optimizer: dict[str, Any] | None, *, is_best: bool = True) -> None:
        try:
            self.folder.save(self._content(optimizer), epoch=self.state.epoch, is_best=is_best)
        except CheckpointError as error:
            self.tracker.say(str(error))

    def _content(self, optimizer: dict[str, Any] | None) -> dict[str, Any]:
        assert self.best is not None
        weights = self._weights()
        best_is_this = self.best.epoch == self.state.epoch
        return {
            "format": FORMAT,
            "version": VERSION,
            "config": config_to_dict(self.config),
            "model_config": self.encoder.model_config,
            "dims": list(self.encoder.dims),
            "speakers": list(self.data.train.speakers),
            **weights,
            "optimizer": optimizer,
            "state": self.state.to_dict(),
            "best": {
                "rank": list(self.best.rank),
                "epoch": self.best.epoch,
                "stage": self.best.stage,
                "weights": None if best_is_this else self.best.weights,
            },
            "wandb_run_id": self.tracker.wandb_run_id,
        }
