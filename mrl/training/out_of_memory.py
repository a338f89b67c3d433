"""What is said where a device has too little memory: how much was asked of it, and what should fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from mrl.config import Config, StageConfig
from mrl.errors import TrainingError
from mrl.training.device_memory import GIBI, Memory, is_out_of_memory, measure

_USABLE = 0.8  # of what is left beside weights: a step that failed early has not shown all that it needs

Advise = Callable[[int, Memory], str]
"""From the bytes held before the work, and the memory at the failure, to what to do about it."""


@contextmanager
def naming_memory(work: str, device: torch.device, advise: Advise) -> Iterator[None]:
    """TrainingError in place of an error of memory within the block, which does ``work``."""
    before = measure(device).held
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        memory = measure(device)
        kind = "GPU memory" if device.type == "cuda" else "memory"
        raise TrainingError(
            f"out of {kind} {work}: {memory.peak / GIBI:.2f} of {memory.capacity / GIBI:.2f} GiB were in use, "
            f"{before / GIBI:.2f} of them before it; {advise(before, memory)}"
        ) from None


def training_advice(config: Config, stage: StageConfig, world_size: int) -> Advise:
    """How to go on with training ``stage`` in ``world_size`` processes."""

    def advise(before: int, memory: Memory) -> str:
        together = stage.batch_size // (world_size * stage.accumulate_steps)
        fitting = crops_that_fit(together, before, memory)
        place = f"stages.{stage.name}"
        steps = steps_for(stage, world_size, fitting)
        if steps is None:
            way = f"shorten {place}.crop_seconds, or lower {place}.batch_size"
        elif not may_accumulate(config, stage):
            way = f"lower {place}.batch_size to {fitting * world_size}"
        else:
            rows = stage.batch_size // (world_size * steps)
            way = f"{rows} crops at a time should fit: set {place}.accumulate_steps to {steps}, for the same gradient"
        return (
            f"{together} crops of {stage.crop_seconds:g} s were computed together (batch_size {stage.batch_size}, "
            f"accumulate_steps {stage.accumulate_steps}, {world_size} process{'es' if world_size > 1 else ''}). "
            f"{way[0].upper()}{way[1:]}, and go on with --resume auto --allow-config-change; "
            "train.py --find-batch-size measures what fits"
        )

    return advise


def may_accumulate(config: Config, stage: StageConfig) -> bool:
    """Whether a batch may be cut; not where statistics or a loss look at all of it."""
    return stage.norm_statistics == "frozen" and config.loss.has_classes


def crops_that_fit(together: int, before: int, memory: Memory) -> int:
    """How many crops should fit where ``together`` did not, with ``before`` bytes held before them.

    A guess on the safe side: all that the crops took counts as theirs, gradients and moments too; and since how far
    the step came is unknown, never more than half as many.
    """
    each = max(1.0, (memory.peak - before) / together)
    return max(0, min(together // 2, int(_USABLE * (memory.capacity - before) / each)))


def steps_for(stage: StageConfig, world_size: int, fitting: int) -> int | None:
    """The fewest accumulate_steps with which no more than ``fitting`` crops are computed together; None: there is no
    such number."""
    own = stage.batch_size // world_size
    return next((steps for steps in range(1, own + 1) if own % steps == 0 and own // steps <= fitting), None)
