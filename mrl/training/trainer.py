"""The run: epoch 0, then stage after stage, each from the best weights so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mrl.config import PRETRAINED, WARM_START, Config
from mrl.data.assemble import RunData
from mrl.errors import CheckpointError, LostPeerError
from mrl.evaluation.finite import EmbeddingError
from mrl.evaluation.verification import VerificationResult
from mrl.line_file import reason
from mrl.models.encoder import SpeakerEncoder
from mrl.processes import Processes
from mrl.stopping import Stopped, deferring, is_stop_requested, stopped
from mrl.training.averaging import average_epochs, keep_recent
from mrl.training.criterion import Criterion
from mrl.training.epoch_report import early_end_line, stage_line
from mrl.training.live_weights import load_weights, weights_of
from mrl.training.run_checkpoints import RunCheckpoints
from mrl.training.run_state import Best, RunState, Weights
from mrl.training.schedules import StagePlan, plan_stages
from mrl.training.scoreboard import Scoreboard, Scores
from mrl.training.selection import Rank, choosing, full_size_eer
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
        self._scoreboard = Scoreboard(config, tracker)
        self._baseline = baseline
        self._runner: StageRunner | None = None
        """Of the stage that is under way."""
        self._stage_state = stage_state

    def run(self) -> RunState:
        """Train to the end; returns the final state. ``best`` then holds the weights of best.pt.

        Asked to stop, it saves what was done and raises Stopped.
        """
        with deferring():
            try:
                with self.processes.noticing_lost_peers():
                    return self._run()
            except Stopped as stop:
                if not stop.is_sudden:
                    self._save_within()
                raise
            except LostPeerError:
                if (
                    self.encoder.head.linear.weight.device.type == "cpu"
                ):  # a GPU may be in the middle of an update
                    self._save_within()
                if is_stop_requested():  # the other one had heard of it before
                    raise stopped() from None
                raise
            except EmbeddingError as error:
                if self._runner is None or self.best is None:
                    raise
                raise self._runner.with_evidence(error, self.state, self.best) from None

    def _save_within(self) -> None:
        """Save where the run stands, if that is within an epoch."""
        if self._runner is not None and self.best is not None and self.state.epoch_step:
            self._runner.save(self.state, self.best)

    def _run(self) -> RunState:
        if self.best is None:
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
        scores = self._measure("epoch 0")
        released: Sequence[VerificationResult] = scores.results
        if self._baseline is not None:
            released = self._validator.score(self._baseline, "released model")
        self.state.reference = full_size_eer(choosing(released, self.config.validation))
        full_size = {f"pretrained/eer/{result.name}": result.full_size.eer for result in released}
        extra = {"pretrained/eer": self.state.reference, **full_size}
        weights = weights_of(self.encoder, self.criterion)
        self._record(PRETRAINED, scores, weights, **extra)
        self._save(weights, None, is_best=True)

    def _run_stage(self, plan: StagePlan) -> None:
        stage, state = plan.stage, self.state
        assert self.best is not None
        # Where the batch was changed on resuming an epoch may have fewer steps than were done of it.
        state.epoch_step = min(state.epoch_step, plan.steps_per_epoch)
        if stage.average is None:
            state.recent = []  # resumed without the average that the checkpoint was on the way to
        if state.stage_epoch == 0 and state.epoch_step == 0:
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
        self._runner = runner
        while state.stage == plan.index:
            if not self._is_over(plan):
                runner.run_epoch(state, self.best)
                self._finish_epoch(plan, runner)
            elif len(state.recent) > 1:
                self._score_average(plan, runner)
            else:
                self._end_early(plan, runner)
        runner.weights.leave()
        self._runner = None
        self._keep_stage(plan.index + 1)

    def _restore(self, runner: StageRunner, stage: str) -> None:
        """Put what a checkpoint holds of a stage that is under way into ``runner``."""
        if self._stage_state is None:
            return
        try:
            runner.load_state_dict(self._stage_state)
        except (ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the state of stage {stage} does not fit the changed configuration ({reason(error)}); "
                "resume from a checkpoint between two stages"
            ) from None
        self._stage_state = None

    def _finish_epoch(self, plan: StagePlan, runner: StageRunner) -> None:
        """Count the epoch, validate, keep the best, decide whether the stage is over, save."""
        state, stage = self.state, plan.stage
        assert self.best is not None
        weights = runner.export(state, self.best)
        is_best, place, scores = False, None, None
        stage_epoch = state.stage_epoch + 1
        if stage_epoch >= stage.epochs or stage_epoch % self.config.validation.every_epochs == 0:
            # Which may be stopped, or fail: nothing is counted yet.
            scores = self._measure_exported(runner, state.epoch + 1)
        state.epoch, state.stage_epoch, state.epoch_step = state.epoch + 1, stage_epoch, 0
        if scores is not None:
            is_best, place = self._record(stage.name, scores, weights)
            state.stale = 0 if is_best else state.stale + 1
        if stage.average is not None:
            keep_recent(state, stage.average, place, weights)
        is_over = self._is_over(plan)
        if is_over and state.stage_epoch < stage.epochs:
            self.tracker.say(early_end_line(stage.name, state.stale, state.history))
        stage_state: dict[str, Any] | None = runner.state_dict()
        if is_over and len(state.recent) < 2:  # otherwise their mean is still to be scored
            self._advance(plan)
            stage_state = None
        self._save(weights, stage_state, is_best)

    def _measure_exported(self, runner: StageRunner, epoch: int) -> Scores:
        """What the exported weights of ``epoch`` score."""
        with runner.weights.exported():
            return self._measure(f"epoch {epoch}")

    def _end_early(self, plan: StagePlan, runner: StageRunner) -> None:
        """The end of a stage that was resumed with fewer epochs than it has done; its last one may be unscored."""
        state = self.state
        if state.history[-1]["epoch"] < state.epoch:
            assert self.best is not None
            weights = runner.export(state, self.best)
            scores = self._measure_exported(runner, state.epoch)
            is_best, _ = self._record(plan.stage.name, scores, weights)
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
        self._runner = None  # whose weights these are no longer
        load_weights(self.encoder, self.criterion, average_epochs(state.recent))
        if stage.norm_statistics == "batch":
            runner.recalibrate_norms(state)
        weights = weights_of(self.encoder, self.criterion)
        scores = self._measure(f"the mean of epochs {epochs}")
        state.epoch += 1
        is_best, _ = self._record(stage.name, scores, weights, average_of=epochs)
        self._advance(plan)
        self._save(weights, None, is_best)

    def _measure(self, title: str) -> Scores:
        """Score the encoder as it is."""
        results = self._validator.score(self.encoder, title)
        return Scores(results, self._validator.held_out_loss(self.encoder, self.criterion))

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
        state.stage, state.stage_epoch, state.epoch_step = plan.index + 1, 0, 0
        state.stale, state.recent = 0, []

    def _record(self, stage: str, scores: Scores, weights: Weights, **extra: Any) -> tuple[bool, Rank]:
        """Take down the scores of an epoch, whose weights are ``weights``, with ``extra`` facts: whether they are the
        new best, and their rank."""
        place = self._scoreboard.rank_of(scores, self.state)
        is_best = self.best is None or place < self.best.rank
        if is_best:
            self.best = Best(place, self.state.epoch, stage, weights)
        self._scoreboard.enter(scores, self.state, place, {**extra, "stage": stage, "is_best": is_best})
        return is_best, place
