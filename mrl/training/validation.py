"""What is measured after an epoch: EER on the trial lists, and the loss on held-out utterances.

While the backbone stays as it is, in a stage that freezes it, its pooled statistics of the validation utterances
do too: they are kept in memory, and an epoch costs a pass through the head. U utterances, P pooled statistics.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from mrl.config import Config
from mrl.data.assemble import RunData
from mrl.errors import PeerError
from mrl.evaluation.embedding import Pooled, Utterances, pool_utterances, project
from mrl.evaluation.finite import EmbeddingError
from mrl.evaluation.verification import VerificationResult, score_list
from mrl.loss import SlicedClassifier
from mrl.models.encoder import SpeakerEncoder
from mrl.models.fingerprint import fingerprint_of
from mrl.models.released import Trunk
from mrl.processes import Processes
from mrl.stopping import Stopped, heed, stopped
from mrl.training.criterion import Criterion
from mrl.training.held_out import HeldOut
from mrl.training.out_of_memory import naming_memory
from mrl.training.tracking import Tracker

_WHOLE = "utterances are embedded whole, 32 at a time: cut long ones by validation.max_utterance_seconds"


class Validator:
    """Scores encoders on the validation data of a run; each process embeds its part of the utterances."""

    def __init__(self, config: Config, data: RunData, tracker: Tracker, processes: Processes) -> None:
        self._config = config
        self._lists = data.validation
        self._utterances = Utterances.of(data.validation)
        self._tracker = tracker
        self._processes = processes
        self._pooled: tuple[str, Tensor] | None = None
        self._held_out = None
        if data.held_out is not None:
            self._held_out = HeldOut(data, config.seed, config.data, tracker.say)

    def score(self, encoder: SpeakerEncoder, title: str) -> list[VerificationResult]:
        """Each trial list at every prefix of ``encoder``; the same in all processes.

        Raises EmbeddingError for embeddings that are not finite, and PeerError in processes other than the first.
        """
        started = time.perf_counter()
        device = encoder.head.linear.weight.device
        with naming_memory(f"while scoring {title}", device, lambda *_: _WHOLE):
            pooled = self._pool(encoder.backbone, title)
        embedding = time.perf_counter() - started

        def score() -> list[VerificationResult]:
            embeddings = project(encoder.head, pooled, self._utterances.paths)
            share = embedding / max(1, len(pooled))
            results = []
            for number, trials in enumerate(self._lists):
                result = score_list(embeddings[self._utterances.places(number)], trials, encoder.dims)
                seconds = share * self._utterances.newly_named(number)
                results.append(replace(result, seconds=result.seconds + seconds, embedding_seconds=seconds))
            return results

        return self._processes.from_first(score)

    def held_out_loss(self, encoder: SpeakerEncoder, criterion: Criterion) -> dict[str, float]:
        """See :class:`HeldOut`; nothing where no utterances are held out."""
        held_out, classifier = self._held_out, criterion.loss
        if held_out is None:
            return {}
        assert isinstance(classifier, SlicedClassifier)  # held by the configuration
        return self._processes.from_first(lambda: held_out.measure(encoder, classifier))

    def _pool(self, trunk: Trunk, title: str) -> Tensor:
        """Pooled statistics [U, P] of all validation utterances."""
        fingerprint = fingerprint_of(trunk)
        if self._pooled is not None and self._pooled[0] == fingerprint:
            return self._pooled[1]
        self._pooled = None  # not two of them at a time
        pooled = torch.empty(len(self._utterances.paths), trunk.pooled_dim)
        for part in self._processes.gather(self._own_part(trunk, title)):
            if part is None:
                raise stopped()
            if isinstance(part, EmbeddingError):
                raise part if self._processes.is_first else PeerError("the first process has stopped")
            pooled[torch.from_numpy(part.places)] = part.pooled
        self._pooled = (fingerprint, pooled)
        return pooled

    def _own_part(self, trunk: Trunk, title: str) -> Pooled | EmbeddingError | None:
        """This process's part of the utterances, or what all processes are to learn instead: an error, or None where
        this one was asked to stop."""
        rank, world_size = self._processes.rank, self._processes.world_size
        whose = f" (process 1 of {world_size})" if world_size > 1 else ""
        expected = -(-len(self._utterances.paths) // world_size)
        with self._tracker.progress(f"scoring {title}{whose}", expected) as bar:
            left = [expected]  # batches are dealt whole, so that a process may get a few more

            def advance(count: int) -> None:
                shown = min(count, left[0])
                left[0] -= shown
                bar.advance(shown)
                heed()

            try:
                return pool_utterances(
                    trunk,
                    self._utterances.paths,
                    max_seconds=self._config.validation.max_utterance_seconds,
                    workers=max(1, self._config.data.workers),
                    advance=advance,
                    rank=rank,
                    world_size=world_size,
                )
            except EmbeddingError as error:
                return error
            except Stopped as stop:
                if stop.is_sudden:
                    raise
                return None
