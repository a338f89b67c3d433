"""From a released checkpoint and a training corpus to a warm-started encoder and classifier."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl.audio import SAMPLE_RATE
from mrl.config import Config
from mrl.data.corpus import Corpus
from mrl.data.loading import CropDataset, make_loader
from mrl.loss import SlicedClassifier, SlicedLoss, build_loss
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.released import ReleasedModel
from mrl.models.warm_start import (
    between_class_rotation,
    class_vectors,
    initialise_head,
    released_projection,
)
from mrl.randomness import numpy_generator, torch_generator

_BATCH = 32
_CROP_SECONDS = 4.0  # close to what the released models saw, long enough for a stable class vector

Advance = Callable[[int], None]


def warm_start(
    config: Config,
    released: ReleasedModel,
    corpus: Corpus,
    device: torch.device,
    advance: Advance | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[SpeakerEncoder, SlicedLoss]:
    """An encoder around the released backbone, its head and class vectors started as ``model.head_init`` says.

    ``advance`` is told how many utterances were embedded; :func:`sample_size` says how many there will be.
    ``say`` is told of each that could not be read and was replaced.
    """
    torch.manual_seed(config.seed)  # the fresh layers of head_init: random, and nothing else
    head = MatryoshkaHead(released.pooled_dim, config.dims[-1], config.model.dropout)
    projection = released_projection(released)
    how = config.model.head_init
    if how != "rotated":
        initialise_head(head, projection, how)
    encoder = SpeakerEncoder(released, head, config.dims)

    # In the released coordinates if these are still to be turned, otherwise through the finished head.
    probe = MatryoshkaHead(released.pooled_dim, released.embedding_dim) if how == "rotated" else head
    if how == "rotated":
        initialise_head(probe, projection, "truncated")
    chosen = balanced_sample(corpus, sample_size(config, corpus), config.seed)
    embeddings, speakers = _embed(encoder, probe, corpus, chosen, config, device, advance, say)
    if how == "rotated":
        rotation = between_class_rotation(embeddings, speakers)
        initialise_head(head, projection, how, rotation)
        embeddings = _turned(embeddings, rotation, config.dims[-1])

    classifier = build_loss(config, len(corpus.speakers))
    if isinstance(classifier, SlicedClassifier):
        vectors = class_vectors(embeddings, speakers, len(corpus.speakers), config.seed)
        classifier.set_class_vectors(vectors, torch_generator(config.seed, "sub-centres"))
    return encoder.to(device), classifier.to(device)


def sample_size(config: Config, corpus: Corpus) -> int:
    """Utterances that the warm start embeds: as configured, but one of each speaker at least."""
    return min(len(corpus), max(config.model.warm_start_utterances, len(corpus.speakers)))


def balanced_sample(corpus: Corpus, size: int, seed: int) -> NDArray[np.int64]:
    """``size`` utterance numbers, spread over the speakers as evenly as the corpus allows."""
    order = numpy_generator(seed, "warm start").permutation(len(corpus))
    by_speaker = order[np.argsort(corpus.speaker_ids[order], kind="stable")]
    counts = np.bincount(corpus.speaker_ids, minlength=len(corpus.speakers))
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    turn = np.arange(len(corpus)) - starts  # the first of each speaker, then the second of each, ...
    return by_speaker[np.argsort(turn, kind="stable")][:size]


def _turned(embeddings: Tensor, rotation: Tensor, dim: int) -> Tensor:
    """Released embeddings [N, E] as the rotated head gives them: [N, dim], zeros beyond E."""
    turned = embeddings @ rotation.T
    kept = turned[:, :dim]
    return torch.nn.functional.pad(kept, (0, dim - kept.shape[1]))


@torch.no_grad()
def _embed(
    encoder: SpeakerEncoder,
    head: MatryoshkaHead,
    corpus: Corpus,
    chosen: NDArray[np.int64],
    config: Config,
    device: torch.device,
    advance: Advance | None,
    say: Callable[[str], None] | None,
) -> tuple[Tensor, Tensor]:
    """Embeddings [N, E] on the CPU and speaker numbers [N] of one crop of each chosen utterance."""
    dataset = CropDataset(corpus, round(_CROP_SECONDS * SAMPLE_RATE), config.seed)
    batches = [[(0, int(item)) for item in chosen[i : i + _BATCH]] for i in range(0, len(chosen), _BATCH)]
    backbone, head = encoder.backbone.to(device).eval(), head.to(device).eval()
    embeddings, speakers = [], []
    for batch in make_loader(dataset, batches, config.data.workers, pin_memory=device.type == "cuda"):
        embeddings.append(head(backbone(batch.waveforms.to(device, non_blocking=True))).float().cpu())
        speakers.append(batch.speakers)
        if say is not None:
            for message in batch.replaced:
                say(f"warm start, replaced: {message}")
        if advance is not None:
            advance(len(batch.speakers))
    return torch.cat(embeddings), torch.cat(speakers)
