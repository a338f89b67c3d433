"""Stage 1 from a feature cache against the frozen backbone in the loop: crops a second, seconds an epoch.

The plain path loads and augments each crop by itself, runs a plain backbone without gradients, a head, and one full
loss for each prefix. In the loop too is our own backbone, with our step and without loading.
B batch, T samples, P pooled statistics, D widest prefix.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.b2 import B2, DIMS, TINY
from benchmarks.decoding import write_corpus
from benchmarks.loss import plain_loss
from benchmarks.plain_loop import PlainCrops, endless
from benchmarks.plain_redimnet import PlainReDimNet
from benchmarks.table import Claim, Table
from benchmarks.timing import Timing, alternate, ratio
from mrl.config import RuntimeConfig, StageConfig
from mrl.data.epoch_batches import EpochBatches
from mrl.loss import MarginSoftmax, PrefixSettings, SlicedClassifier, Targets
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import build_released
from mrl.randomness import numpy_generator
from mrl.training.batches import CachedBatches
from mrl.training.criterion import Criterion
from mrl.training.feature_store import FeatureStore, Layout, encode
from mrl.training.schedules import StagePlan
from mrl.training.stages import enter_stage
from mrl.training.step_module import StepBatch
from mrl.training.updater import Updater

CLASSES = 5_994
VOXCELEB2 = 1_092_009  # utterances of its development part
VIEWS = 4
_CROP_SAMPLES = 48_000


class _Shuffled:
    """Epochs of so many utterances, each a permutation."""

    def __init__(self, size: int) -> None:
        self.size = size

    def order(self, epoch: int) -> np.ndarray:
        return numpy_generator(0, "order", epoch).permutation(self.size)


def run(*, quick: bool = False) -> list[Table]:
    """The table, on a GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    precision = "bf16" if on_gpu else "float32"
    options, classes = (TINY, 50) if quick else (B2, CLASSES)
    loop_batch = 4 if quick else (512 if on_gpu else 16)
    batch, rows = (32, 128) if quick else (512, 16_384)
    encoder = _encoder(options).to(device)
    in_loop = _updater(encoder, classes, loop_batch, precision, from_pooled=False)
    cached = _updater(encoder, classes, batch, precision, from_pooled=True)
    crops = _crops(loop_batch, classes, device)
    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder), rows, encoder.backbone.pooled_dim, classes)
        batches = _endless(_source(store, batch, device))
        steps = 4 if quick else 8
        numbers = itertools.count()

        def loop_step() -> None:
            in_loop.update(crops, stage_step=0, run_step=next(numbers))

        def cached_steps() -> None:
            for _ in range(steps):
                cached.update(next(batches), stage_step=0, run_step=next(numbers))

        def extraction() -> None:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                encoder.backbone(crops.inputs).half().cpu()

        corpus = write_corpus(Path(folder) / "speech", "wav", 2 * loop_batch)
        plain = _Plain(options, classes, PlainCrops(corpus, _CROP_SAMPLES), loop_batch, device)
        contenders = {
            "plain": plain.step,
            "loop": loop_step,
            "cached": cached_steps,
            "extraction": extraction,
        }
        timings = alternate(contenders, rounds=2 if quick else 5)
    sizes = {"plain": loop_batch, "loop": loop_batch, "cached": steps * batch, "extraction": loop_batch}
    per_crop = {name: _per_crop(timing, sizes[name]) for name, timing in timings.items()}
    return [_table(per_crop, device)]


def _table(per_crop: dict[str, Timing], device: torch.device) -> Table:
    speedup = ratio(per_crop["plain"], per_crop["cached"])
    own = ratio(per_crop["loop"], per_crop["cached"])
    titles = {
        "plain": "plain frozen backbone in the loop, float32, with loading",
        "loop": "ours in the loop, without loading",
        "cached": "from the cache",
        "extraction": f"filling the cache, once ({VIEWS} views)",
    }
    rows = []
    for name, title in titles.items():
        seconds = per_crop[name].median
        passes = VIEWS if name == "extraction" else 1
        rows.append([title, f"{1 / seconds:,.1f}", f"{seconds * VOXCELEB2 * passes / 3600:,.2f} h"])
    where = "GPU" if device.type == "cuda" else "CPU"
    return Table(
        f"Stage 1 from a feature cache (b2, 3 s crops, {CLASSES:,} speakers, {where})",
        "uv run python -m benchmarks.feature_cache",
        ["", "crops/s", "an epoch of VoxCeleb2"],
        rows,
        [Claim("seconds of an epoch, plain over from the cache", speedup, 50 if where == "GPU" else 300)],
        f"Against our own backbone in the loop it is {own:.0f} times as fast. The row from the cache gathers its "
        "batches from disk; filling it is without loading.",
    )


class _Plain:
    """A step as it is usually written: float32, a full loss for each prefix."""

    def __init__(
        self,
        options: dict[str, object],
        classes: int,
        crops: PlainCrops,
        batch: int,
        device: torch.device,
    ) -> None:
        self._backbone = PlainReDimNet(options).to(device).eval()
        width = self._backbone.linear.in_features
        self._head = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, DIMS[-1])).to(device)
        self._vectors = nn.Parameter(torch.randn(classes, DIMS[-1], device=device))
        self._optimizer = torch.optim.AdamW([*self._head.parameters(), self._vectors], lr=1e-3)
        self._batches = endless(DataLoader(crops, batch, shuffle=True, drop_last=True))
        self._device = device

    def step(self) -> float:
        waveforms, speakers = (part.to(self._device) for part in next(self._batches))
        with torch.no_grad():
            pooled = self._backbone.pooled(waveforms)
        self._optimizer.zero_grad()
        loss = plain_loss(self._head(pooled), self._vectors, speakers, DIMS)
        loss.backward()
        self._optimizer.step()
        return loss.item()


def _encoder(options: dict[str, object]) -> SpeakerEncoder:
    torch.manual_seed(0)
    released = build_released(options, seed=0)
    head = MatryoshkaHead(released.pooled_dim, DIMS[-1])
    encoder = SpeakerEncoder(released, head, DIMS)
    with torch.no_grad():
        head.linear.weight *= 4  # so that random weights give embeddings that differ
    return encoder.eval()


def _updater(
    encoder: SpeakerEncoder, classes: int, batch: int, precision: str, *, from_pooled: bool
) -> Updater:
    rates = {"head": 1e-3, "classifier": 1e-3}
    stage = StageConfig(name="head", train=("head",), epochs=1, batch_size=batch, learning_rate=rates)  # type: ignore[arg-type]
    device = encoder.head.linear.weight.device
    softmax = [MarginSoftmax("aam")] * len(DIMS)
    criterion = Criterion(SlicedClassifier(classes, DIMS, softmax, [30.0] * len(DIMS))).to(device)
    enter_stage(encoder, criterion, stage)
    peak = PrefixSettings((0.2,) * len(DIMS), (1.0,) * len(DIMS))
    runtime = RuntimeConfig(precision=precision)  # type: ignore[arg-type]
    plan = StagePlan(stage, 0, 1_000_000, DIMS, peak)
    return Updater(encoder, criterion, plan, runtime, 0, from_pooled=from_pooled)


def _crops(batch: int, classes: int, device: torch.device) -> StepBatch:
    generator = torch.Generator().manual_seed(0)
    waveforms = 0.05 * torch.randn(batch, _CROP_SAMPLES, generator=generator)
    speakers = torch.randint(classes, (batch,), generator=generator)
    return StepBatch(waveforms.to(device), Targets(speakers.to(device)), None, torch.arange(batch), [])


def _store(folder: Path, rows: int, pooled_dim: int, classes: int) -> FeatureStore:
    """A store of random numbers."""
    store = FeatureStore(folder, Layout(rows, 1, pooled_dim, 0))
    store.prepare()
    generator = torch.Generator().manual_seed(0)
    for number, block in enumerate(store.layout.blocks):
        pooled = torch.randn(len(block), pooled_dim, generator=generator)
        speakers = torch.randint(classes, (len(block),), generator=generator)
        store.write(number, encode(pooled, None, Targets(speakers), store.layout), [])
    return store


def _source(store: FeatureStore, batch: int, device: torch.device) -> CachedBatches:
    size = store.layout.num_utterances
    epochs = EpochBatches(_Shuffled(size), batch)
    places = np.arange(size)[None]
    return CachedBatches(store, places, epochs, device, mixed=False, first_epoch=1)


def _endless(source: CachedBatches) -> Iterator[StepBatch]:
    for epoch in itertools.count(1):
        source.set_epoch(epoch)
        yield from source


def _per_crop(timing: Timing, crops: int) -> Timing:
    return Timing(tuple(seconds / crops for seconds in timing.seconds))


if __name__ == "__main__":
    for table in run():
        table.show()
