"""Where a stage's batches come from: the loader, with augmentation on the device, or a feature cache.

B batch, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl.data.augment import Augmenter
from mrl.data.effects import to_device
from mrl.data.epoch_batches import EpochBatches, Key
from mrl.data.loading import Batch
from mrl.read_ahead import map_ahead
from mrl.training.feature_store import FeatureStore, decode
from mrl.training.step_module import StepBatch

_READERS = 2  # threads that gather batches from a cache while the device computes
_RESIDENT_SHARE = 0.5  # of a GPU's free memory, which a cache may take


class BatchSource(Protocol):
    """The batches of a stage, epoch by epoch."""

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """What the next iteration gives: the batches of ``epoch``, counted through the run, from a step on."""

    def __iter__(self) -> Iterator[StepBatch]: ...


class WaveformBatches:
    """Crops from ``loader``, augmented on ``device``."""

    def __init__(
        self,
        loader: Iterable[Batch],
        epochs: EpochBatches,
        augmenter: Augmenter,
        num_speakers: int,
        device: torch.device,
    ) -> None:
        self._loader, self._epochs, self._augmenter = loader, epochs, augmenter
        self._num_speakers, self._device = num_speakers, device

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        self._epochs.set_epoch(epoch, start_step)

    def __iter__(self) -> Iterator[StepBatch]:
        for batch in on_device(self._loader, self._device):
            assert batch.plan is not None
            yield StepBatch(
                self._augmenter.apply(batch.waveforms, batch.plan),
                batch.plan.targets(batch.speakers, self._num_speakers),
                None,
                batch.utterances,
                batch.replaced,
            )


class CachedBatches:
    """Pooled statistics from a feature cache: view after view of each utterance, in the order of ``epochs``.

    An epoch hears one view of every utterance, the next epoch the next view, and so on in a circle; an utterance
    that comes several times in an epoch comes in as many views, as far as there are so many.

    Args:
        store: complete.
        places: [views, utterances], where each utterance stands within the rows of a view.
        mixed: whether items may have partners.
        first_epoch: the run's number of the stage's first epoch.
    """

    def __init__(
        self,
        store: FeatureStore,
        places: NDArray[np.int64],
        epochs: EpochBatches,
        device: torch.device,
        *,
        mixed: bool,
        first_epoch: int,
    ) -> None:
        self._folder = store.folder
        self._layout, self._places, self._epochs = store.layout, places, epochs
        self._device, self._mixed, self._first_epoch = device, mixed, first_epoch
        self._records = store.open()
        self._resident = self._upload() if device.type == "cuda" else None

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        self._epochs.set_epoch(epoch, start_step)

    def __iter__(self) -> Iterator[StepBatch]:
        for keys, records in map_ahead(self._gather, self._epochs, _READERS, name=lambda _: self._folder):
            features = decode(records.to(self._device, non_blocking=True), self._layout, mixed=self._mixed)
            yield StepBatch(
                features.pooled,
                features.targets,
                features.reference,
                torch.tensor([key[1] for key in keys], dtype=torch.int64),
                [],  # said when they were cached
            )

    def rows_of(self, keys: list[Key]) -> NDArray[np.int64]:
        """The row of each key."""
        table = np.array([(*key, 0)[:3] for key in keys], dtype=np.int64)
        views = (table[:, 0] - self._first_epoch + table[:, 2]) % self._layout.views
        return views * self._layout.num_utterances + self._places[views, table[:, 1]]

    def _gather(self, keys: list[Key]) -> tuple[list[Key], Tensor]:
        rows = self.rows_of(keys)
        if self._resident is not None:
            chosen = torch.from_numpy(rows).to(self._device)
            return keys, self._resident.index_select(0, chosen)
        records = torch.from_numpy(self._records[rows])
        return keys, records.pin_memory() if self._device.type == "cuda" else records

    def _upload(self) -> Tensor | None:
        """The whole cache on the GPU, where it leaves room enough for what trains."""
        free, _ = torch.cuda.mem_get_info(self._device)
        if self._layout.num_bytes > _RESIDENT_SHARE * free:
            return None
        resident = torch.empty(self._records.shape, dtype=torch.uint8, device=self._device)
        step = 1 << 16
        for start in range(0, len(self._records), step):
            resident[start : start + step] = torch.from_numpy(self._records[start : start + step].copy())
        return resident


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """``batches`` with waveforms, speakers and plan on ``device``; utterances stay on the CPU.

    A GPU gets the next batch on a stream of its own, while it computes on the one before.
    """
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)
    waiting: Batch | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            moved: Batch = to_device(batch, device)
        moved = moved._replace(utterances=batch.utterances)
        if waiting is not None:
            yield waiting
        torch.cuda.current_stream(device).wait_stream(copying)
        _keep_until_used(moved, torch.cuda.current_stream(device))
        waiting = moved
    if waiting is not None:
        yield waiting


def _keep_until_used(content: object, stream: torch.cuda.Stream) -> None:
    """Tell the allocator that ``stream`` reads the tensors in ``content``, made on another stream."""
    if isinstance(content, Tensor):
        if content.is_cuda:
            content.record_stream(stream)
    elif isinstance(content, tuple):
        for field in content:
            _keep_until_used(field, stream)
