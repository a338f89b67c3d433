"""The plan of a run, for ``--dry-run``: stages, steps, parameters trained, memory of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from mrl.audio import SAMPLE_RATE
from mrl.config import Config
from mrl.data.corpus import Corpus
from mrl.loss import Targets
from mrl.models.encoder import SpeakerEncoder
from mrl.training.criterion import Criterion
from mrl.training.device_memory import GIBI, measure
from mrl.training.epoch_report import trained_parts
from mrl.training.feature_cache import cache_layout, describe_need
from mrl.training.live_weights import LiveWeights
from mrl.training.schedules import StagePlan, plan_stages
from mrl.training.stages import part_modules
from mrl.training.tracking import Tracker
from mrl.training.updater import autocast

_PROBE = 2  # utterances that the memory is measured with
_BYTES_PER_TRAINED = 16  # weight, gradient, two AdamW moments, float32
_COLUMNS = ("stage", "trains", "parameters", "epochs", "steps", "batch", "crop", "margin", "memory")


def describe_plan(
    config: Config,
    encoder: SpeakerEncoder,
    criterion: Criterion,
    corpus: Corpus,
    tracker: Tracker,
) -> None:
    """Print the stages of ``config`` over the training ``corpus``, and where memory is too short for one."""
    rows, remarks = [], []
    capacity = measure(encoder.head.linear.weight.device).capacity
    for plan in plan_stages(config, corpus):
        stage = plan.stage
        weights = LiveWeights(config, stage, encoder, criterion)
        memory = batch_memory(encoder, criterion, plan, config.runtime.precision)
        rows.append(_row(config, plan, sum(trained_parameters(encoder, criterion).values()), memory))
        if memory > capacity:
            remarks.append(
                f"stage {stage.name} needs {memory / GIBI:.1f} GiB at least, and {capacity / GIBI:.1f} GiB are "
                "free for it: train.py --find-batch-size measures how many crops fit at a time"
            )
        if stage.cache_views:
            layout = cache_layout(stage, corpus, encoder, criterion)
            remarks.append(describe_need(stage, layout, config.data.cache))
        weights.leave()
    tracker.table("plan", _COLUMNS, rows)
    tracker.say(
        "memory: what the backward pass of one batch (part) keeps, measured on "
        f"{_PROBE} crops and scaled, with weights, gradients and optimizer states"
    )
    for remark in remarks:
        tracker.say(remark)
    if not rows:
        tracker.say("no stages: the run would warm-start, score and save best.pt")
    tracker.say("dry run: everything that a run needs is there; nothing was trained")


def _row(config: Config, plan: StagePlan, num_trained: int, memory: float) -> list[str]:
    """What the plan says of one stage, as `_COLUMNS` name it."""
    stage = plan.stage
    return [
        stage.name,
        ", ".join(trained_parts(plan, config.loss.has_classes)),
        f"{num_trained:,}",
        str(stage.epochs),
        f"{stage.epochs} x {plan.steps_per_epoch}",
        f"{stage.batch_size}" + (f" in {stage.accumulate_steps}" if stage.accumulate_steps > 1 else ""),
        f"{stage.crop_seconds:g} s",
        f"{plan.peak.margins[-1]:g}",
        f"{memory / 2**20:,.0f} MiB",
    ]


def trained_parameters(encoder: SpeakerEncoder, criterion: Criterion) -> dict[str, int]:
    """Numbers that learn, by part, in the stage that was entered."""
    counts = {}
    for part, module in part_modules(encoder, criterion).items():
        counts[part] = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return counts


def batch_memory(encoder: SpeakerEncoder, criterion: Criterion, plan: StagePlan, precision: str) -> float:
    """Bytes of one update: tensors kept for the backward pass, and weights with gradients and moments."""
    rows = plan.stage.batch_size // plan.stage.accumulate_steps
    few, more = (_kept_bytes(encoder, criterion, plan, precision, size) for size in (_PROBE, 2 * _PROBE))
    kept = few + (rows - _PROBE) / _PROBE * (more - few)  # part of it does not depend on the batch
    weights = sum(p.numel() * p.element_size() for p in [*encoder.parameters(), *criterion.parameters()])
    trained = sum(trained_parameters(encoder, criterion).values())
    return kept + weights + (_BYTES_PER_TRAINED - 4) * trained


def _kept_bytes(
    encoder: SpeakerEncoder, criterion: Criterion, plan: StagePlan, precision: str, size: int
) -> int:
    """Bytes that the backward pass of ``size`` crops keeps."""
    stage, device = plan.stage, encoder.head.linear.weight.device
    if stage.cache_views:
        module: torch.nn.Module = encoder.head
        inputs = torch.randn(size, encoder.backbone.pooled_dim, device=device)
    else:
        module = encoder
        inputs = torch.randn(size, round(stage.crop_seconds * SAMPLE_RATE), device=device) * 0.01
    with _SavedBytes(module) as network, autocast(device, precision):
        embeddings = module(inputs)
    probe = embeddings.detach().requires_grad_()
    targets = Targets(torch.zeros(size, dtype=torch.long, device=device))
    reference = None
    if stage.teacher_weight:
        assert criterion.teacher is not None
        reference = torch.randn(size, criterion.teacher.head.embedding_dim, device=device)
    with _SavedBytes(criterion) as loss:
        criterion(probe, targets, plan.peak, reference, stage.teacher_weight)
    return network.total + loss.total


class _SavedBytes:
    """Counts the bytes of distinct tensors that autograd keeps for the backward pass, parameters aside."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.total = 0
        # Referenced, not only counted: a freed tensor's address could come back and hide another one.
        self._kept: dict[int, Tensor] = {}
        self._known = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known and storage.data_ptr() not in self._kept:
            self._kept[storage.data_ptr()] = tensor.detach()
            self.total += storage.nbytes()
        return tensor

    def __enter__(self) -> _SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        self._kept.clear()
