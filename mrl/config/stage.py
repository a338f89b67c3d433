"""A stage: what it trains, how long, on what, with which rates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mrl.config.augmentation import AugmentationConfig
from mrl.config.base import (
    Count,
    Name,
    NonNegative,
    Positive,
    Probability,
    Section,
    Share,
    require_default,
    require_unique,
)


class LearningRates(Section):
    backbone: Positive | None = None
    """Of the backbone (all before the head), or of its low-rank adapters."""
    head: Positive | None = None
    """Of the Matryoshka head."""
    classifier: Positive | None = None
    """Of the class vectors, and of the map to a teacher of another size."""

    def named(self) -> dict[str, float]:
        """The rates that are set, by the part that they belong to."""
        rates = {"backbone": self.backbone, "head": self.head, "classifier": self.classifier}
        return {part: rate for part, rate in rates.items() if rate is not None}


class LoraConfig(Section):
    rank: Count = 8
    """Of the update of each layer."""
    alpha: Positive = 16.0
    """The update is scaled by alpha / rank."""
    dropout: Share = 0.0
    """On the adapters' input."""
    layers: Literal["attention", "linear", "all"] = "all"
    """Which layers get adapters: attention's linear layers; all linear layers and 1x1 convolutions; every
    convolution without groups as well."""


class AverageConfig(Section):
    epochs: Annotated[int, Field(ge=2)] = 3
    """How many epochs' weights."""
    of: Literal["last", "best"] = "last"
    """The last epochs of the stage, or its best by ``checkpoints.select_by``."""


class StageConfig(Section):
    name: Name
    """Name in logs, tables and plots."""
    train: Annotated[tuple[Literal["backbone", "head"], ...], Field(min_length=1)]
    """Parts that learn; the classifier always does. The rest is frozen, BatchNorm statistics included."""
    epochs: Count
    """Passes over the training corpus."""
    crop_seconds: Annotated[float, Field(ge=0.1, le=300)] = 3.0
    """Length of the crops, 0.1 to 300."""
    batch_size: Count
    """Utterances per update, over all accumulation steps."""
    cache_views: Annotated[int, Field(ge=0)] = 0
    """With a frozen backbone: so many augmented views of each utterance go through it once, and are kept on disk in
    ``data.cache``; epochs then go over them in turn. 0: new crops in each epoch, through the backbone."""
    accumulate_steps: Count = 1
    """Parts that a batch is cut into; the gradient is that of the whole batch."""
    utterances_per_speaker: Annotated[int, Field(ge=2)] | None = None
    """A batch holds so many utterances of each of its speakers; null: whoever comes. Pair losses need it."""
    learning_rate: LearningRates
    """Peak rate of each part."""
    depth_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """The backbone's rate is multiplied by this once more for each block further from the head."""
    lora: LoraConfig | None = None
    """Train low-rank adapters of the backbone's layers in place of its weights; they are merged in best.pt."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum."""
    momentum: Share = 0.9
    """Momentum of SGD; AdamW's first beta."""
    nesterov: bool = True
    """SGD: Nesterov's momentum."""
    weight_decay: NonNegative = 0.0
    """Decay of weights (not of biases, norms and class vectors): decoupled in AdamW, L2 in SGD."""
    schedule: Literal["cosine", "cosine_restarts", "exponential", "one_cycle", "plateau", "constant"] = (
        "cosine"
    )
    """How the rates fall from their peak after the warm-up."""
    final_rate_share: Probability = 0.01
    """The rates end at this share of their peak; on a plateau they never fall below it."""
    restart_epochs: Positive | None = None
    """cosine_restarts: length of a cycle."""
    plateau_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """plateau: the rates are multiplied by this ..."""
    plateau_patience: Count = 2
    """plateau: ... after so many validations in a row without a lower mean EER."""
    warmup_epochs: NonNegative = 0.0
    """The rates rise linearly over so many epochs; one_cycle: from a twenty-fifth, along a cosine."""
    warmup_steps: Count | None = None
    """... or over so many updates."""
    margin: NonNegative | None = None
    """Margin in this stage (none: ``loss.margin``)."""
    margin_warmup_epochs: NonNegative = 0.0
    """The margin rises from 0 over so many epochs."""
    margin_rise: Literal["linear", "exponential"] = "linear"
    """... along a straight line, or fast at first: 1 - 0.001^share."""
    prefix_start: dict[int, Count] = Field(default_factory=dict)
    """Progressive Matryoshka: {dim: epoch of this stage (from 1) in which this prefix joins the loss}."""
    teacher_weight: NonNegative = 0.0
    """Weight of 1 - cosine to the teacher's embedding, mean over the prefixes."""
    gradient_clip: Positive | None = 5.0
    """Largest norm of the whole gradient."""
    norm_statistics: Literal["frozen", "batch"] = "frozen"
    """BatchNorm of trained parts: keep the pretrained statistics, or use and update those of the batch."""
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Score and keep a moving average of the weights with this decay per update; null: the weights themselves."""
    average: AverageConfig | None = None
    """At the end of the stage, also score the mean of several epochs' weights."""
    early_stopping_patience: Count | None = None
    """The stage ends after so many validations without a new best."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """What is done to the crops."""

    @field_validator("train")
    @classmethod
    def _once(cls, parts: tuple[str, ...]) -> tuple[str, ...]:
        return require_unique(parts)

    @model_validator(mode="after")
    def _parts_fit(self) -> StageConfig:
        given = set(self.learning_rate.named())
        if missing := sorted(set(self.train) - given):
            raise ValueError(f"learning_rate lacks a rate for {', '.join(missing)}")
        if unused := sorted(given - {*self.train, "classifier"}):
            raise ValueError(f"learning_rate.{unused[0]} is set, but train does not list {unused[0]}")
        if "backbone" not in self.train:
            require_default(self, ("lora", "depth_decay"), "does nothing in a stage that trains no backbone")
        if self.lora is not None:
            require_default(self, ("depth_decay",), "does nothing with lora")
            if "head" not in self.train:
                require_default(self, ("norm_statistics",), "does nothing where adapters alone learn")
        return self

    @model_validator(mode="after")
    def _cache_fits(self) -> StageConfig:
        if self.cache_views and "backbone" in self.train:
            raise ValueError("cache_views needs a frozen backbone: train: [head]")
        if self.cache_views and self.augmentation.ramp_epochs:
            raise ValueError(
                "augmentation.ramp_epochs and cache_views do not go together: what is kept does not change with the "
                "epoch"
            )
        return self

    @model_validator(mode="after")
    def _batches_fit(self) -> StageConfig:
        if self.batch_size % self.accumulate_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulate_steps {self.accumulate_steps}"
            )
        if self.utterances_per_speaker and self.batch_size % self.utterances_per_speaker:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of utterances_per_speaker "
                f"{self.utterances_per_speaker}"
            )
        if self.accumulate_steps > 1 and self.norm_statistics == "batch":
            raise ValueError(
                "norm_statistics: batch needs accumulate_steps: 1, or the statistics are of parts"
            )
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> StageConfig:
        for key in ("warmup_epochs", "margin_warmup_epochs"):
            if getattr(self, key) > self.epochs:
                raise ValueError(f"{key} {getattr(self, key):g} is more than epochs {self.epochs}")
        if self.warmup_steps and self.warmup_epochs:
            raise ValueError("give warmup_epochs or warmup_steps, not both")
        if self.optimizer != "sgd":
            require_default(self, ("nesterov",), "does nothing with optimizer adamw")
        elif self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        if self.schedule != "plateau":
            require_default(self, ("plateau_factor", "plateau_patience"), "is for schedule plateau")
        if self.schedule != "cosine_restarts":
            require_default(self, ("restart_epochs",), "is for schedule cosine_restarts")
        elif self.restart_epochs is None:
            raise ValueError("schedule cosine_restarts needs restart_epochs, the length of a cycle")
        if self.schedule == "constant":
            require_default(self, ("final_rate_share",), "does nothing with schedule constant")
        if self.schedule == "exponential" and not self.final_rate_share:
            raise ValueError("an exponential schedule cannot end at final_rate_share 0")
        if not self.margin_warmup_epochs:
            require_default(self, ("margin_rise",), "does nothing without margin_warmup_epochs")
        for dim, epoch in self.prefix_start.items():
            if epoch > self.epochs:
                raise ValueError(f"prefix_start {dim}: epoch {epoch} is beyond the stage's {self.epochs}")
        if self.average is not None and self.average.epochs > self.epochs:
            raise ValueError(f"average.epochs {self.average.epochs} is more than epochs {self.epochs}")
        return self
