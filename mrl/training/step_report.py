"""What is said and recorded of the updates of a stage."""

from __future__ import annotations

from collections.abc import Sequence

from mrl.config import Config
from mrl.processes import Processes
from mrl.progress import ProgressReport
from mrl.training.evidence import Evidence
from mrl.training.gradient_flow import Flow
from mrl.training.pace import Speed
from mrl.training.replaced import count_replaced
from mrl.training.run_state import RunState
from mrl.training.schedules import StagePlan
from mrl.training.step_values import StepValues
from mrl.training.tracking import Tracker


def is_due(step: int, every: int | None) -> bool:
    """Whether something that happens ``every`` so many steps, or never, happens at this one."""
    return every is not None and step % every == 0


class StepReport:
    """Says and records the updates of the stage of ``plan``, and counts in the run's state what went wrong in them.

    Args:
        num_utterances: of the corpus.
        evidence: what the updates were made from.
    """

    def __init__(
        self,
        config: Config,
        plan: StagePlan,
        num_utterances: int,
        evidence: Evidence,
        tracker: Tracker,
        processes: Processes,
    ) -> None:
        self._config, self._plan, self._num_utterances = config, plan, num_utterances
        self._evidence, self._tracker, self._processes = evidence, tracker, processes

    def update(
        self, values: StepValues, state: RunState, speed: Speed, bar: ProgressReport, *, is_last: bool
    ) -> None:
        """Say and record what is known of an update."""
        if values.replaced:
            everybody = self._processes.gather(self._evidence.heard(values.run_step).replaced)
            self.unreadable([message for messages in everybody for message in messages], state)
        done = values.run_step + 1
        if values.fault is not None:
            state.skipped += 1
            self._evidence.skipped(values.run_step, values.fault)
        state.overflowed += values.overflowed
        if is_last or values.fault is not None or is_due(done, self._config.logging.every_steps):
            self._record(values, state, speed)
        if values.flow is not None:
            self._report_flow(values.flow, done, state)
        bar.advance(
            1,
            loss=f"{values.loss:.3f}",
            margin=f"{values.settings.margins[-1]:.2g}",
            speed=f"{speed.utterances_per_second:.0f} utt/s",
        )

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
            "train/skipped_in_run": float(state.skipped + state.overflowed),
            "epoch": state.epoch + 1,
            "stage": self._plan.stage.name,
        }
        self._tracker.step(values.run_step + 1, record)

    def _report_flow(self, flow: Flow, step: int, state: RunState) -> None:
        self._tracker.step(step, {**flow.metrics, "epoch": state.epoch + 1, "stage": self._plan.stage.name})
        for message in flow.messages:
            self._tracker.say(f"step {step}: {message}")

    def unreadable(self, messages: Sequence[str], state: RunState) -> None:
        """Name each file that had to be replaced, once; stop when they are too many."""
        count_replaced(
            messages, state, self._config, self._num_utterances, self._tracker.say, self._processes
        )
