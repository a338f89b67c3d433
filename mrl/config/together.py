"""What must hold between sections: problems that no section sees by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrl.config.run import Config
    from mrl.config.stage import StageConfig

_HALF_PI = 1.57
_WIDEST = 65_536  # an embedding that load_encoder reads


def problems_of(config: Config) -> list[str]:
    """A line for each problem."""
    problems = [*_of_loss(config), *_of_data(config)]
    for stage in config.stages:
        checks = (_of_margins, _of_prefixes, _of_teacher, _of_validations, _of_augmentation)
        found = [problem for check in checks for problem in check(config, stage)]
        found += _of_classes(config, stage) if config.loss.has_classes else _of_pairs(config, stage)
        problems += [f"stages.{stage.name}: {problem}" for problem in found]
    return problems


def _of_loss(config: Config) -> Iterator[str]:
    kind = f"loss.type {config.loss.type}"
    for prefix in config.prefixes:
        if prefix.dim > _WIDEST:
            yield f"prefixes: dim {prefix.dim} is more than {_WIDEST}"
        if prefix.scale is not None and not config.loss.has_classes:
            yield f"prefixes: dim {prefix.dim} sets a scale, which {kind} does not read"
        if prefix.margin is not None and config.loss.type == "supcon":
            yield f"prefixes: dim {prefix.dim} sets a margin, which {kind} does not read"
    if config.data.held_out_share and not config.loss.has_classes:
        yield f"data.held_out_share needs class vectors; {kind} has none"
    if config.model.teacher is not None and not any(stage.teacher_weight for stage in config.stages):
        yield "model.teacher does nothing: no stage has a teacher_weight"


def _of_data(config: Config) -> Iterator[str]:
    labels = [corpus.label for corpus in config.data.train]
    for entry in config.validation.lists:
        if entry.hold_out_from is not None and entry.hold_out_from not in labels:
            yield (
                f"validation.lists.{entry.name}: hold_out_from names {entry.hold_out_from}, data.train has "
                f"{', '.join(labels)}"
            )


def _margins(config: Config, stage: StageConfig) -> list[float]:
    """The peak margin of each prefix in ``stage``."""
    default = config.loss.margin if stage.margin is None else stage.margin
    return [default if prefix.margin is None else prefix.margin for prefix in config.prefixes]


def _of_margins(config: Config, stage: StageConfig) -> Iterator[str]:
    loss, margins = config.loss, _margins(config, stage)
    on_angle = loss.type == "aam" or (loss.type == "sphereface2" and loss.sphereface2_margin == "a")
    if on_angle and max(margins) >= _HALF_PI:
        yield "a margin on the angle is in radians, below pi/2"
    if loss.type == "supcon" and (stage.margin is not None or stage.margin_warmup_epochs):
        yield "margin and margin_warmup_epochs do nothing with loss.type supcon"
    elif stage.margin_warmup_epochs and not any(margins):
        yield "margin_warmup_epochs does nothing where the margin is 0"
    if loss.inter_top_k and not any(margins):
        yield "loss.inter_top_k does nothing where the margin is 0"


def _of_prefixes(config: Config, stage: StageConfig) -> Iterator[str]:
    start = stage.prefix_start
    for dim in start:
        if dim not in config.dims:
            yield f"prefix_start names {dim}, which is no prefix"
    if len(start) == len(config.dims) and min(start.values()) > 1:
        yield "prefix_start leaves epoch 1 without any prefix"


def _of_teacher(config: Config, stage: StageConfig) -> Iterator[str]:
    if stage.teacher_weight and config.model.head_init == "random" and config.model.teacher is None:
        yield (
            "teacher_weight holds the prefixes to the released embedding, which a fresh head does not start from; "
            "model.head_init must be rotated or truncated, or model.teacher name another model"
        )


def _of_validations(config: Config, stage: StageConfig) -> Iterator[str]:
    every = config.validation.every_epochs
    validations = -(-stage.epochs // every)
    if stage.average is not None and stage.average.of == "best" and validations < stage.average.epochs:
        yield f"average of the best {stage.average.epochs} epochs, but only {validations} are scored (every {every})"
    if stage.schedule == "plateau" and validations <= stage.plateau_patience:
        yield f"plateau_patience {stage.plateau_patience} is not passed in {validations} validations"


def _of_augmentation(config: Config, stage: StageConfig) -> Iterator[str]:
    augmentation = stage.augmentation
    if augmentation.music_probability and config.data.music is None:
        yield "music_probability needs data.music, a folder of clips"
    if augmentation.ramp_epochs > stage.epochs:
        yield f"augmentation.ramp_epochs {augmentation.ramp_epochs:g} is more than epochs {stage.epochs}"
    if augmentation.mixup_probability and config.loss.inter_top_k:
        yield "mixup_probability and loss.inter_top_k do not go together: the partner is a right class too"


def _of_classes(config: Config, stage: StageConfig) -> Iterator[str]:
    if stage.learning_rate.classifier is None:
        yield "learning_rate lacks a rate for classifier"


def _of_pairs(config: Config, stage: StageConfig) -> Iterator[str]:
    kind = f"loss.type {config.loss.type}"
    if stage.utterances_per_speaker is None:
        yield f"{kind} needs utterances_per_speaker, two or more"
    if stage.accumulate_steps > 1:
        yield f"{kind} looks at a whole batch; accumulate_steps must be 1"
    if stage.augmentation.mixup_probability:
        yield f"mixup mixes class labels, which {kind} does not have"
    if stage.augmentation.speed_classes:
        yield f"speed_labels: new would leave most utterances without a pair under {kind}; say same"
    learns_map = stage.teacher_weight and config.model.teacher is not None
    if stage.learning_rate.classifier is not None and not learns_map:
        yield f"learning_rate.classifier is set, but {kind} has no classifier"
