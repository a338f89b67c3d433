"""Crops of a corpus in batches.

What a batch holds depends on (seed, epoch, step) alone: not on the number of workers or processes, and not on
how often the run was interrupted. B batch, T samples, N utterances.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mrl.audio import load_decoder
from mrl.data.augment import AugmentationPlan, Augmenter
from mrl.data.corpus import Corpus
from mrl.data.epoch_batches import Key
from mrl.errors import AudioError, DataError
from mrl.randomness import numpy_generator

_TRIES = 10  # readings in place of an unreadable file
_TRIES_SAME_SPEAKER = 5


class Crop(NamedTuple):
    """A piece of an utterance."""

    waveform: Tensor  # float32 [T]
    speaker: int
    utterance: int
    replaced: str | None
    """Why the utterance that was asked for could not be read; the rest is then about the one in its place."""


class Batch(NamedTuple):
    """Crops, stacked."""

    waveforms: Tensor  # float32 [B, T]
    speakers: Tensor  # int64 [B]
    utterances: Tensor  # int64 [B]
    replaced: list[str]
    """A message for each utterance that could not be read."""
    plan: AugmentationPlan | None = None
    """What an augmenter is to do to it, where the loader was given one."""


class CropDataset(Dataset[Crop]):
    """A crop of ``num_samples`` for each key of a corpus.

    A file that cannot be read is replaced, first by others of its speaker, then by any; which ones depends on
    the key. DataError where ten of them cannot be read either.
    """

    def __init__(self, corpus: Corpus, num_samples: int, seed: int) -> None:
        self._corpus = corpus
        self._num_samples = num_samples
        self._seed = seed

    def __len__(self) -> int:
        return len(self._corpus)

    def load_decoder(self) -> None:
        """Load what the files of each corpus need; one stands for all."""
        for path in self._corpus.example_files():
            load_decoder(path)

    def __getitem__(self, key: Key) -> Crop:
        utterance = key[1]
        position = numpy_generator(self._seed, "crop", *key).random()
        try:
            return self._crop(utterance, position)
        except AudioError as error:
            return self._in_place_of(key, position, error)

    def _crop(self, utterance: int, position: float, replaced: str | None = None) -> Crop:
        samples = self._corpus.read_crop(utterance, self._num_samples, position)
        speaker = int(self._corpus.speaker_ids[utterance])
        return Crop(torch.from_numpy(samples), speaker, utterance, replaced)

    def _in_place_of(self, key: Key, position: float, error: AudioError) -> Crop:
        last = str(error)
        candidates = self._candidates(key)
        for candidate in candidates:
            try:
                return self._crop(candidate, position, str(error))
            except AudioError as another:
                last = str(another)
        raise DataError(
            f"{error}. None of {len(candidates)} others tried in its place could be read (the last: {last})"
        )

    def _candidates(self, key: Key) -> list[int]:
        """Utterances to read in place of an unreadable one, in order."""
        utterance = key[1]
        generator = numpy_generator(self._seed, "replacement", *key)
        own = self._corpus.utterances_of(int(self._corpus.speaker_ids[utterance]))
        own = generator.permutation(own[own != utterance])[:_TRIES_SAME_SPEAKER]
        others = generator.integers(len(self._corpus), size=_TRIES - len(own))
        candidates: list[int] = np.concatenate([own, others[others != utterance]]).tolist()
        return candidates


def collate(crops: list[Crop]) -> Batch:
    """Crops of equal length as one batch."""
    return Batch(
        torch.stack([crop.waveform for crop in crops]),
        torch.tensor([crop.speaker for crop in crops], dtype=torch.int64),
        torch.tensor([crop.utterance for crop in crops], dtype=torch.int64),
        [crop.replaced for crop in crops if crop.replaced is not None],
    )


def make_loader(
    dataset: CropDataset,
    batches: Iterable[list[Any]],
    workers: int,
    pin_memory: bool,
    augmenter: Augmenter | None = None,
) -> DataLoader[Any]:
    """A loader of :class:`Batch`; it may be iterated again and again, and its workers stay.

    Args:
        dataset: where the crops come from.
        batches: keys of each batch, an :class:`mrl.data.epoch_batches.EpochBatches` or a list of lists.
        workers: processes that read; 0 reads in this one.
        pin_memory: put batches where a copy to a GPU need not wait for.
        augmenter: plans what to do to each batch, and prepares it, so that clips are read, and codecs run, in the
            workers too. ``dataset`` must then give crops of its `source_samples`.
    """
    if workers > 0:
        dataset.load_decoder()
    return _BatchLoader(
        _Batches(dataset, augmenter),
        batch_sampler=batches,
        collate_fn=_unchanged,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
        # A forked worker shares the corpus's arrays and starts at once; it must leave CUDA alone, and does.
        multiprocessing_context="fork" if workers > 0 and sys.platform == "linux" else None,
    )


class _Batches(Dataset[Batch]):
    """Whole batches of crops, or the message of the DataError that there is instead.

    Raised in a worker, the error would reach the user with the worker's traceback in its message, and torch
    would wait seconds for that worker to end.
    """

    def __init__(self, crops: CropDataset, augmenter: Augmenter | None) -> None:
        self._crops = crops
        self._augmenter = augmenter

    def __getitems__(self, keys: list[Key]) -> Batch | str:
        try:
            batch = collate([self._crops[key] for key in keys])
            if self._augmenter is None:
                return batch
            epoch, num_samples = keys[0][0], batch.waveforms.shape[1]
            again = torch.tensor([key[2] if len(key) == 3 else 0 for key in keys])
            names = (
                batch.utterances + len(self._crops) * again
            )  # so that a repeat is augmented in its own way
            plan = self._augmenter.plan(names, batch.speakers, epoch=epoch, num_samples=num_samples)
            return batch._replace(waveforms=self._augmenter.prepare(batch.waveforms, plan), plan=plan)
        except DataError as error:
            return str(error)


def _unchanged(batch: Any) -> Any:
    return batch


class _BatchLoader(DataLoader[Any]):
    """Raises the DataError whose message :class:`_Batches` hands over."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            if isinstance(batch, str):
                raise DataError(batch)
            yield batch


def _start_worker(_: int) -> None:
    """One thread for each worker, since there are many; Ctrl-C is for the main process, which ends them."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
