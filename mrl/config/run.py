"""The run as a whole: device, logging, checkpoints, and the configuration that holds every section."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mrl.config.base import Count, NonNegative, Section, require_unique
from mrl.config.data import DataConfig, DemoConfig, ValidationConfig
from mrl.config.model import LossConfig, ModelConfig, PrefixConfig
from mrl.config.stage import StageConfig


class RuntimeConfig(Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a CUDA GPU if there is one, otherwise the CPU."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Autocast of the network's forward; losses and statistics stay in float32. fp16 needs a GPU."""
    compile: bool = False
    """torch.compile the encoder in training."""


class LoggingConfig(Section):
    directory: Path = Path("logs")
    """training.log, metrics.jsonl, the resolved config, TensorBoard files and plots go here."""
    every_steps: Count = 10
    """How often the values of a step are recorded."""
    gradient_flow_every_steps: Count | None = None
    """How often the gradient norm of each block is recorded, and dead or exploding ones named; null: never."""
    tensorboard: bool = True
    """Write TensorBoard files."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases; its key comes from WANDB_API_KEY in the environment or in .env."""
    project: str = "mrl-speaker-recognition"
    """Weights & Biases project."""
    run_name: str | None = None
    """Weights & Biases run."""
    plots: bool = True
    """Draw curves of the loss, the EER and what else was recorded at the end."""

    @field_validator("wandb", mode="before")
    @classmethod
    def _yaml_off(cls, value: object) -> object:
        return "off" if value is False else value  # a bare `off` is a boolean in YAML


class CheckpointConfig(Section):
    directory: Path = Path("checkpoints")
    """best.pt, last.pt and epoch_NNN.pt go here."""
    every_epochs: Count = 5
    """Keep epoch_NNN.pt every so many epochs."""
    keep_last: Count = 3
    """How many of them stay."""
    select_by: str = "mean_eer"
    """best.pt has the lowest of this: mean_eer, or eer_<dim> for one prefix (mean over the trial lists)."""
    full_size_tolerance: NonNegative = 0.0
    """best.pt may be so many EER percentage points worse than the pretrained model at the widest prefix."""


class Config(Section):
    """A whole run."""

    seed: Annotated[int, Field(ge=0)] = 42
    """Fixes crops, order, augmentation, dropout and fresh weights."""
    model: ModelConfig
    """The model."""
    prefixes: Annotated[tuple[PrefixConfig, ...], Field(min_length=1)]
    """Each prefix of the embedding with the weight of its loss."""
    loss: LossConfig = LossConfig()
    """What is minimised at each prefix."""
    data: DataConfig
    """Training corpora and what is mixed into them."""
    validation: ValidationConfig
    """Trial lists."""
    stages: tuple[StageConfig, ...]
    """In order. An empty list warm-starts, scores and saves."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Device and precision."""
    logging: LoggingConfig = LoggingConfig()
    """What is recorded."""
    checkpoints: CheckpointConfig = CheckpointConfig()
    """What is kept."""
    demo: DemoConfig | None = None
    """Where set, missing demo speakers are synthesised before the run."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Prefix sizes, ascending."""
        return tuple(prefix.dim for prefix in self.prefixes)

    @field_validator("prefixes")
    @classmethod
    def _ascending(cls, prefixes: tuple[PrefixConfig, ...]) -> tuple[PrefixConfig, ...]:
        require_unique(prefixes, "dim")
        return tuple(sorted(prefixes, key=lambda prefix: prefix.dim))

    @field_validator("stages")
    @classmethod
    def _unique_stages(cls, stages: tuple[StageConfig, ...]) -> tuple[StageConfig, ...]:
        return require_unique(stages, "name")

    @model_validator(mode="after")
    def _selectable(self) -> Config:
        choices = ["mean_eer", *(f"eer_{dim}" for dim in self.dims)]
        if self.checkpoints.select_by not in choices:
            given = self.checkpoints.select_by
            raise ValueError(f"checkpoints.select_by is {given!r}, expected one of {', '.join(choices)}")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        """Everything that joins sections; all of it in one message."""
        problems = [problem for stage in self.stages for problem in self._problems_of(stage)]
        if not self.loss.has_classes:
            problems += [
                f"prefixes: dim {prefix.dim} sets a scale, which loss.type {self.loss.type} does not read"
                for prefix in self.prefixes
                if prefix.scale is not None
            ]
            if self.data.held_out_share:
                problems.append(
                    f"data.held_out_share needs class vectors; loss.type {self.loss.type} has none"
                )
        if self.model.teacher is not None and not any(stage.teacher_weight for stage in self.stages):
            problems.append("model.teacher does nothing: no stage has a teacher_weight")
        labels = [corpus.label for corpus in self.data.train]
        problems += [
            f"validation.lists.{entry.name}: hold_out_from names {entry.hold_out_from}, data.train has "
            f"{', '.join(labels)}"
            for entry in self.validation.lists
            if entry.hold_out_from is not None and entry.hold_out_from not in labels
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems_of(self, stage: StageConfig) -> list[str]:
        problems = []
        margins = [stage.margin, self.loss.margin, *(prefix.margin for prefix in self.prefixes)]
        is_angle = self.loss.type == "aam" or self.loss.sphereface2_margin == "a"
        if is_angle and max(margin for margin in margins if margin is not None) >= 1.57:
            problems.append(f"stages.{stage.name}: a margin on the angle is in radians, below pi/2")
        has_rate = stage.learning_rate.classifier is not None
        if self.loss.has_classes and not has_rate:
            problems.append(f"stages.{stage.name}: learning_rate lacks a rate for classifier")
        if not self.loss.has_classes:
            problems += self._problems_of_pairs(stage, has_rate)
        if self.loss.inter_top_k and not any(margin for margin in margins if margin is not None):
            problems.append(f"stages.{stage.name}: loss.inter_top_k does nothing where the margin is 0")
        for dim in stage.prefix_start:
            if dim not in self.dims:
                problems.append(f"stages.{stage.name}: prefix_start names {dim}, which is no prefix")
        if (
            stage.prefix_start
            and len(stage.prefix_start) == len(self.dims)
            and min(stage.prefix_start.values()) > 1
        ):
            problems.append(f"stages.{stage.name}: prefix_start leaves epoch 1 without any prefix")
        if stage.augmentation.music_probability and self.data.music is None:
            problems.append(f"stages.{stage.name}: music_probability needs data.music, a folder of clips")
        return problems

    def _problems_of_pairs(self, stage: StageConfig, has_rate: bool) -> list[str]:
        where, kind = f"stages.{stage.name}", f"loss.type {self.loss.type}"
        problems = []
        if stage.utterances_per_speaker is None:
            problems.append(f"{where}: {kind} needs utterances_per_speaker, two or more")
        if stage.accumulate_steps > 1:
            problems.append(f"{where}: {kind} looks at a whole batch; accumulate_steps must be 1")
        if stage.augmentation.mixup_probability:
            problems.append(f"{where}: mixup mixes class labels, which {kind} does not have")
        if has_rate and not (stage.teacher_weight and self.model.teacher is not None):
            problems.append(f"{where}: learning_rate.classifier is set, but {kind} has no classifier")
        return problems
