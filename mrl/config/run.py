"""The run as a whole: device, logging, checkpoints, and the configuration that holds every section."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mrl.config.base import Count, NonNegative, Section, require_default, require_unique
from mrl.config.data import DataConfig, DemoConfig, ValidationConfig
from mrl.config.evaluation import EvaluationConfig
from mrl.config.model import LossConfig, ModelConfig, PrefixConfig
from mrl.config.stage import StageConfig

PRETRAINED = "pretrained"
"""Stage name of epoch 0 in the history of a run."""
WARM_START = "warm_start"
"""Stage name of epoch 0 among the files of a run."""


class RuntimeConfig(Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a CUDA GPU if there is one, otherwise the CPU."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Autocast of the network's forward; losses and statistics stay in float32. fp16 needs a GPU."""
    compile: bool = False
    """torch.compile the encoder in training."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What becomes of an update whose loss or gradient is NaN or infinite: stop the run before it, or skip it; its
    files are written to ``non_finite.txt`` in the log folder."""
    max_skipped: Count = 10
    """skip: the run stops at more than so many in a row, or in one epoch. What fp16's loss scale skips does not
    count."""

    @model_validator(mode="after")
    def _policy_fits(self) -> RuntimeConfig:
        if self.non_finite == "stop":
            require_default(self, ("max_skipped",), "does nothing with non_finite: stop")
        return self


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
    every_minutes: Annotated[float, Field(gt=0)] | None = 30.0
    """last.pt is also written within an epoch, after so many minutes without; null: at the end of epochs only."""
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
    evaluation: EvaluationConfig = EvaluationConfig()
    """What evaluate.py measures; no run reads it."""
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
        for reserved in (PRETRAINED, WARM_START):
            if any(stage.name == reserved for stage in stages):
                raise ValueError(
                    f"a stage cannot be called {reserved}, which is what epoch 0 is called in the records"
                )
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
        # Not at the top: what it checks is this class.
        from mrl.config.together import problems_of

        if problems := problems_of(self):
            raise ValueError("\n".join(problems))
        return self
