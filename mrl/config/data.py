"""Training corpora, what is mixed into them, and the trial lists of validation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mrl.config.base import (
    Count,
    Name,
    NonNegative,
    Positive,
    Probability,
    Section,
    require_default,
    require_unique,
)


class CorpusConfig(Section):
    path: Path
    """Folder ``<speaker>/**/<file>``, wav, flac, m4a, mp3, ogg or opus."""
    weight: Positive | None = None
    """Its part of each epoch against the other corpora's; null for all: as many utterances as each has."""
    name: Name | None = None
    """Goes before its speakers' names where there are several corpora; null: the folder's name."""

    @property
    def label(self) -> str:
        """The name, or else that of the folder."""
        return self.name or self.path.name


class DataConfig(Section):
    train: Annotated[tuple[CorpusConfig, ...], Field(min_length=1)]
    """Training corpus: a folder ``<speaker>/**/<file>``; or a list of corpora, each with path, weight and name."""
    max_utterances_per_speaker: Count | None = None
    """At most so many utterances of a speaker are in an epoch, others in the next; null: all."""
    balance: Literal["utterances", "speakers"] = "utterances"
    """What counts the same in an epoch: each utterance, or each speaker however much was recorded."""
    held_out_share: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """This share of each training speaker's utterances is held out; their loss and accuracy are tracked."""
    include_validation_speakers: bool = False
    """For diagnosis only: train on the validation speakers too. Scores then say nothing of new speakers."""
    noise: Path | None = None
    """Folder of noise clips; without one, noise is synthesised."""
    music: Path | None = None
    """Folder of music clips."""
    babble: Path | None = None
    """Folder of speech clips for babble; without one, other utterances of the batch talk over it."""
    room_responses: Path | None = None
    """Folder of room impulse responses; without one, they are synthesised."""
    workers: Annotated[int, Field(ge=0)] = 4
    """Processes that decode audio (0: the training process itself)."""
    worker_timeout_seconds: Positive | None = 300.0
    """When a batch is late for so long, the workers are replaced, and it is read again; when that hangs too, the run
    stops and names the file. null: wait for ever. With 0 workers a read that hangs cannot be given up."""
    max_unreadable_share: Probability = 0.01
    """A run stops when more than this share of the training utterances could not be read."""
    cache: Path = Path("cache")
    """Folder for manifests of scanned corpora and features of frozen stages; the same for all machines of a run."""

    @field_validator("train", mode="before")
    @classmethod
    def _one_folder(cls, value: Any) -> Any:
        return [{"path": value}] if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _weights_together(self) -> DataConfig:
        if len({corpus.weight is None for corpus in self.train}) > 1:
            raise ValueError("train: give a weight to every corpus or to none")
        if len(self.train) > 1:
            labels = [corpus.label for corpus in self.train]
            if twice := sorted(label for label, times in Counter(labels).items() if times > 1):
                raise ValueError(f"train: two corpora are called {twice[0]}; give each a name of its own")
        elif self.train[0].weight is not None:
            raise ValueError("train: a weight does nothing where there is one corpus; leave it out")
        if self.max_utterances_per_speaker is not None and self.train[0].weight is not None:
            raise ValueError(
                "train: a weight fixes how much of an epoch is of a corpus, max_utterances_per_speaker how much is "
                "of a speaker; give one of them, or weights with balance: speakers"
            )
        return self


class ValidationListConfig(Section):
    name: Name
    """Name of this list in logs, tables and plots."""
    root: Path | None = None
    """Folder that the trial list's paths start from; or, without a list, a corpus to make one from."""
    trials: Path | None = None
    """Trial list, one ``label enrolment test`` a line."""
    hold_out_speakers: Count | None = None
    """Instead of ``root``: hold so many speakers of ``data.train`` out and make a list of them."""
    hold_out_from: Name | None = None
    """... of the corpus of this name only; null: of any."""
    targets_per_speaker: Count = 50
    """Made lists: target trials for each speaker (fewer where the recordings give fewer)."""
    nontargets_per_target: Count = 2
    """Made lists: non-target trials for each target trial."""
    guard: bool = False
    """A list of the old domain: it does not choose best.pt, but best.pt may not be worse on it than at epoch 0."""
    tolerance: NonNegative = 0.0
    """guard: ... by more than so many EER percentage points (mean over the prefixes)."""

    @model_validator(mode="after")
    def _one_source(self) -> ValidationListConfig:
        if (self.root is None) == (self.hold_out_speakers is None):
            raise ValueError("give either root (with or without trials) or hold_out_speakers")
        if self.trials is not None and self.root is None:
            raise ValueError("trials needs root, the folder that its paths start from")
        if self.hold_out_speakers is None:
            require_default(self, ("hold_out_from",), "does nothing without hold_out_speakers")
        if not self.guard:
            require_default(self, ("tolerance",), "does nothing without guard: true")
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
    def _usable(cls, lists: tuple[ValidationListConfig, ...]) -> tuple[ValidationListConfig, ...]:
        if all(entry.guard for entry in lists):
            raise ValueError("every list is a guard; one at least must choose best.pt")
        return require_unique(lists, "name")


class DemoConfig(Section):
    directory: Path = Path("data/demo")
    """Synthesised speakers go to ``<directory>/train`` and ``<directory>/validation``."""
    train_speakers: Annotated[int, Field(ge=2, le=5000)] = 80
    """Speakers to train on."""
    validation_speakers: Annotated[int, Field(ge=2, le=1000)] = 24
    """Speakers to validate on."""
    sessions: Annotated[int, Field(ge=1, le=20)] = 3
    """Recording sessions per speaker."""
    utterances_per_session: Annotated[int, Field(ge=1, le=50)] = 4
    """Utterances in each."""
