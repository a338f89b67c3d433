"""The pooled statistics of a stage whose backbone is frozen: computed once, then read from disk.

With a frozen backbone the pooled statistics of a crop are constants. A few augmented views of each utterance are
computed and kept; head and classifier then train on them. View v of an utterance is the crop that epoch v of the
stage would have heard: what its key in the cache depends on (backbone, data, augmentation, seed, ...) is therefore
what that crop depends on. P pooled statistics, N utterances, B batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl.audio import SAMPLE_RATE
from mrl.config import Config, StageConfig
from mrl.data.assemble import RunData
from mrl.data.clips import ClipBanks
from mrl.data.corpus import Corpus
from mrl.errors import DataError
from mrl.loss import class_speeds
from mrl.models.encoder import SpeakerEncoder
from mrl.models.fingerprint import fingerprint_of
from mrl.randomness import numpy_generator
from mrl.training.criterion import Criterion
from mrl.training.feature_store import FeatureStore, Layout
from mrl.training.file_stamp import stamp_of_files

_FORMAT = 1  # of the key; to be raised when the meaning of a row changes
_KEY_CHARACTERS = 16


def cache_layout(stage: StageConfig, corpus: Corpus, encoder: SpeakerEncoder, criterion: Criterion) -> Layout:
    """Sizes of the cache of ``stage``."""
    reference_dim = 0
    if stage.teacher_weight:
        assert criterion.teacher is not None
        reference_dim = criterion.teacher.head.embedding_dim
    return Layout(len(corpus), stage.cache_views, encoder.backbone.pooled_dim, reference_dim)


def cache_key(
    config: Config,
    stage: StageConfig,
    encoder: SpeakerEncoder,
    criterion: Criterion,
    data: RunData,
    first_epoch: int,
) -> dict[str, Any]:
    """Everything that the rows of the cache depend on, as plain values."""
    return {
        "format": _FORMAT,
        "backbone": fingerprint_of(encoder.backbone),
        "teacher": fingerprint_of(criterion.teacher) if stage.teacher_weight and criterion.teacher else None,
        "corpus": data.train.fingerprint(),
        "files": stamp_of_files(data.train.files()),
        "clips": _stamp_of_clips(data.banks),
        "speakers": len(data.train.speakers),
        "speeds": list(class_speeds(config)),
        "seed": config.seed,
        "first_epoch": first_epoch,
        "views": stage.cache_views,
        "crop_samples": round(stage.crop_seconds * SAMPLE_RATE),
        "augmentation": stage.augmentation.model_dump(mode="json"),
        "precision": config.runtime.precision,
    }


def cache_folder(config: Config, key: dict[str, Any]) -> Path:
    """Where the cache of ``key`` lies."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return config.data.cache / "features" / digest[:_KEY_CHARACTERS]


def view_orders(seed: int, views: int, num_utterances: int) -> NDArray[np.int64]:
    """The utterance in each place of each view: [views, N].

    Shuffled, so that those who are computed together, who talk in each other's babble, are of many speakers.
    """
    orders = [numpy_generator(seed, "cache order", view).permutation(num_utterances) for view in range(views)]
    return np.stack(orders)


def describe_need(stage: StageConfig, layout: Layout, folder: Path) -> str:
    """What the cache takes on disk, in words."""
    return (
        f"feature cache of stage {stage.name}: {stage.cache_views} views of {layout.num_utterances:,} utterances, "
        f"{gibibytes(layout.num_bytes)} in {folder} ({gibibytes(_free_bytes(folder))} free)"
    )


def require_room(stage: StageConfig, store: FeatureStore, rows: int) -> None:
    """Raise DataError where the disk has too little room for ``rows`` that are still to be written."""
    needed, free = rows * store.layout.record_bytes, _free_bytes(store.folder)
    if needed > free:
        each = gibibytes(store.layout.num_bytes / store.layout.views)
        raise DataError(
            f"{store.folder}: the feature cache of stage {stage.name} needs {gibibytes(needed)} more, "
            f"{gibibytes(free)} are free; make room, set data.cache to another disk, or lower "
            f"stages.{stage.name}.cache_views (a view takes {each}; 0 trains without a cache)"
        )


def other_caches(folder: Path) -> tuple[int, int]:
    """How many other feature caches lie beside ``folder``, and their bytes."""
    others = [path for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    return len(others), sum(file.stat().st_size for path in others for file in path.glob("rows.bin"))


def gibibytes(count: float) -> str:
    """``count`` bytes in words."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def _stamp_of_clips(banks: ClipBanks) -> dict[str, str]:
    found = {name: bank for name, bank in banks._asdict().items() if bank is not None}
    return {
        name: hashlib.sha256(os.fsencode("\0".join(map(str, bank.paths)))).hexdigest()
        + stamp_of_files(bank.paths)
        for name, bank in found.items()
    }


def _free_bytes(folder: Path) -> int:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free
