"""From a released checkpoint and a training corpus to a warm-started encoder and classifier."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl.audio import SAMPLE_RATE
from mrl.config import Config
from mrl.data.corpus import Corpus
from mrl.data.loader import make_loader
from mrl.data.loading import Batch, CropDataset
from mrl.data.sampling import balanced_sample
from mrl.data.speed import at_speed, source_samples
from mrl.errors import DataError
from mrl.evaluation.finite import embedding_error, usable_rows
from mrl.loss import SlicedClassifier, class_speeds
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.released import ReleasedModel
from mrl.models.warm_start import (
    between_class_rotation,
    class_vectors,
    initialise_head,
    released_projection,
)
from mrl.processes import Processes
from mrl.randomness import torch_generator
from mrl.training.criterion import Criterion, build_criterion

_BATCH = 32
_CROP_SAMPLES = 4 * SAMPLE_RATE  # close to what the models saw, long enough for a stable class vector
_TEACHER_SAMPLE = 2_000  # utterances that the map to a teacher's space is first fitted on

Advance = Callable[[int], None]
Replaced = Callable[[Sequence[str]], None]


def warm_start(
    config: Config,
    released: ReleasedModel,
    corpus: Corpus,
    device: torch.device,
    advance: Advance | None = None,
    say: Callable[[str], None] | None = None,
    *,
    replaced: Replaced | None = None,
    teacher: SpeakerEncoder | None = None,
    processes: Processes | None = None,
) -> tuple[SpeakerEncoder, Criterion]:
    """An encoder around the released backbone, its head and class vectors started as ``model.head_init`` says.

    ``advance`` is told how many utterances were embedded; :func:`num_embedded` says how many there will be.
    ``say`` is told of data workers that were replaced, ``replaced`` of utterances that could not be read, and were:
    the messages of all processes, in each of them, after each pass over the sample; it may raise. ``teacher`` is a
    model other than ``released``, where the configuration names one. Each of ``processes`` embeds its part of the
    sample.
    """
    processes = processes or Processes()
    if not config.loss.has_classes and config.dims[-1] > released.embedding_dim:
        raise DataError(
            f"prefix {config.dims[-1]} is wider than the released embedding of {released.embedding_dim} numbers: "
            f"what is beyond starts at zero in every embedding, and loss.type {config.loss.type} compares embeddings "
            f"with each other alone, so it would stay zero; make {released.embedding_dim} the widest prefix"
        )
    torch.manual_seed(config.seed)  # the fresh layers of head_init: random, and nothing else
    sample = _Sample(config, corpus, device, advance, say, replaced, processes)
    encoder, embedded = _started_encoder(config, released, sample, device)
    if teacher is None and any(stage.teacher_weight for stage in config.stages):
        teacher = copy.deepcopy(encoder)
    criterion = build_criterion(config, len(corpus.speakers), teacher)
    if isinstance(criterion.loss, SlicedClassifier):
        _start_classes(config, criterion.loss, encoder, embedded, sample)
    if criterion.term is not None and config.model.teacher is not None:
        assert teacher is not None
        teacher = teacher.to(device)
        few = sample.first(_TEACHER_SAMPLE)
        criterion.term.fit(embedded.vectors[: len(few)], few.embed(teacher).vectors)
    encoder, criterion = encoder.to(device), criterion.to(device)
    processes.same_state(encoder)
    processes.same_state(criterion)
    if criterion.teacher is not None:
        processes.same_state(criterion.teacher)
    return encoder, criterion


def _started_encoder(
    config: Config, released: ReleasedModel, sample: _Sample, device: torch.device
) -> tuple[SpeakerEncoder, _Embedded]:
    """The encoder on ``device``, and what it makes of the sample."""
    head = MatryoshkaHead(released.pooled_dim, config.dims[-1], config.model.dropout)
    projection = released_projection(released)
    how = config.model.head_init
    if how != "rotated":
        initialise_head(head, projection, how)
        encoder = SpeakerEncoder(released, head, config.dims).to(device).eval()
        return encoder, sample.embed(encoder)
    # In the released coordinates, which are still to be turned.
    probe = MatryoshkaHead(released.pooled_dim, released.embedding_dim)
    initialise_head(probe, projection, "truncated")
    straight = SpeakerEncoder(released, probe, (released.embedding_dim,)).to(device).eval()
    embedded = sample.embed(straight)
    rotation = between_class_rotation(embedded.vectors, embedded.speakers)
    initialise_head(head, projection, how, rotation)
    encoder = SpeakerEncoder(released, head, config.dims).to(device).eval()
    return encoder, embedded._replace(vectors=_turned(embedded.vectors, rotation, config.dims[-1]))


def _start_classes(
    config: Config,
    classifier: SlicedClassifier,
    encoder: SpeakerEncoder,
    embedded: _Embedded,
    sample: _Sample,
) -> None:
    """Class vectors from speaker means; those of a speed from the sample played at it."""
    num_speakers = classifier.num_speakers
    at_speeds = [embedded, *(sample.embed(encoder, speed) for speed in class_speeds(config))]
    classes = [speakers + block * num_speakers for block, (_, speakers) in enumerate(at_speeds)]
    vectors = class_vectors(
        torch.cat([vectors for vectors, _ in at_speeds]),
        torch.cat(classes),
        num_speakers * classifier.num_blocks,
        config.seed,
    )
    classifier.set_class_vectors(vectors, torch_generator(config.seed, "sub-centres"))


def num_embedded(config: Config, corpus: Corpus) -> int:
    """How many embeddings the warm start makes."""
    size = sample_size(config, corpus)
    passes = 1 + len(class_speeds(config)) if config.loss.has_classes else 1
    return passes * size + (min(size, _TEACHER_SAMPLE) if config.model.teacher is not None else 0)


def sample_size(config: Config, corpus: Corpus) -> int:
    """Utterances that the warm start embeds: as configured, but one of each speaker at least."""
    return min(len(corpus), max(config.model.warm_start_utterances, len(corpus.speakers)))


def _turned(embeddings: Tensor, rotation: Tensor, dim: int) -> Tensor:
    """Released embeddings [N, E] as the rotated head gives them: [N, dim], zeros beyond E."""
    turned = embeddings @ rotation.T
    kept = turned[:, :dim]
    return torch.nn.functional.pad(kept, (0, dim - kept.shape[1]))


class _Embedded(NamedTuple):
    vectors: Tensor  # [N, D], on the CPU
    speakers: Tensor  # [N]; an unreadable file may have been replaced by another speaker's


class _Sample:
    """One crop of each of the utterances that the warm start embeds."""

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        device: torch.device,
        advance: Advance | None,
        say: Callable[[str], None] | None,
        replaced: Replaced | None,
        processes: Processes,
        chosen: NDArray[np.int64] | None = None,
    ) -> None:
        self._context = (config, corpus, device, advance, say, replaced, processes)
        if chosen is None:
            chosen = balanced_sample(corpus, sample_size(config, corpus), config.seed)
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def first(self, count: int) -> _Sample:
        """The first ``count`` of the sample, which are of different speakers as far as there are so many."""
        return _Sample(*self._context, self._chosen[:count])

    @torch.no_grad()
    def embed(self, encoder: SpeakerEncoder, speed: float = 1.0) -> _Embedded:
        """What ``encoder`` makes of the sample, played ``speed`` times as fast.

        Raises EmbeddingError, in all processes, for embeddings that are not finite.
        """
        _, corpus, device, advance, _, tell, processes = self._context
        parts: list[_Embedded] = []
        broken: list[str] = []
        replaced: list[str] = []
        for batch in self._own_batches(speed):
            waveforms = at_speed(batch.waveforms.to(device, non_blocking=True), speed, _CROP_SAMPLES)
            vectors = encoder(waveforms).float().cpu()
            parts.append(_Embedded(vectors, batch.speakers))
            unusable = batch.utterances[~usable_rows(vectors)].tolist()
            broken += [corpus.relative_path(utterance) for utterance in unusable]
            replaced += batch.replaced
            if advance is not None:
                advance(len(batch.speakers))
        everywhere = processes.gather((broken, replaced))
        if tell is not None:
            tell([message for _, messages in everywhere for message in messages])
        if paths := [path for of_one, _ in everywhere for path in of_one]:
            raise embedding_error(paths, len(self), encoder)
        return _in_order(processes.gather(parts))

    def _own_batches(self, speed: float) -> Iterable[Batch]:
        """The part of the sample that falls to this process, in crops to be played ``speed`` times as fast."""
        config, corpus, device, _, say, _, processes = self._context
        keys = [(0, int(item)) for item in self._chosen]
        batches = [keys[i : i + _BATCH] for i in range(0, len(keys), _BATCH)]
        return make_loader(
            CropDataset(corpus, source_samples(_CROP_SAMPLES, [speed]), config.seed),
            batches[processes.rank :: processes.world_size],
            config.data.workers,
            pin_memory=device.type == "cuda",
            timeout_seconds=config.data.worker_timeout_seconds,
            say=say,
        )


def _in_order(parts: Sequence[Sequence[_Embedded]]) -> _Embedded:
    """All batches, the processes taking turns, as they were handed out."""
    rounds = zip_longest(*parts)
    batches = [batch for batch in chain.from_iterable(rounds) if batch is not None]
    return _Embedded(torch.cat([vectors for vectors, _ in batches]), torch.cat([s for _, s in batches]))
