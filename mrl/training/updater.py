"""One update: embeddings -> loss terms -> backward -> clip -> step.

Shapes: B utterances of the batch, T samples of a crop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mrl.config import RuntimeConfig
from mrl.errors import TrainingError
from mrl.loss import PrefixSettings, Targets
from mrl.models.encoder import SpeakerEncoder
from mrl.randomness import seed_of
from mrl.training.criterion import Criterion
from mrl.training.gradient_flow import Flow, measure_flow_of
from mrl.training.optimizer import build_optimizer
from mrl.training.schedules import StagePlan, rate_factor_at, settings_at

_MAX_SKIPPED_IN_A_ROW = 25
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast of ``runtime.precision``; for float32 one that does nothing."""
    return torch.autocast(device.type, _DTYPES[precision], enabled=precision != "float32")


class NonFiniteError(TrainingError):
    """A loss or gradient that is NaN or infinite, noticed before the weights were touched."""


class StepValues(NamedTuple):
    """What one update measured. ``gradient_norm`` is that of the whole batch, unscaled, before clipping."""

    loss: float  # what was minimised
    loss_per_prefix: list[float]
    teacher_loss: float  # 1 - cosine to the teacher, 0 without one
    gradient_norm: float
    settings: PrefixSettings
    rates: dict[str, float]
    skipped: bool  # fp16 only: the gradient overflowed and the loss scale was lowered instead
    flow: Flow | None  # where it was asked for


class Updater:
    """The optimizer of one stage and the step that it takes.

    Args:
        encoder, criterion: as :func:`mrl.training.stages.enter_stage` left them for the stage of ``plan``.
        seed: of the run; dropout masks are a function of (seed, step).
    """

    def __init__(
        self,
        encoder: SpeakerEncoder,
        criterion: Criterion,
        plan: StagePlan,
        runtime: RuntimeConfig,
        seed: int,
    ) -> None:
        self._device = encoder.head.linear.weight.device
        self._encoder = encoder
        self._plan = plan
        self._seed = seed
        self._forward: nn.Module = torch.compile(encoder, dynamic=False) if runtime.compile else encoder  # type: ignore[assignment]
        self._criterion = criterion
        self._precision = runtime.precision
        on_gpu = self._device.type == "cuda"
        self.optimizer = build_optimizer(encoder, criterion, plan.stage, fused=on_gpu)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=runtime.precision == "fp16")
        self._skipped_in_a_row = 0

    def update(
        self,
        waveforms: Tensor,
        targets: Targets,
        *,
        stage_step: int,
        run_step: int,
        plateau_reductions: int = 0,
        measure_flow: bool = False,
    ) -> StepValues:
        """One update from ``waveforms`` [B, T] and their ``targets``, both on the device.

        The gradient is that of the mean loss over B, in however many parts it is accumulated. Raises
        :class:`NonFiniteError` before the weights change.
        """
        plan = self._plan
        torch.manual_seed(
            seed_of(self._seed, "dropout", run_step)
        )  # so that a resumed run draws the same masks
        settings = settings_at(stage_step, plan)
        rates = self._set_rates(rate_factor_at(stage_step, plan, plateau_reductions))

        self.optimizer.zero_grad(set_to_none=True)
        losses = self._accumulate_gradients(waveforms, targets, settings)
        self._scaler.unscale_(self.optimizer)
        flow = measure_flow_of(self._encoder, self._criterion) if measure_flow else None
        norm = nn.utils.clip_grad_norm_(self._parameters(), plan.stage.gradient_clip or float("inf"))
        loss, teacher, gradient_norm, *per_prefix = torch.stack([*losses[:2], norm, *losses[2:]]).tolist()
        skipped = self._check_finite(loss, gradient_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return StepValues(loss, per_prefix, teacher, gradient_norm, settings, rates, skipped, flow)

    def _accumulate_gradients(self, waveforms: Tensor, targets: Targets, settings: PrefixSettings) -> Tensor:
        """Backward through the batch part by part; returns [total, teacher, per prefix...] of the whole batch."""
        stage = self._plan.stage
        parts = waveforms.chunk(stage.accumulate_steps)
        losses = torch.zeros(2 + len(self._plan.dims), device=self._device)
        for part, labels in zip(parts, targets.split([len(part) for part in parts]), strict=True):
            share = len(part) / len(waveforms)
            with autocast(self._device, self._precision):
                embeddings = self._forward(part)
                terms = self._criterion(part, embeddings, labels, settings, stage.teacher_weight)
            self._scaler.scale(terms.total * share).backward()
            losses += share * torch.cat([terms.total.detach()[None], terms.teacher[None], terms.per_prefix])
        return losses

    def _check_finite(self, loss: float, gradient_norm: float) -> bool:
        """Whether the scaler will skip this step; raises for numbers that no scaling explains."""
        finite_loss = abs(loss) != float("inf") and loss == loss
        finite_norm = abs(gradient_norm) != float("inf") and gradient_norm == gradient_norm
        if finite_loss and finite_norm:
            self._skipped_in_a_row = 0
            return False
        if not finite_loss:
            raise NonFiniteError(f"the loss is {loss}")
        if not self._scaler.is_enabled():
            raise NonFiniteError(f"the norm of the gradient is {gradient_norm} (loss {loss:.4g})")
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row > _MAX_SKIPPED_IN_A_ROW:
            raise NonFiniteError(f"the gradient overflowed {self._skipped_in_a_row} times in a row")
        return True

    def _set_rates(self, factor: float) -> dict[str, float]:
        rates: dict[str, float] = {}
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_rate"] * factor
            rates[group["part"]] = max(
                group["lr"], rates.get(group["part"], 0.0)
            )  # with depth_decay: the highest
        return rates

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "skipped_in_a_row": self._skipped_in_a_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the state belongs to other parameters."""
        chosen = [
            {key: value for key, value in group.items() if key not in ("params", "lr")}
            for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(state["optimizer"])
        # Rates and decay are the configuration's, which may have been changed on purpose.
        for group, options in zip(self.optimizer.param_groups, chosen, strict=True):
            group.update(options)
        self._scaler.load_state_dict(state["scaler"])
        self._skipped_in_a_row = state["skipped_in_a_row"]
