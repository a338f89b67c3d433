"""One update, from a batch to moved weights.

The host never waits for a GPU within a step: numbers that a step measures are read one step later, while the next
one is being computed. What protects the weights from a number that is not finite works on the device.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mrl.config import RuntimeConfig
from mrl.loss import PrefixSettings, SlicedClassifier
from mrl.models.encoder import SpeakerEncoder
from mrl.processes import Processes
from mrl.randomness import seed_of
from mrl.training.criterion import Criterion
from mrl.training.gradient_flow import Flow, measure_flow_of
from mrl.training.optimizer import build_optimizer, load_optimizer_state
from mrl.training.schedules import StagePlan, rate_factor_at, settings_at
from mrl.training.stages import moving_norms
from mrl.training.step_guard import SkipCounts, StepGuard
from mrl.training.step_module import StepBatch, StepModule
from mrl.training.step_values import NO_REQUESTS, NonFiniteError, Requests, StepValues

_MAX_OVERFLOWS = 20  # in a row, in fp16: the loss scale has been halved as often; something else is wrong
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast that ``runtime.precision`` means; float32 switches it off."""
    return torch.autocast(device.type, _DTYPES[precision], enabled=precision != "float32")


def _may_rest(criterion: Criterion, plan: StagePlan) -> bool:
    """Whether something that learns in the stage has no part in some of its updates."""
    has_map = criterion.term is not None and any(True for _ in criterion.term.parameters())
    return bool(plan.stage.prefix_start) or (has_map and not plan.stage.teacher_weight)


class _Pending(NamedTuple):
    """An update whose numbers have not been read yet."""

    numbers: Tensor  # [gradient norm, total, teacher, replaced, save, stop, per prefix...], on their way to the CPU
    arrived: torch.cuda.Event | None
    gradient_norms: Tensor  # of each tensor with a gradient, on the device
    epoch: int  # of the stage
    run_step: int
    settings: PrefixSettings
    rates: dict[str, float]
    flow: Flow | None


class Updater:
    """The optimizer of one stage and the step that it takes.

    Args:
        encoder, criterion: as :func:`mrl.training.stages.enter_stage` left them for the stage of ``plan``.
        seed: of the run; dropout masks are a function of (seed, step).
        from_pooled: batches hold pooled statistics from a feature cache, not waveforms.
        processes: each takes equal parts of every batch; their gradients are averaged.
    """

    def __init__(
        self,
        encoder: SpeakerEncoder,
        criterion: Criterion,
        plan: StagePlan,
        runtime: RuntimeConfig,
        seed: int,
        *,
        from_pooled: bool = False,
        processes: Processes | None = None,
    ) -> None:
        self._device = encoder.head.linear.weight.device
        self._encoder = encoder
        self._criterion = criterion
        self._plan = plan
        self._seed = seed
        self._processes = processes or Processes()
        is_shared = self._processes.world_size > 1
        module = StepModule(
            encoder,
            criterion,
            from_pooled=from_pooled,
            compiled=runtime.compile,
            gathers=is_shared and not isinstance(criterion.loss, SlicedClassifier),
        )
        self._module: StepModule | DistributedDataParallel = module
        if is_shared:
            # Convolutions that keep frames outermost make such gradients; copying them into place is nothing here.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            self._module = DistributedDataParallel(
                module,
                broadcast_buffers=False,  # they are the same, and stay so
                find_unused_parameters=_may_rest(criterion, plan),
                gradient_as_bucket_view=True,
            )
        self._precision = runtime.precision
        self.optimizer = build_optimizer(encoder, criterion, plan.stage)
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=runtime.precision == "fp16")
        self._limit = runtime.max_skipped if runtime.non_finite == "skip" else 0
        norms = moving_norms(encoder, plan.stage)
        self._guard = StepGuard(self.optimizer, self._scaler, norms, self._limit, self._device)
        self._skips = SkipCounts()
        self._pending: deque[_Pending] = deque()
        self._zeros = torch.zeros(3, device=self._device)

    def update(
        self,
        batch: StepBatch,
        *,
        stage_step: int,
        run_step: int,
        plateau_reductions: int = 0,
        measure_flow: bool = False,
        requests: Requests = NO_REQUESTS,
    ) -> list[StepValues]:
        """One update from ``batch``; returns what has been measured and not returned yet.

        On a CPU that is this update's values, on a GPU those of the one before: :meth:`finish` gives the last.
        The gradient is that of the mean loss over the batch, in however many parts it is accumulated. An update
        whose loss or gradient is not finite changes nothing. Where ``runtime`` does not allow to skip it, raises
        :class:`NonFiniteError`, on a GPU one update late; nothing has changed since before the update that it names.
        """
        plan = self._plan
        # So that a resumed run draws the same masks.
        own = [self._processes.rank] if self._processes.rank else []
        torch.manual_seed(seed_of(self._seed, "dropout", run_step, *own))
        settings = settings_at(stage_step, plan)
        rates = self._set_rates(rate_factor_at(stage_step, plan, plateau_reductions))

        epoch = stage_step // plan.steps_per_epoch
        self.optimizer.zero_grad(set_to_none=True)
        self._guard.begin(epoch)
        losses = self._accumulate_gradients(batch, settings, requests)
        gradients = [p.grad for p in self._trained if p.grad is not None]
        self._guard.taint(gradients, losses[0])
        self._scaler.unscale_(self.optimizer)
        flow = measure_flow_of(self._encoder, self._criterion) if measure_flow else None
        norms = torch.stack(torch._foreach_norm(gradients))
        norm = torch.linalg.vector_norm(norms)
        nn.utils.clip_grads_with_norm_(self._trained, plan.stage.gradient_clip or math.inf, norm)
        self._guard.step(losses[0], norm)

        numbers = torch.cat([norm[None], losses])
        self._pending.append(_Pending(*self._sent(numbers), norms, epoch, run_step, settings, rates, flow))
        return self._read(leave=1 if self._device.type == "cuda" else 0)

    @property
    def applied(self) -> Tensor:
        """Whether the last update happened: bool, on the device."""
        return self._guard.applied

    def finish(self) -> list[StepValues]:
        """The values of all updates that have not been returned yet; waits for them."""
        return self._read(leave=0)

    def _accumulate_gradients(self, batch: StepBatch, settings: PrefixSettings, requests: Requests) -> Tensor:
        """Backward through the batch part by part; returns [total, teacher, replaced, save, stop, per prefix...].

        ``replaced`` counts utterances, ``save`` and ``stop`` processes; the others are means over the batch.
        """
        stage = self._plan.stage
        losses = torch.zeros(5 + len(self._plan.dims), device=self._device)
        parts = batch.parts(stage.accumulate_steps)
        for number, part in enumerate(parts):
            share = len(part.inputs) / len(batch.inputs)
            with self._communication(is_last=number == len(parts) - 1):
                with autocast(self._device, self._precision):
                    terms = self._module(part, settings, stage.teacher_weight)
                total, teacher = terms.total * self._guard.sound, terms.teacher
                self._scaler.scale(total * share).backward()
            losses += share * torch.cat([total.detach()[None], teacher[None], self._zeros, terms.per_prefix])
        for place, value in enumerate((len(batch.replaced), *requests), start=2):
            if value:  # a launch on the device that most steps can do without
                losses[place] = self._processes.world_size * value
        return self._processes.mean(losses)

    def _communication(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Gradients of several processes are averaged once, with the last part of a batch."""
        if is_last or not isinstance(self._module, DistributedDataParallel):
            return nullcontext()
        return cast("AbstractContextManager[None]", self._module.no_sync())

    def _sent(self, numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """``numbers`` on their way to the CPU, and what says that they are there."""
        if self._device.type != "cuda":
            return numbers, None
        copy = torch.empty(numbers.shape, pin_memory=True).copy_(numbers, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return copy, event

    def _read(self, leave: int) -> list[StepValues]:
        """The values of pending updates, the last ``leave`` aside."""
        values = []
        while len(self._pending) > leave:
            update = self._pending.popleft()
            if update.arrived is not None:
                update.arrived.synchronize()
            norm, loss, teacher, replaced, save, stop, *per_prefix = update.numbers.tolist()
            overflowed, fault = self._judge(loss, norm, update)
            values.append(
                StepValues(
                    *(update.run_step, loss, per_prefix, teacher, norm),
                    *(update.settings, update.rates, overflowed, fault, round(replaced)),
                    *(Requests(save > 0.0, stop > 0.0), update.flow),
                )
            )
        return values

    def _judge(self, loss: float, gradient_norm: float, update: _Pending) -> tuple[bool, str | None]:
        """Whether fp16 overflowed, and what else was wrong with an update; raises where the run must stop."""
        fault = None
        if not math.isfinite(loss):
            fault = f"the loss is {loss}"
        elif not math.isfinite(gradient_norm):
            place = self._non_finite_gradient(update.gradient_norms)
            fault = f"the norm of the gradient is {gradient_norm} (loss {loss:.4g}){place}"
        overflowed = self._scaler.is_enabled() and fault is not None and math.isfinite(loss)
        self._skips.note(update.epoch, is_faulty=fault is not None and not overflowed, is_overflow=overflowed)
        if self._skips.overflows > _MAX_OVERFLOWS:
            raise NonFiniteError(
                f"the gradient overflowed {self._skips.overflows} times in a row; {fault}", update.run_step
            )
        if overflowed:
            return True, None
        if fault is not None and self._skips.exceed(self._limit):
            row, epoch = self._skips.in_a_row, self._skips.in_epoch
            counted = (
                f"; {row} skipped in a row and {epoch} in this epoch, runtime.max_skipped is {self._limit}"
            )
            raise NonFiniteError(fault + (counted if self._limit else ""), update.run_step)
        return False, fault

    def _non_finite_gradient(self, norms: Tensor) -> str:
        """Where a gradient that is not finite came up: of all such tensors, the one nearest to the loss."""
        named = [*self._encoder.named_parameters(), *self._criterion.named_parameters(prefix="criterion")]
        places = {id(parameter): place for place, (_, parameter) in enumerate(named)}
        with_gradient = [p for p in self._trained if p.grad is not None]
        broken = [
            places[id(p)]
            for p, norm in zip(with_gradient, norms.tolist(), strict=True)
            if not math.isfinite(norm)
        ]
        return f", that of {named[max(broken)][0]} among others" if broken else ""

    def _set_rates(self, factor: float) -> dict[str, float]:
        rates: dict[str, float] = {}
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_rate"] * factor
            # With depth_decay a part has several: the highest counts.
            rates[group["part"]] = max(group["lr"], rates.get(group["part"], 0.0))
        return rates

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "skips": self._skips.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the state belongs to another optimizer or to other parameters."""
        load_optimizer_state(self.optimizer, state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self._skips = SkipCounts(**state.get("skips", {}))  # which older checkpoints have not
        self._guard.load(self._skips)
