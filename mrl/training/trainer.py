"""The run: epoch 0, then stage after stage, each from the best weights so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mrl.config import PRETRAINED, WARM_START, Config
from mrl.data.assemble import RunData
from mrl.errors import CheckpointError
from mrl.evaluation.report import result_metrics
from mrl.evaluation.verification import VerificationResult
from mrl.models.encoder import SpeakerEncoder
from mrl.processes import Processes
from mrl.training.averaging import average_epochs, keep_recent
from mrl.training.criterion import Criterion
from mrl.training.epoch_report import report_epoch, stage_line
from mrl.training.live_weights import load_weights, weights_of
from mrl.training.run_checkpoints import RunCheckpoints
from mrl.training.run_state import Best, RunState, Weights
from mrl.training.schedules import StagePlan, plan_stages
from mrl.training.selection import Rank, choosing, full_size_eer, guard_excess, mean_eer, rank
from mrl.training.stage_runner import StageRunner
from mrl.training.tracking import Tracker
from mrl.training.validation import Validator


class Trainer:
    """Runs the stages of ``config`` and keeps the checkpoints.

    Args:
        encoder, criterion: warm-started, or with the weights of the checkpoint that ``state`` comes from.
        baseline: the released model as an encoder of its own, where epoch 0 does not score what it scores.
        state, best, stage_state, run_id: from a checkpoint, to resume.
        processes: of the run; all of them run a trainer, and take the same decisions.
    """

    def __init__(
        self,
        config: Config,
        encoder: SpeakerEncoder,
        criterion: Criterion,
        data: RunData,
        tracker: Tracker,
        *,
        baseline: SpeakerEncoder | None = None,
        state: RunState | None = None,
        best: Best | None = None,
        stage_state: dict[str, Any] | None = None,
        run_id: str | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.processes = processes or Processes()
        self.config = config
        self.encoder = encoder
        self.criterion = criterion
        self.data = data
        self.tracker = tracker
        self.checkpoints = RunCheckpoints(
            config, encoder, criterion.teacher, data, tracker, run_id, is_writer=self.processes.is_first
        )
        self.plans = plan_stages(config, data.train)
        self.state = state or RunState()
        self.best = best
        self._validator = Validator(config, data, tracker, self.processes)
        self._baseline = baseline
        self._stage_state = stage_state

    def run(self) -> RunState:
        """Train to the end; returns the final state. ``best`` then holds the weights of best.pt."""
        if self.best is None:
            self.processes.from_first(self.checkpoints.set_earlier_run_aside)
            self._score_pretrained()
        if self.state.stage_epoch == 0:
            self._keep_stage(self.state.stage)  # again on resuming: the run may have been cut off before
        for plan in self.plans[self.state.stage :]:
            self._run_stage(plan)
        assert self.best is not None
        self.checkpoints.require_best_file(self.best)
        return self.state

    def _keep_stage(self, stages_done: int) -> None:
        """Keep what evaluate.py compares with: the best weights after so many stages."""
        assert self.best is not None
        name = self.plans[stages_done - 1].stage.name if stages_done else WARM_START
        self.checkpoints.keep_stage(name, self.best)

    def _score_pretrained(self) -> None:
        """Epoch 0: what the warm start scores, and what best.pt is held to."""
        results = self._validator.score(self.encoder, "epoch 0")
        released = results
        if self._baseline is not None:
            released = self._validator.score(self._baseline, "released model")
        self.state.reference = full_size_eer(choosing(released, self.config.validation))
        full_size = {f"pretrained/eer/{result.name}": result.full_size.eer for result in released}
        extra = {"pretrained/eer": self.state.reference, **full_size}
        extra |= self._validator.held_out_loss(self.encoder, self.criterion)
        weights = weights_of(self.encoder, self.criterion)
        self._record(PRETRAINED, results, weights, extra)
        self._save(weights, None, is_best=True)

    def _run_stage(self, plan: StagePlan) -> None:
        stage, state = plan.stage, self.state
        assert self.best is not None
        if stage.average is None:
            state.recent = []  # resumed without the average that the checkpoint was on the way to
        if state.stage_epoch == 0:
            load_weights(self.encoder, self.criterion, self.best.weights)
            state.stale, state.recent = 0, []
            self.tracker.say(stage_line(plan, self.config.loss.has_classes, self.best.epoch))
        runner = StageRunner(
            self.config,
            plan,
            self.encoder,
            self.criterion,
            self.data,
            self.checkpoints,
            self.tracker,
            state,
            self.processes,
        )
        self._restore(runner, stage.name)
        while state.stage == plan.index:
            if not self._is_over(plan):
                runner.run_epoch(state, self.best)
                self._finish_epoch(plan, runner)
            elif len(state.recent) > 1:
                self._score_average(plan, runner)
            else:
                self._end_early(plan, runner)
        runner.weights.leave()
        self._keep_stage(plan.index + 1)

    def _restore(self, runner: StageRunner, stage: str) -> None:
        """Put what a checkpoint holds of a stage that is under way into ``runner``."""
        if self._stage_state is None:
            return
        try:
            runner.load_state_dict(self._stage_state)
        except (ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"the state of stage {stage} does not fit the changed configuration ({error}); "
                "resume from a checkpoint between two stages"
            ) from None
        self._stage_state = None

    def _finish_epoch(self, plan: StagePlan, runner: StageRunner) -> None:
        """Count the epoch, validate, keep the best, decide whether the stage is over, save."""
        state, stage = self.state, plan.stage
        state.epoch += 1
        state.stage_epoch += 1
        weights = runner.weights.export()
        is_best, place = False, None
        if state.stage_epoch >= stage.epochs or state.stage_epoch % self.config.validation.every_epochs == 0:
            is_best, place = self._score_exported(plan, runner, weights)
            state.stale = 0 if is_best else state.stale + 1
        if stage.average is not None:
            keep_recent(state, stage.average, place, weights)
        is_over = self._is_over(plan)
        if is_over and state.stage_epoch < stage.epochs:
            self.tracker.say(f"stage {stage.name}: no new best in {state.stale} validations, it ends early")
        stage_state: dict[str, Any] | None = runner.state_dict()
        if is_over and len(state.recent) < 2:  # otherwise their mean is still to be scored
            self._advance(plan)
            stage_state = None
        self._save(weights, stage_state, is_best)

    def _score_exported(self, plan: StagePlan, runner: StageRunner, weights: Weights) -> tuple[bool, Rank]:
        """Score the exported weights, which are ``weights``; whether they are the new best, and their rank."""
        with runner.weights.exported():
            return self._score(plan, f"epoch {self.state.epoch}", weights)

    def _end_early(self, plan: StagePlan, runner: StageRunner) -> None:
        """The end of a stage that was resumed with fewer epochs than it has done; its last one may be unscored."""
        state = self.state
        if state.history[-1]["epoch"] < state.epoch:
            weights = runner.weights.export()
            is_best, _ = self._score_exported(plan, runner, weights)
            self._advance(plan)
            self._save(weights, None, is_best)
        else:
            self._advance(plan)

    def _score_average(self, plan: StagePlan, runner: StageRunner) -> None:
        """The mean of several epochs' weights, scored as an epoch of its own; then the stage is over."""
        state, stage = self.state, plan.stage
        assert stage.average is not None
        epochs = ", ".join(str(epoch) for epoch in sorted(entry["epoch"] for entry in state.recent))
        runner.weights.leave()
        load_weights(self.encoder, self.criterion, average_epochs(state.recent))
        if stage.norm_statistics == "batch":
            runner.recalibrate_norms(state)
        state.epoch += 1
        weights = weights_of(self.encoder, self.criterion)
        is_best, _ = self._score(plan, f"the mean of epochs {epochs}", weights, average_of=epochs)
        self._advance(plan)
        self._save(weights, None, is_best)

    def _score(self, plan: StagePlan, title: str, weights: Weights, **extra: Any) -> tuple[bool, Rank]:
        """Score the encoder as it is, whose weights are ``weights``; ``extra`` goes into the record."""
        results = self._validator.score(self.encoder, title)
        extra |= self._validator.held_out_loss(self.encoder, self.criterion)
        return self._record(plan.stage.name, results, weights, extra)

    def _save(self, weights: Weights, stage_state: dict[str, Any] | None, is_best: bool) -> None:
        """Write the checkpoints of the epoch that has just been counted."""
        assert self.best is not None
        self.checkpoints.save(weights, self.state, self.best, stage_state=stage_state, is_best=is_best)

    def _is_over(self, plan: StagePlan) -> bool:
        """Whether the stage has trained its last epoch: all of them, or too many without a new best."""
        patience = plan.stage.early_stopping_patience
        stale = patience is not None and self.state.stale >= patience
        return self.state.stage_epoch >= plan.stage.epochs or stale

    def _advance(self, plan: StagePlan) -> None:
        """The run goes on with the next stage."""
        state = self.state
        state.stage, state.stage_epoch, state.stale, state.recent = plan.index + 1, 0, 0, []

    def _rank(self, results: Sequence[VerificationResult]) -> Rank:
        validation, history = self.config.validation, self.state.history
        guarded = guard_excess(results, history[0], validation) if history else 0.0
        chosen = choosing(results, validation)
        return rank(chosen, self.config.checkpoints, self.state.reference, guarded)

    def _record(
        self,
        stage: str,
        results: Sequence[VerificationResult],
        weights: Weights,
        extra: dict[str, Any],
    ) -> tuple[bool, Rank]:
        """Log an epoch's scores and compare them with the best: whether they are the new best, and their rank."""
        state = self.state
        place = self._rank(results)
        is_best = self.best is None or place < self.best.rank
        if is_best:
            self.best = Best(place, state.epoch, stage, weights)
        chosen = choosing(results, self.config.validation)
        values = {
            **result_metrics(results),
            "mean_eer": mean_eer(chosen),
            "full_size_eer": full_size_eer(chosen),
            "evaluation_seconds": sum(result.seconds for result in results),
            **extra,
            "stage": stage,
            "is_best": is_best,
        }
        state.history.append({"epoch": state.epoch, **values})
        self.tracker.epoch(state.epoch, state.step, values)
        report_epoch(self.tracker, self.config, results, state.history, place)
        return is_best, place
