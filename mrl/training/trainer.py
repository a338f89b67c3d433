"""The run: epoch 0, then stage after stage, each from the best weights so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mrl.config import Config
from mrl.data.assemble import RunData
from mrl.errors import CheckpointError
from mrl.evaluation.report import RESULT_COLUMNS, result_metrics, result_rows
from mrl.evaluation.verification import VerificationResult, verify
from mrl.loss import SlicedLoss
from mrl.models.encoder import SpeakerEncoder
from mrl.training.run_checkpoints import RunCheckpoints
from mrl.training.run_state import Best, RunState
from mrl.training.schedules import StagePlan, plan_stages
from mrl.training.selection import full_size_eer, mean_eer, rank
from mrl.training.stage_runner import StageRunner
from mrl.training.stages import enter_stage
from mrl.training.tracking import Tracker

PRETRAINED = "pretrained"
"""Stage name of epoch 0 in the history."""


class Trainer:
    """Runs the stages of ``config`` and keeps the checkpoints.

    Args:
        encoder, classifier: warm-started, or with the weights of the checkpoint that ``state`` comes from.
        baseline: the released model as an encoder of its own, where epoch 0 does not score what it scores.
        state, best, optimizer, run_id: from a checkpoint, to resume.
    """

    def __init__(
        self,
        config: Config,
        encoder: SpeakerEncoder,
        classifier: SlicedLoss,
        data: RunData,
        tracker: Tracker,
        *,
        baseline: SpeakerEncoder | None = None,
        state: RunState | None = None,
        best: Best | None = None,
        optimizer: dict[str, Any] | None = None,
        run_id: str | None = None,
    ) -> None:
        self.config = config
        self.encoder = encoder
        self.classifier = classifier
        self.data = data
        self.tracker = tracker
        self.checkpoints = RunCheckpoints(config, encoder, classifier, data, tracker, run_id)
        self.plans = plan_stages(config, len(data.train))
        self.state = state or RunState()
        self.best = best
        self._baseline = baseline
        self._optimizer_state = optimizer

    def run(self) -> RunState:
        """Train to the end; returns the final state. ``best`` then holds the weights of best.pt."""
        if self.best is None:
            self.checkpoints.set_earlier_run_aside()
            self._score_pretrained()
        for plan in self.plans[self.state.stage :]:
            self._run_stage(plan)
        assert self.best is not None
        self.checkpoints.require_best_file(self.best)
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
        assert self.best is not None
        self.checkpoints.save(self.state, self.best, optimizer=None, is_best=True)

    def _run_stage(self, plan: StagePlan) -> None:
        stage, state = plan.stage, self.state
        assert self.best is not None
        if state.stage_epoch == 0:
            self.checkpoints.load_weights(self.best.weights)
            state.stale = 0
            self.tracker.say(
                f"stage {stage.name}: trains {', '.join(stage.train)} and the classifier from epoch "
                f"{self.best.epoch}, {stage.epochs} epochs of {plan.steps_per_epoch} steps"
            )
        enter_stage(self.encoder, self.classifier, stage)
        runner = StageRunner(
            self.config,
            plan,
            self.encoder,
            self.classifier,
            self.data,
            self.checkpoints,
            self.tracker,
        )
        if self._optimizer_state is not None:
            try:
                runner.updater.load_state_dict(self._optimizer_state)
            except (ValueError, KeyError, RuntimeError) as error:
                raise CheckpointError(
                    f"the optimizer of stage {stage.name} does not fit the changed configuration ({error}); "
                    "resume from a checkpoint between two stages"
                ) from None
            self._optimizer_state = None
        if state.stage_epoch >= stage.epochs:  # a resumed run with fewer epochs than it has done
            state.stage, state.stage_epoch = plan.index + 1, 0
        while state.stage == plan.index:
            runner.run_epoch(state, self.best)
            self._finish_epoch(plan, runner)

    def _finish_epoch(self, plan: StagePlan, runner: StageRunner) -> None:
        """Count the epoch, validate, keep the best, decide whether the stage is over, save."""
        state, stage = self.state, plan.stage
        state.epoch += 1
        state.stage_epoch += 1
        over = state.stage_epoch >= stage.epochs
        is_best = False
        if over or state.stage_epoch % self.config.validation.every_epochs == 0:
            is_best = self._record(stage.name, self._validate(self.encoder, f"epoch {state.epoch}"))
            state.stale = 0 if is_best else state.stale + 1
        patience = stage.early_stopping_patience
        if not over and patience is not None and state.stale >= patience:
            self.tracker.say(f"stage {stage.name}: no new best in {state.stale} validations, it ends early")
            over = True
        optimizer = None if over else runner.updater.state_dict()
        if over:
            state.stage, state.stage_epoch, state.stale = plan.index + 1, 0, 0
        assert self.best is not None
        self.checkpoints.save(state, self.best, optimizer=optimizer, is_best=is_best)

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
            self.best = Best(place, state.epoch, stage, self.checkpoints.weights())
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
