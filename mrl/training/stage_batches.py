"""The batches of a stage: from the loader, or from a feature cache that is filled first."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mrl.audio import SAMPLE_RATE
from mrl.config import Config
from mrl.data.assemble import RunData
from mrl.data.augment import Augmenter
from mrl.data.epoch_batches import EpochBatches
from mrl.data.loader import make_loader
from mrl.data.loading import CropDataset
from mrl.data.sampling import stage_sampling
from mrl.errors import DataError
from mrl.locking import alone_in
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
from mrl.training.feature_extraction import BATCH, Crops, fill
from mrl.training.feature_store import FeatureStore
from mrl.training.out_of_memory import naming_memory
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
        loader = make_loader(
            dataset,
            epochs,
            config.data.workers,
            pin_memory=pinned,
            augmenter=augmenter,
            timeout_seconds=config.data.worker_timeout_seconds,
            say=tracker.say,
        )
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

    def place() -> tuple[Path, str]:
        key = cache_key(config, stage, encoder, criterion, data, crops.first_epoch)
        return cache_folder(config, key), json.dumps(key, indent=1)

    folder, description = processes.from_first(place)
    layout = cache_layout(stage, data.train, encoder, criterion)
    store = FeatureStore(folder, layout, processes.rank)
    own = range(processes.rank, len(layout.blocks), processes.world_size)
    if not any(processes.gather(store.missing(own) if store.is_prepared() else [*own])):
        tracker.say(f"feature cache of stage {stage.name}: complete in {folder}")
        return store
    with ExitStack() as stack:

        def prepare() -> None:
            busy = f"{folder}: another run is filling this feature cache; wait for it, and start again to read it"
            stack.enter_context(alone_in(folder, DataError(busy)))
            store.prepare()
            store.describe(description)

        processes.from_first(prepare)
        if not store.is_prepared():
            raise DataError(
                f"{folder}: process {processes.rank} does not see the feature cache that the first one made; "
                "data.cache must be on a file system that all machines share"
            )
        _fill_blocks(store, own, crops, encoder, criterion, tracker, processes)
    return store


def _fill_blocks(
    store: FeatureStore,
    own: range,
    crops: Crops,
    encoder: SpeakerEncoder,
    criterion: Criterion,
    tracker: Tracker,
    processes: Processes,
) -> None:
    """Compute those of this process's ``own`` blocks that are missing; returns when all processes are done."""
    stage, blocks = crops.stage, store.layout.blocks
    missing = store.missing(own)
    to_write = sum(len(blocks[block]) for part in processes.gather(missing) for block in part)
    tracker.say(describe_need(stage, store.layout, store.folder))
    count, size = other_caches(store.folder)
    if count:
        tracker.say(
            f"{count} other feature caches lie beside it, {gibibytes(size)}; delete what no run needs any more"
        )
    processes.from_first(lambda: require_room(stage, store, to_write))
    rows = sum(len(blocks[block]) for block in own)
    done = rows - sum(len(blocks[block]) for block in missing)
    if done:
        tracker.say(f"{done:,} of {rows:,} crops are there from an earlier start")
    work = f"while filling the feature cache of stage {stage.name}"
    advice = (
        f"{BATCH} crops are computed together: shorten its crop_seconds, or set runtime.precision to bf16"
    )
    with (
        tracker.progress(f"feature cache, stage {stage.name}", rows, done) as bar,
        naming_memory(work, encoder.head.linear.weight.device, lambda *_: advice),
    ):
        fill(store, missing, crops, encoder, criterion, bar.advance, tracker.say)
    processes.wait()
