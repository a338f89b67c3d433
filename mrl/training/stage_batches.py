"""The batches of a stage: from the loader, or from a feature cache that is filled first."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np

from mrl.audio import SAMPLE_RATE
from mrl.config import Config
from mrl.data.assemble import RunData
from mrl.data.augment import Augmenter
from mrl.data.epoch_batches import EpochBatches
from mrl.data.loading import CropDataset, make_loader
from mrl.data.sampling import stage_sampling
from mrl.errors import DataError
from mrl.models.encoder import SpeakerEncoder
from mrl.processes import Processes
from mrl.training.batches import BatchSource, CachedBatches, WaveformBatches
from mrl.training.criterion import Criterion
from mrl.training.feature_cache import (
    cache_folder,
    cache_key,
    cache_layout,
    describe_need,
    gibibytes,
    other_caches,
    require_room,
    view_orders,
)
from mrl.training.feature_extraction import Crops, alone, fill
from mrl.training.feature_store import FeatureStore
from mrl.training.schedules import StagePlan
from mrl.training.tracking import Tracker


class StageBatches(NamedTuple):
    """``replaced`` are messages of utterances that a cache could not read."""

    source: BatchSource
    replaced: list[str]


def make_batches(
    config: Config,
    plan: StagePlan,
    encoder: SpeakerEncoder,
    criterion: Criterion,
    data: RunData,
    tracker: Tracker,
    processes: Processes,
    first_epoch: int,
) -> StageBatches:
    """The batches of the stage of ``plan``, whose first epoch is the run's ``first_epoch``; the modules have
    entered it. This process gets its part of each batch.

    With ``cache_views`` a cache is looked up and, as far as it is not there, filled. Raises DataError where that
    cannot be done.
    """
    stage, seed, device = plan.stage, config.seed, encoder.head.linear.weight.device
    augmenter = Augmenter(stage.augmentation, seed=seed, banks=data.banks, first_epoch=first_epoch)
    epochs = EpochBatches(
        stage_sampling(config, stage, data.train),
        stage.batch_size,
        rank=processes.rank,
        world_size=processes.world_size,
    )
    if not stage.cache_views:
        num_samples = augmenter.source_samples(round(stage.crop_seconds * SAMPLE_RATE))
        dataset = CropDataset(data.train, num_samples, seed)
        pinned = device.type == "cuda"
        loader = make_loader(dataset, epochs, config.data.workers, pin_memory=pinned, augmenter=augmenter)
        speakers = len(data.train.speakers)
        return StageBatches(WaveformBatches(loader, epochs, augmenter, speakers, device), [])
    orders = view_orders(seed, stage.cache_views, len(data.train))
    crops = Crops(config, stage, data, augmenter, orders, first_epoch)
    store = _filled_store(crops, encoder, criterion, tracker, processes)
    source = CachedBatches(
        store,
        np.argsort(orders, axis=1),
        epochs,
        device,
        mixed=stage.augmentation.mixup_probability > 0.0,
        first_epoch=first_epoch,
    )
    return StageBatches(source, processes.from_first(store.replaced))


def _filled_store(
    crops: Crops, encoder: SpeakerEncoder, criterion: Criterion, tracker: Tracker, processes: Processes
) -> FeatureStore:
    """The cache of the stage, complete; each process fills blocks of its own."""
    config, stage, data = crops.config, crops.stage, crops.data
    key = cache_key(config, stage, encoder, criterion, data, crops.first_epoch)
    folder = processes.from_first(lambda: cache_folder(config, key))
    store = FeatureStore(folder, cache_layout(stage, data.train, encoder, criterion), processes.rank)
    if processes.is_first:
        with alone(folder):
            _fill_own_blocks(store, crops, encoder, criterion, tracker, processes, json.dumps(key, indent=1))
    else:
        _fill_own_blocks(store, crops, encoder, criterion, tracker, processes, "")
    return store


def _fill_own_blocks(
    store: FeatureStore,
    crops: Crops,
    encoder: SpeakerEncoder,
    criterion: Criterion,
    tracker: Tracker,
    processes: Processes,
    description: str,
) -> None:
    stage = crops.stage

    def prepare() -> None:
        store.prepare()
        store.describe(description)

    processes.from_first(prepare)
    if not store.is_prepared():
        raise DataError(
            f"{store.folder}: process {processes.rank} does not see the feature cache that the first one made; "
            "data.cache must be on a file system that all machines share"
        )
    blocks = store.layout.blocks
    missing = store.missing(range(processes.rank, len(blocks), processes.world_size))
    if not any(processes.gather(len(missing))):
        tracker.say(f"feature cache of stage {stage.name}: complete in {store.folder}")
        return
    tracker.say(describe_need(stage, store.layout, store.folder))
    count, size = other_caches(store.folder)
    if count:
        tracker.say(
            f"{count} other feature caches lie beside it, {gibibytes(size)}; delete what no run needs any more"
        )
    if processes.is_first:
        require_room(stage, store)
    own = len(range(processes.rank, len(blocks), processes.world_size))
    rows = sum(len(block) for block in blocks[processes.rank :: processes.world_size])
    done = rows - sum(len(blocks[block]) for block in missing)
    if len(missing) < own:
        tracker.say(f"{done:,} of {rows:,} crops are there from an earlier start")
    with tracker.progress(f"feature cache, stage {stage.name}", rows, done) as bar:
        fill(store, missing, crops, encoder, criterion, bar.advance)
    processes.wait()
