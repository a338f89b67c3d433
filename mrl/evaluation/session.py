"""One evaluation under way: its lists, its console, and what each backbone makes of the recordings, kept.

The encoder under test, the warm start and a stage that froze the backbone share theirs, so that each distinct
backbone hears the recordings once. Shapes: U utterances, C cohort utterances, P pooled statistics, D embedding.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl.config import Config
from mrl.console import Console
from mrl.data.corpus import Corpus
from mrl.data.training_corpus import training_corpus
from mrl.data.trial_list import TrialList
from mrl.evaluation.cohort import Cohort, candidates, embed_cohort, require_cohort_unheard
from mrl.evaluation.embedding import Utterances, pool_utterances, project
from mrl.models.encoder import SpeakerEncoder
from mrl.models.fingerprint import fingerprint_of
from mrl.models.released import Trunk

Vectors = NDArray[np.float32]


class Session:
    """What the parts of an evaluation share.

    Args:
        config: of the checkpoint, whose section ``evaluation`` counts.
        lists: to score.
        device: to compute on.
        workers: threads that read audio.

    Attributes:
        seconds: how long each part took, by its name.
    """

    def __init__(
        self,
        config: Config,
        lists: Sequence[TrialList],
        device: torch.device,
        workers: int,
        console: Console,
    ) -> None:
        self.config = config
        self.lists = tuple(lists)
        self.device = device
        self.console = console
        self.seconds: dict[str, float] = {}
        self._workers = workers
        self._utterances = Utterances.of(self.lists)
        self._pooled: dict[str, Tensor] = {}
        self._cohorts: dict[str, Cohort] = {}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the time of the block as that of ``part``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    def embed(self, encoder: SpeakerEncoder, name: str, max_seconds: float | None = None) -> Vectors:
        """Raw embeddings [U, D] of the recordings of all lists; ``name`` is what the progress calls the encoder.

        Whole, whatever ``validation.max_utterance_seconds`` says, or their first ``max_seconds``.
        """
        encoder.to(self.device)
        if max_seconds is not None:  # which nobody asks for twice
            return project(encoder.head, self._pool(encoder, name, max_seconds), self._utterances.paths)
        key = fingerprint_of(encoder.backbone)
        if key not in self._pooled:
            self._pooled[key] = self._pool(encoder, name, None)
        return project(encoder.head, self._pooled[key], self._utterances.paths)

    def require_cohort(self) -> None:
        """Raise DataError where the training corpus is not there any more, or holds a speaker of a list."""
        require_cohort_unheard(self.training_corpus, self.lists)

    def _pool(self, encoder: SpeakerEncoder, name: str, max_seconds: float | None) -> Tensor:
        paths = self._utterances.paths
        title = f"embedding ({name}{'' if max_seconds is None else f', {max_seconds:g} s'})"
        with self.timed("network"), self.console.progress(title, len(paths)) as bar:
            return pool_utterances(
                encoder.backbone,
                paths,
                max_seconds=max_seconds,
                workers=self._workers,
                advance=bar.advance,
            ).pooled

    def of_list(self, embeddings: Vectors, number: int) -> Vectors:
        """The rows of ``embeddings`` [U, D] that are the utterances of list ``number``, in its order."""
        return embeddings[self._utterances.places(number)]

    def embed_cohort(self, encoder: SpeakerEncoder, name: str) -> tuple[Vectors, NDArray[np.int64]]:
        """Raw embeddings [C, D] of utterances of training speakers, and whose they are [C].

        Raises DataError where the training corpus is not there any more, or holds a speaker of a list.
        """
        key = fingerprint_of(encoder.backbone)
        if key not in self._cohorts:
            self._cohorts[key] = self._pool_cohort(encoder.to(self.device).backbone, name)
        cohort = self._cohorts[key]
        return project(encoder.to(self.device).head, cohort.pooled), cohort.speakers

    def _pool_cohort(self, trunk: Trunk, name: str) -> Cohort:
        numbers = self.config.evaluation
        asked = numbers.cohort_speakers, numbers.cohort_utterances_per_speaker
        chosen = candidates(self.training_corpus, *asked, self.config.seed)
        total = sum(min(len(utterances), asked[1]) for _, utterances in chosen)
        with self.timed("network"), self.console.progress(f"cohort ({name})", total) as bar:
            cohort = embed_cohort(
                trunk,
                self.training_corpus,
                num_speakers=asked[0],
                per_speaker=asked[1],
                seed=self.config.seed,
                workers=self._workers,
                advance=bar.advance,
            )
        for message in cohort.unreadable:
            self.console.say(f"cohort, replaced or left out: {message}")
        return cohort

    @cached_property
    def training_corpus(self) -> Corpus:
        """The corpus that the checkpoint was trained on. Raises DataError where it is not there any more."""
        return training_corpus(self.config, self.console.say)
