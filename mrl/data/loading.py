"""Crops of a corpus in batches.

What a batch holds depends on (seed, epoch, step) alone: not on the number of workers or processes, and not on
how often the run was interrupted. B batch, T samples, N utterances.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mrl.audio import SilentPartError, load_decoder
from mrl.data.augment import AugmentationPlan
from mrl.data.corpus import Corpus
from mrl.data.epoch_batches import Key
from mrl.errors import AudioError, DataError
from mrl.randomness import numpy_generator

_TRIES = 10  # readings in place of an unreadable file
_TRIES_SAME_SPEAKER = 5
_TRIES_ELSEWHERE = 8  # in a silent file; where half of a call is silence, one crop in 512 finds no speech


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
    bad_clips: tuple[str, ...] = ()
    """A message for each clip of the augmenter that could not be read, and was replaced; once in each process."""


class CropDataset(Dataset[Crop]):
    """A crop of ``num_samples`` for each key of a corpus.

    A file that cannot be read is replaced, first by others of its speaker, then by any; which ones depends on
    the key. DataError where ten of them cannot be read either. Where a crop is all zeros (a pause, the other side of
    a call), other places of the same utterance are tried before that.
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

    def path(self, key: Key) -> Path:
        """The file that a key asks for."""
        return self._corpus.path(key[1])

    def __getitem__(self, key: Key) -> Crop:
        utterance = key[1]
        position = numpy_generator(self._seed, "crop", *key).random()
        try:
            return self._crop(utterance, position)
        except SilentPartError as error:
            return self._elsewhere(key, position, error)
        except AudioError as error:
            return self._in_place_of(key, position, error)

    def _crop(self, utterance: int, position: float, replaced: str | None = None) -> Crop:
        samples = self._corpus.read_crop(utterance, self._num_samples, position)
        speaker = int(self._corpus.speaker_ids[utterance])
        return Crop(torch.from_numpy(samples), speaker, utterance, replaced)

    def _elsewhere(self, key: Key, position: float, silent: SilentPartError) -> Crop:
        """A crop from another place of an utterance that is silent at ``position``."""
        for other in numpy_generator(self._seed, "crop elsewhere", *key).random(_TRIES_ELSEWHERE):
            try:
                return self._crop(key[1], float(other))
            except SilentPartError:
                continue
            except AudioError as error:
                return self._in_place_of(key, position, error)
        tried = SilentPartError(f"{silent}, here and at {_TRIES_ELSEWHERE} other places")
        return self._in_place_of(key, position, tried)

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
