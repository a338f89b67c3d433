"""The typed configuration: every key that a YAML file may hold, with its unit and its default.

Objects are frozen; nothing writes to a configuration after it is built. How files, ``extends:``, ``${VAR}``
and ``--set`` become a :class:`Config` stands in :mod:`mrl.config_file`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Range = tuple[float, float]
T = TypeVar("T")


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class ModelConfig(Section):
    pretrained: str
    """A released checkpoint: a path, or a name of the registry, which is downloaded once."""
    head_init: Literal["rotated", "truncated", "random"] = "rotated"
    """Start of the new head: the released head turned so that prefixes lose least; as it is; or fresh."""
    warm_start_utterances: Count = 20_000
    """At most so many training utterances are embedded to find the rotation and the class vectors."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of pooled statistics dropped before the head while it trains."""


class PrefixConfig(Section):
    dim: Count
    """Numbers in this prefix of the embedding."""
    weight: Positive = 1.0
    """Weight of its loss in the sum over prefixes."""


class LossConfig(Section):
    type: Literal["aam", "am"] = "aam"
    """Additive angular margin (ArcFace) or additive cosine margin (CosFace)."""
    margin: NonNegative = 0.2
    """Radians for aam, cosine for am. A stage may set its own."""
    scale: Positive = 30.0
    """Factor on the cosines before the softmax."""
    subcenters: Count = 1
    """Class vectors per speaker; the nearest one counts."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target probability spread over all classes."""


class DataConfig(Section):
    train: Path
    """Training corpus: ``<speaker>/**/<file>``, wav, flac, m4a, mp3, ogg or opus."""
    noise: Path | None = None
    """Folder of noise clips; without one, noise is synthesised."""
    room_responses: Path | None = None
    """Folder of room impulse responses; without one, they are synthesised."""
    workers: Annotated[int, Field(ge=0)] = 4
    """Processes that decode audio (0: the training process itself)."""
    max_unreadable_share: Probability = 0.01
    """A run stops when more than this share of the training utterances could not be read."""
    cache: Path = Path("cache")
    """Folder for manifests of scanned corpora."""


class ValidationListConfig(Section):
    name: Name
    """Name of this list in logs, tables and plots."""
    root: Path | None = None
    """Folder that the trial list's paths start from; or, without a list, a corpus to make one from."""
    trials: Path | None = None
    """Trial list, one ``label enrolment test`` a line."""
    hold_out_speakers: Count | None = None
    """Instead of ``root``: hold so many speakers of ``data.train`` out and make a list of them."""
    targets_per_speaker: Count = 50
    """Made lists: target trials for each speaker (fewer where the recordings give fewer)."""
    nontargets_per_target: Count = 2
    """Made lists: non-target trials for each target trial."""

    @model_validator(mode="after")
    def _one_source(self) -> ValidationListConfig:
        if (self.root is None) == (self.hold_out_speakers is None):
            raise ValueError("give either root (with or without trials) or hold_out_speakers")
        if self.trials is not None and self.root is None:
            raise ValueError("trials needs root, the folder that its paths start from")
        return self


class ValidationConfig(Section):
    lists: Annotated[tuple[ValidationListConfig, ...], Field(min_length=1)]
    """Trial lists scored at epoch 0 and after training epochs."""
    every_epochs: Count = 1
    """Score after every so many epochs of a stage, and always after its last."""
    max_utterance_seconds: Positive | None = None
    """Longer utterances are cut to their first so many seconds (none: whole)."""

    @field_validator("lists")
    @classmethod
    def _unique_names(cls, lists: tuple[ValidationListConfig, ...]) -> tuple[ValidationListConfig, ...]:
        return _require_unique(lists, "name")


class LearningRates(Section):
    backbone: Positive | None = None
    head: Positive | None = None
    classifier: Positive | None = None

    def named(self) -> dict[str, float]:
        """The rates that are set, by the part that they belong to."""
        rates = {"backbone": self.backbone, "head": self.head, "classifier": self.classifier}
        return {part: rate for part, rate in rates.items() if rate is not None}


class AugmentationConfig(Section):
    noise_probability: Probability = 0.0
    """Share of crops with noise: from ``data.noise``, or coloured noise where that is not set."""
    noise_snr_db: Range = (0.0, 15.0)
    """Speech-to-noise ratio over the crop, dB, drawn evenly."""
    babble_probability: Probability = 0.0
    """Share of crops with other utterances of the batch talking over them."""
    babble_snr_db: Range = (13.0, 20.0)
    babble_speakers: tuple[Count, Count] = (3, 8)
    """How many of them."""
    room_probability: Probability = 0.0
    """Share of crops in a room: from ``data.room_responses``, or a synthetic one where that is not set."""
    room_decay_seconds: tuple[Positive, Positive] = (0.2, 0.8)
    """Reverberation time (RT60) of synthetic rooms."""
    gain_probability: Probability = 0.0
    """Share of crops whose level is changed."""
    gain_db: Range = (-10.0, 6.0)

    @field_validator("noise_snr_db", "babble_snr_db", "babble_speakers", "room_decay_seconds", "gain_db")
    @classmethod
    def _low_to_high(cls, limits: Range) -> Range:
        if limits[0] > limits[1]:
            raise ValueError(f"the first number must not exceed the second, not {list(limits)}")
        return limits


class StageConfig(Section):
    name: Name
    train: Annotated[tuple[Literal["backbone", "head"], ...], Field(min_length=1)]
    """Parts that learn; the classifier always does. The rest is frozen, BatchNorm statistics included."""
    epochs: Count
    crop_seconds: Positive = 3.0
    batch_size: Count
    """Utterances per update, over all accumulation steps."""
    accumulate_steps: Count = 1
    """Parts that a batch is cut into; the gradient is that of the whole batch."""
    learning_rate: LearningRates
    """Peak rate of each part."""
    weight_decay: NonNegative = 0.0
    """AdamW decay of weights (not of biases, norms and class vectors)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    final_rate_share: Probability = 0.01
    """Cosine ends at this share of the peak rate."""
    warmup_epochs: NonNegative = 0.0
    """The rate rises linearly over so many epochs."""
    margin: NonNegative | None = None
    """Margin in this stage (none: ``loss.margin``)."""
    margin_warmup_epochs: NonNegative = 0.0
    """The margin rises linearly from 0 over so many epochs."""
    gradient_clip: Positive | None = 5.0
    """Largest norm of the whole gradient."""
    norm_statistics: Literal["frozen", "batch"] = "frozen"
    """BatchNorm of trained parts: keep the pretrained statistics, or use and update those of the batch."""
    early_stopping_patience: Count | None = None
    """The stage ends after so many validations without a new best."""
    augmentation: AugmentationConfig = AugmentationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> StageConfig:
        _require_unique(self.train)
        wanted, given = {*self.train, "classifier"}, set(self.learning_rate.named())
        if missing := sorted(wanted - given):
            raise ValueError(f"learning_rate lacks a rate for {', '.join(missing)}")
        if unused := sorted(given - wanted):
            raise ValueError(f"learning_rate.{unused[0]} is set, but train does not list {unused[0]}")
        if self.batch_size % self.accumulate_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulate_steps {self.accumulate_steps}"
            )
        if self.accumulate_steps > 1 and self.norm_statistics == "batch":
            raise ValueError(
                "norm_statistics: batch needs accumulate_steps: 1, or the statistics are of parts"
            )
        for key in ("warmup_epochs", "margin_warmup_epochs"):
            if getattr(self, key) > self.epochs:
                raise ValueError(f"{key} {getattr(self, key):g} is more than epochs {self.epochs}")
        return self


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
    tensorboard: bool = True
    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases; its key comes from WANDB_API_KEY in the environment or in .env."""
    project: str = "mrl-speaker-recognition"
    """Weights & Biases project."""
    run_name: str | None = None
    """Weights & Biases run."""
    plots: bool = True
    """Draw loss and EER curves at the end."""

    @field_validator("wandb", mode="before")
    @classmethod
    def _yaml_off(cls, value: object) -> object:
        return "off" if value is False else value  # a bare `off` is a boolean in YAML


class CheckpointConfig(Section):
    directory: Path = Path("checkpoints")
    every_epochs: Count = 5
    """Keep epoch_NNN.pt every so many epochs."""
    keep_last: Count = 3
    """How many of them stay."""
    select_by: str = "mean_eer"
    """best.pt has the lowest of this: mean_eer, or eer_<dim> for one prefix (mean over the trial lists)."""
    full_size_tolerance: NonNegative = 0.0
    """best.pt may be so many EER percentage points worse than the pretrained model at the widest prefix."""


class DemoConfig(Section):
    directory: Path = Path("data/demo")
    """Synthesised speakers go to ``<directory>/train`` and ``<directory>/validation``."""
    train_speakers: Annotated[int, Field(ge=2, le=5000)] = 80
    validation_speakers: Annotated[int, Field(ge=2, le=1000)] = 24
    sessions: Annotated[int, Field(ge=1, le=20)] = 3
    """Recording sessions per speaker."""
    utterances_per_session: Annotated[int, Field(ge=1, le=50)] = 4


class Config(Section):
    """A whole run."""

    seed: Annotated[int, Field(ge=0)] = 42
    model: ModelConfig
    prefixes: Annotated[tuple[PrefixConfig, ...], Field(min_length=1)]
    loss: LossConfig = LossConfig()
    data: DataConfig
    validation: ValidationConfig
    stages: tuple[StageConfig, ...]
    """In order. An empty list warm-starts, scores and saves."""
    runtime: RuntimeConfig = RuntimeConfig()
    logging: LoggingConfig = LoggingConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    demo: DemoConfig | None = None
    """Where set, missing demo speakers are synthesised before the run."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Prefix sizes, ascending."""
        return tuple(prefix.dim for prefix in self.prefixes)

    @field_validator("prefixes")
    @classmethod
    def _ascending(cls, prefixes: tuple[PrefixConfig, ...]) -> tuple[PrefixConfig, ...]:
        _require_unique(prefixes, "dim")
        return tuple(sorted(prefixes, key=lambda prefix: prefix.dim))

    @field_validator("stages")
    @classmethod
    def _unique_stages(cls, stages: tuple[StageConfig, ...]) -> tuple[StageConfig, ...]:
        return _require_unique(stages, "name")

    @model_validator(mode="after")
    def _selectable(self) -> Config:
        choices = ["mean_eer", *(f"eer_{dim}" for dim in self.dims)]
        if self.checkpoints.select_by not in choices:
            given = self.checkpoints.select_by
            raise ValueError(f"checkpoints.select_by is {given!r}, expected one of {', '.join(choices)}")
        if self.loss.type == "aam":
            for stage in self.stages:
                if (stage.margin if stage.margin is not None else self.loss.margin) >= 1.57:
                    raise ValueError(f"stages.{stage.name}: an aam margin is in radians, below pi/2")
        return self


def _require_unique(items: tuple[T, ...], attribute: str | None = None) -> tuple[T, ...]:
    values = [getattr(item, attribute) if attribute else item for item in items]
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"{attribute or 'entry'} {', '.join(repeated)} stands twice")
    return items
