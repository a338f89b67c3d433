"""The embeddings of an evaluation: each utterance once, whatever the number of lists that name it.

Utterances share a batch only with others of equally many frames, so nothing is padded, and an embedding is that of
its recording alone, to about 1e-6 whatever the batch.
Shapes: U utterances, n those of one process, B batch, P pooled statistics, D embedding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrl.audio import SAMPLE_RATE
from mrl.data.trials import TrialList
from mrl.evaluation.finite import embedding_error, require_usable, usable_rows
from mrl.models.encoder import SpeakerEncoder, evaluating
from mrl.models.encoder_input import mel_batches
from mrl.models.finite import non_finite_tensor
from mrl.models.released import ReleasedModel, Trunk

Advance = Callable[[int], None]
Batch = tuple[list[int], Tensor]
"""Places of some utterances, and a row for each."""

_PROJECTED_ROWS = 4096  # pooled vectors on the head's device at a time: 38 MB of 2,304 numbers each


@dataclass(frozen=True)
class Utterances:
    """The distinct utterances of several trial lists, in the order in which the lists first name them."""

    paths: list[Path]
    places_of: tuple[NDArray[np.int64], ...]  # per list: the row in `paths` of each of its utterances

    @classmethod
    def of(cls, lists: Sequence[TrialList]) -> Utterances:
        """Those of ``lists``. Lists with other roots share an utterance where root and path name one file."""
        rows: dict[str, int] = {}
        paths: list[Path] = []
        places_of = []
        for trials in lists:
            root = os.path.abspath(trials.root)
            places = np.empty(len(trials.utterances), dtype=np.int64)
            for number, utterance in enumerate(trials.utterances):
                places[number] = rows.setdefault(os.path.join(root, utterance), len(rows))
                if len(rows) > len(paths):
                    paths.append(trials.root / utterance)
            places_of.append(places)
        return cls(paths, tuple(places_of))

    def places(self, list_number: int) -> NDArray[np.int64]:
        """The row in `paths` of each utterance [U] of one of the lists."""
        return self.places_of[list_number]

    def newly_named(self, list_number: int) -> int:
        """How many utterances of a list no list before it names."""
        *before, here = (int(places.max(initial=-1)) + 1 for places in self.places_of[: list_number + 1])
        return max(0, here - max(before, default=0))


class Pooled(NamedTuple):
    """Pooled statistics of some of the files asked for: row i of ``pooled`` is that of file ``places[i]``."""

    places: NDArray[np.int64]  # [n], ascending
    pooled: Tensor  # [n, P], float32, on the CPU


def pool_utterances(
    trunk: Trunk,
    paths: Sequence[Path],
    *,
    max_seconds: float | None = None,
    batch_size: int = 32,
    workers: int = 2,
    advance: Advance | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Pooled:
    """Pooled statistics of audio files, in eval mode and float32; of all files where there is one process.

    Args:
        trunk: is afterwards in the mode that it was in.
        paths: the files.
        max_seconds: read no more of each; None: whole files.
        batch_size: files in a batch, at most.
        workers: threads that read.
        advance: told the number of files in each batch that is done.
        rank: which of ``world_size`` processes this is.
        world_size: processes; each does its own files, as much audio as the others.

    Raises:
        AudioError: a file that cannot be read or is too short for the network (a DataError); names it.
        EmbeddingError: pooled statistics that are not finite; names the files (a TrainingError).
    """
    pooled = torch.empty(len(paths), trunk.pooled_dim)
    mine = np.zeros(len(paths), dtype=bool)
    samples = None if max_seconds is None else round(max_seconds * SAMPLE_RATE)
    with exact_inference(trunk):
        mels = mel_batches(
            trunk, paths, batch_size, workers, max_samples=samples, rank=rank, world_size=world_size
        )
        for places, rows in _finished(_pooled(trunk, mels), paths, trunk, advance):
            pooled[places] = rows
            mine[places] = True
    places_done = np.flatnonzero(mine)
    return Pooled(places_done, pooled if mine.all() else pooled[torch.from_numpy(places_done)])


def project(head: nn.Module, pooled: Tensor, names: Sequence[object] | None = None) -> NDArray[np.float32]:
    """Raw embeddings [U, D] of pooled statistics [U, P] by ``head`` in eval mode, on the head's device.

    Raises EmbeddingError for embeddings that are not finite; it names the recordings by ``names`` [U].
    """
    device = next(head.parameters()).device
    with exact_inference(head):
        chunks = [head(chunk.to(device)).float().cpu() for chunk in pooled.split(_PROJECTED_ROWS)]
    embeddings = torch.cat(chunks)
    require_usable(embeddings, names or [f"utterance {place + 1}" for place in range(len(pooled))], head)
    return np.asarray(embeddings.numpy(), dtype=np.float32)


def embed_utterances(
    encoder: SpeakerEncoder | ReleasedModel,
    paths: Sequence[Path],
    *,
    max_seconds: float | None = None,
    batch_size: int = 32,
    workers: int = 2,
    advance: Advance | None = None,
) -> NDArray[np.float32]:
    """Raw embeddings [U, D] of audio files, with no more pooled statistics in memory than those of one batch.

    Arguments and errors are those of `pool_utterances`; an embedding that is not finite is an error as well.
    """
    trunk, head, width = _parts(encoder)
    embeddings = np.empty((len(paths), width), dtype=np.float32)
    samples = None if max_seconds is None else round(max_seconds * SAMPLE_RATE)
    with exact_inference(encoder):
        mels = mel_batches(trunk, paths, batch_size, workers, max_samples=samples)
        projected = ((places, head(rows)) for places, rows in _pooled(trunk, mels))
        for places, rows in _finished(projected, paths, encoder, advance):
            embeddings[places] = rows.numpy()
    return embeddings


@contextmanager
def exact_inference(module: nn.Module) -> Iterator[None]:
    """``module`` in eval mode, without gradients, in full float32."""
    # TF32 convolutions, the default on recent GPUs, would leave ten bits of each product.
    full = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    device = next(module.parameters()).device.type
    # Not inference_mode: pooled statistics made in it could never be the input of a head that is trained.
    with torch.no_grad(), evaluating(module), full, torch.autocast(device, enabled=False):
        yield


def _parts(encoder: SpeakerEncoder | ReleasedModel) -> tuple[Trunk, Callable[[Tensor], Tensor], int]:
    """Trunk, head and the numbers of an embedding."""
    if isinstance(encoder, SpeakerEncoder):
        return encoder.backbone, encoder.head, encoder.head.embedding_dim
    return encoder, encoder.project, encoder.embedding_dim


def _pooled(trunk: Trunk, mels: Iterator[Batch]) -> Iterator[Batch]:
    """Pooled statistics [B, P] of batches of log-mel images [B, F, frames]."""
    for places, mel in mels:
        yield places, trunk.pool_features(trunk.frame_features(mel))


def _finished(
    batches: Iterator[Batch], paths: Sequence[Path], network: nn.Module, advance: Advance | None
) -> Iterator[Batch]:
    """``batches`` on the CPU in float32, counted; EmbeddingError after the last of them where some are not finite.

    At once where it is the weights of ``network`` that are not.
    """
    broken: list[Path] = []
    done = 0
    for places, rows in batches:
        rows = rows.float().cpu()
        if not (usable := usable_rows(rows)).all():
            broken += [paths[place] for place, good in zip(places, usable.tolist(), strict=True) if not good]
            if non_finite_tensor(network.state_dict()) is not None:
                raise embedding_error(broken[:1], len(paths), network)
        yield places, rows
        done += len(places)
        if advance is not None:
            advance(len(places))
    if broken:
        raise embedding_error(broken, done, network)
