"""Filling a feature cache: each crop through the frozen backbone once. B batch, T samples, P pooled statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl.audio import SAMPLE_RATE
from mrl.config import Config, StageConfig
from mrl.data.assemble import RunData
from mrl.data.augment import Augmenter
from mrl.data.epoch_batches import Key
from mrl.data.loader import make_loader
from mrl.data.loading import Batch, CropDataset
from mrl.errors import TrainingError
from mrl.loss import Targets
from mrl.models.encoder import SpeakerEncoder
from mrl.randomness import seed_of
from mrl.stopping import heed
from mrl.training.batches import on_device
from mrl.training.criterion import Criterion
from mrl.training.feature_store import FeatureStore, encode
from mrl.training.updater import autocast

BATCH = 64
"""Crops that go through the network together, and may talk in each other's babble."""
_LARGEST = torch.finfo(torch.float16).max

Advance = Callable[[int], None]


class Crops(NamedTuple):
    """What the rows of a cache are made from."""

    config: Config
    stage: StageConfig
    data: RunData
    augmenter: Augmenter
    orders: NDArray[np.int64]  # [views, N], the utterance in each place
    first_epoch: int


def fill(
    store: FeatureStore,
    blocks: Sequence[int],
    crops: Crops,
    encoder: SpeakerEncoder,
    criterion: Criterion,
    advance: Advance,
    say: Callable[[str], None],
) -> None:
    """Compute and write ``blocks`` of ``store``, with the backbone as the stage has it.

    ``advance`` is told how many rows were written, ``say`` of data workers that were replaced. Raises DataError where
    ten files in a row cannot be read, or the store cannot be written, and TrainingError for statistics that float16
    cannot hold; it names a file.
    """
    stage, device = crops.stage, encoder.head.linear.weight.device
    rows_left = [len(store.layout.blocks[block]) for block in blocks]
    keys = _BatchKeys(store, blocks, crops)
    dataset = CropDataset(
        crops.data.train,
        crops.augmenter.source_samples(round(stage.crop_seconds * SAMPLE_RATE)),
        crops.config.seed,
    )
    data_config = crops.config.data
    loader = make_loader(
        dataset,
        keys,
        data_config.workers,
        pin_memory=device.type == "cuda",
        augmenter=crops.augmenter,
        timeout_seconds=data_config.worker_timeout_seconds,
        say=say,
    )
    records: list[NDArray[np.uint8]] = []
    replaced: list[str] = []
    done = 0
    for number, batch in enumerate(on_device(loader, device)):
        heed()  # whole blocks are on the disk, and the next start goes on after them
        torch.manual_seed(seed_of(crops.config.seed, "cached masks", *keys.place_of(number)))
        records.append(_records(batch, store, crops, encoder, criterion))
        replaced += batch.replaced
        if sum(map(len, records)) == rows_left[done]:
            store.write(blocks[done], np.concatenate(records), replaced)
            advance(rows_left[done])
            records, replaced, done = [], [], done + 1


@torch.no_grad()
def _records(
    batch: Batch, store: FeatureStore, crops: Crops, encoder: SpeakerEncoder, criterion: Criterion
) -> NDArray[np.uint8]:
    assert batch.plan is not None
    device = batch.waveforms.device
    waveforms = crops.augmenter.apply(batch.waveforms, batch.plan)
    with autocast(device, crops.config.runtime.precision):
        pooled = encoder.backbone(waveforms).float()
        reference = criterion.hear(waveforms).float() if store.layout.reference_dim else None
    for values in (pooled, reference):
        if values is not None:
            _require_representable(values, batch, crops)
    targets: Targets = batch.plan.targets(batch.speakers, len(crops.data.train.speakers))
    return encode(pooled, reference, targets, store.layout)


def _require_representable(values: Tensor, batch: Batch, crops: Crops) -> None:
    fits = (values.abs() <= _LARGEST).all(dim=1).tolist()  # NaN does not
    if not all(fits):
        utterance = int(batch.utterances[fits.index(False)])
        raise TrainingError(
            f"{crops.data.train.relative_path(utterance)}: its pooled statistics are not finite, or beyond "
            f"float16; set stages.{crops.stage.name}.cache_views to 0 to train without a cache"
        )


class _BatchKeys:
    """The keys of the crops of some blocks, in batches that end with their block."""

    def __init__(self, store: FeatureStore, blocks: Sequence[int], crops: Crops) -> None:
        layout = store.layout
        self._crops = crops
        self._places = [
            (block, start) for block in blocks for start in range(0, len(layout.blocks[block]), BATCH)
        ]
        self._blocks = {block: layout.blocks[block] for block in blocks}
        self._num_utterances = layout.num_utterances

    def place_of(self, number: int) -> tuple[int, int]:
        """Block and first row within it of the batch."""
        return self._places[number]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[list[Key]]:
        for block, start in self._places:
            rows = self._blocks[block]
            view, place = divmod(rows.start + start, self._num_utterances)
            count = min(BATCH, len(rows) - start)
            utterances = self._crops.orders[view, place : place + count].tolist()
            epoch = self._crops.first_epoch + view
            yield [(epoch, utterance) for utterance in utterances]
