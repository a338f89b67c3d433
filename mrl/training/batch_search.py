"""``--find-batch-size``: the largest part of a batch that trains in the memory of the device, stage by stage.

A try is a real update on a batch of the stage's own length and augmentation: random samples take the memory that
recordings do. B batch, T samples, P pooled statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from mrl.audio import SAMPLE_RATE
from mrl.config import Config
from mrl.data.assemble import RunData
from mrl.data.augment import Augmenter
from mrl.data.effects import to_device
from mrl.errors import TrainingError
from mrl.loss import Targets
from mrl.models.encoder import SpeakerEncoder
from mrl.randomness import torch_generator
from mrl.training.criterion import Criterion
from mrl.training.device_memory import GIBI, is_out_of_memory, measure, reset_peak
from mrl.training.live_weights import LiveWeights
from mrl.training.out_of_memory import may_accumulate, naming_memory, steps_for
from mrl.training.schedules import StagePlan, plan_stages
from mrl.training.step_module import StepBatch
from mrl.training.tracking import Tracker
from mrl.training.updater import Updater

MARGIN = 0.1
"""Share of the memory that stays free: crops differ, and so does what else is on the device."""
_COLUMNS = ("stage", "crop", "batch", "trains at a time", "memory", "write")


class Found(NamedTuple):
    """The largest part of a batch that fits, and what it took at most; of no crops where not even one fits."""

    crops: int
    peak: int


def find_batch_sizes(
    config: Config, encoder: SpeakerEncoder, criterion: Criterion, data: RunData, tracker: Tracker
) -> None:
    """Print what fits, for each stage of ``config``, and what to write. Raises TrainingError where nothing does."""
    start = copy.deepcopy(encoder.state_dict()), copy.deepcopy(criterion.state_dict())
    rows, too_large = [], []
    for plan in plan_stages(config, data.train):
        encoder.load_state_dict(start[0])
        criterion.load_state_dict(start[1])
        found = _search_stage(config, plan, encoder, criterion, data, tracker)
        if not found.crops:
            too_large.append(plan.stage.name)
        rows.append(_row(config, plan, found))
    capacity = measure(encoder.head.linear.weight.device).capacity
    tracker.table("what fits", _COLUMNS, rows)
    tracker.say(f"{capacity / GIBI:.2f} GiB are there for the run; {100 * MARGIN:.0f} % of them stay free")
    if too_large:
        raise TrainingError(
            f"stage {', '.join(too_large)}: not even one crop trains in memory; shorten crop_seconds, or set "
            "runtime.precision to bf16"
        )


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to ``most`` that ``fits``, by doubling and then halving the gap; 0 where 1 does not.

    Where a number fits, smaller ones are taken to fit.
    """
    good, bad = 0, most + 1
    tried = 1
    while good < most and tried < bad:
        if fits(tried):
            good = tried
        else:
            bad = tried
        tried = min(2 * tried, most) if bad > most else (good + bad) // 2
        if tried == good:
            break
    return good


def foreseen(measured: dict[int, int], crops: int) -> float:
    """Bytes that ``crops`` will take, on a straight line through the two largest of those ``measured``."""
    if len(measured) < 2:
        return 0.0
    (few, low), (more, high) = sorted(measured.items())[-2:]
    return high + (crops - more) * max(0.0, (high - low) / (more - few))


def _search_stage(
    config: Config,
    plan: StagePlan,
    encoder: SpeakerEncoder,
    criterion: Criterion,
    data: RunData,
    tracker: Tracker,
) -> Found:
    stage, device = plan.stage, encoder.head.linear.weight.device
    weights = LiveWeights(config, stage, encoder, criterion)
    measured: dict[int, int] = {}
    # Fewer than two have no statistics, and fewer than a speaker's share no pairs.
    unit = stage.utterances_per_speaker or (2 if stage.norm_statistics == "batch" else 1)

    def fits(units: int) -> bool:
        crops = units * unit
        reset_peak(device)
        allowed = (1.0 - MARGIN) * measure(device).capacity
        if foreseen(measured, crops) > allowed:
            return False
        # Where the batch is cut, gradients are already there when the second part is computed.
        parts = 2 if 2 * crops <= stage.batch_size and may_accumulate(config, stage) else 1
        try:
            _update(config, plan, encoder, criterion, _first(batch, parts * crops), parts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        measured[crops] = measure(device).peak
        tracker.say(f"stage {stage.name}: {crops} at a time take {measured[crops] / GIBI:.2f} GiB")
        return measured[crops] <= allowed

    try:
        with naming_memory(
            f"in the augmentation of a batch of stage {stage.name}", device, lambda *_: "lower its batch_size"
        ):
            batch = _batch(config, plan, data, encoder, criterion)
        crops = unit * largest_that_fits(fits, stage.batch_size // unit)
    finally:
        weights.leave()
    return Found(crops, measured.get(crops, 0))


def _update(
    config: Config,
    plan: StagePlan,
    encoder: SpeakerEncoder,
    criterion: Criterion,
    batch: StepBatch,
    parts: int,
) -> None:
    """Two updates from ``batch``: the first one makes the optimizer's moments."""
    cut = replace(plan, stage=plan.stage.model_copy(update={"accumulate_steps": parts}))
    from_pooled = plan.stage.cache_views > 0
    updater = Updater(encoder, criterion, cut, config.runtime, config.seed, from_pooled=from_pooled)
    for step in range(2):
        updater.update(batch, stage_step=step, run_step=step)
    updater.finish()
    updater.optimizer.zero_grad(set_to_none=True)


def _batch(
    config: Config, plan: StagePlan, data: RunData, encoder: SpeakerEncoder, criterion: Criterion
) -> StepBatch:
    """A whole batch of random crops [B, T], augmented as the stage says, or of random pooled statistics [B, P]."""
    stage, device = plan.stage, encoder.head.linear.weight.device
    count = stage.batch_size
    generator = torch_generator(config.seed, "batch search")
    utterances = torch.arange(count) % len(data.train)
    speakers = (torch.arange(count) // (stage.utterances_per_speaker or 1)) % len(data.train.speakers)
    if stage.cache_views:
        reference = None
        if stage.teacher_weight and criterion.teacher is not None:
            reference = torch.randn(count, criterion.teacher.head.embedding_dim, device=device)
        pooled = torch.randn(count, encoder.backbone.pooled_dim, generator=generator).to(device)
        return StepBatch(pooled, Targets(speakers.to(device)), reference, utterances, [])
    augmenter = Augmenter(stage.augmentation, seed=config.seed, banks=data.banks)
    num_samples = round(stage.crop_seconds * SAMPLE_RATE)
    waveforms = 0.1 * torch.randn(count, augmenter.source_samples(num_samples), generator=generator)
    planned = augmenter.plan(utterances, speakers, epoch=1, num_samples=waveforms.shape[1])
    augmented = augmenter.apply(waveforms.to(device), to_device(planned, device))
    targets = planned.targets(speakers.to(device), len(data.train.speakers))
    return StepBatch(augmented, targets, None, utterances, [])


def _first(batch: StepBatch, count: int) -> StepBatch:
    """The first ``count`` items of ``batch``."""
    reference = None if batch.reference is None else batch.reference[:count]
    targets, *_ = batch.targets.split([count, len(batch.inputs) - count])
    return StepBatch(batch.inputs[:count], targets, reference, batch.utterances[:count], [])


def _row(config: Config, plan: StagePlan, found: Found) -> list[str]:
    stage = plan.stage
    steps = steps_for(stage, 1, found.crops)
    if not found.crops or steps is None:
        write = "nothing fits"
    elif may_accumulate(config, stage):
        write = f"accumulate_steps: {steps}"
    else:
        write = f"batch_size: {found.crops}"
    return [
        stage.name,
        "cached" if stage.cache_views else f"{stage.crop_seconds:g} s",
        str(stage.batch_size),
        str(found.crops),
        f"{found.peak / GIBI:.2f} GiB",
        write,
    ]
