"""Stage 2, everything trained: our step with and without data loading, a plain loop, and where the time goes.

B batch, T samples.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.b2 import B2, DIMS, TINY
from benchmarks.decoding import write_corpus
from benchmarks.plain_loop import PlainLoop
from benchmarks.table import Claim, Table
from benchmarks.timing import Timing, alternate, ratio
from mrl.config import AugmentationConfig, RuntimeConfig, StageConfig
from mrl.data.augment import Augmenter
from mrl.data.clips import ClipBanks
from mrl.data.corpus import Corpus
from mrl.data.epoch_batches import EpochBatches
from mrl.data.loader import make_loader
from mrl.data.loading import CropDataset
from mrl.loss import MarginSoftmax, PrefixSettings, SlicedClassifier
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import build_released
from mrl.randomness import numpy_generator
from mrl.training.batches import WaveformBatches
from mrl.training.criterion import Criterion
from mrl.training.schedules import StagePlan
from mrl.training.stages import enter_stage
from mrl.training.step_module import StepBatch
from mrl.training.updater import Updater, autocast

COMMAND = "uv run python -m benchmarks.training_step"
CLASSES = 5_994
_AUGMENTATION = AugmentationConfig(noise_probability=0.5, room_probability=0.3, gain_probability=0.3)
_TITLES = {
    "plain": "plain loop, with loading",
    "loaded": "ours, with loading",
    "synthetic": "ours, one batch on the device again and again",
}


class _Size(NamedTuple):
    options: dict[str, object]
    classes: int
    batch: int
    num_samples: int
    files: int
    steps: int
    rounds: int


class _Shuffled:
    """Epochs of so many utterances, each a permutation."""

    def __init__(self, size: int) -> None:
        self.size = size

    def order(self, epoch: int) -> object:
        return numpy_generator(0, "order", epoch).permutation(self.size)


def run(*, quick: bool = False) -> list[Table]:
    """Utterances a second, and the parts of a step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    size = _Size(B2, CLASSES, 8, 48_000, 32, 1, 4)
    if on_gpu:
        size = size._replace(batch=256, files=2_048, steps=20, rounds=5)
    if quick:
        size = _Size(TINY, 20, 4, 24_000, 8, 1, 2)
    workers = max(1, (os.cpu_count() or 1) - 2) if on_gpu else 1
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(Path(folder), "wav", size.files)
        ours = _Ours(size, corpus, device, workers)
        plain = PlainLoop(size.options, corpus, size.classes, size.batch, size.num_samples, workers, device)
        steps = {"plain": plain.step, "loaded": ours.loaded_step, "synthetic": ours.synthetic_step}
        contenders = {name: _repeated(step, size.steps) for name, step in steps.items()}
        timings = alternate(contenders, rounds=size.rounds)
        parts = ours.parts(size.rounds)
    return [_speed_table(timings, size, device), _parts_table(parts, size, device)]


class _Ours:
    """Our step on b2 with all parts trained, as the stage ``full`` of config.yaml has it."""

    def __init__(self, size: _Size, corpus: Corpus, device: torch.device, workers: int) -> None:
        on_gpu = device.type == "cuda"
        torch.manual_seed(0)
        released = build_released(size.options, seed=0)
        self._encoder = SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, DIMS[-1]), DIMS).to(
            device
        )
        softmax = [MarginSoftmax("aam")] * len(DIMS)
        self._criterion = Criterion(SlicedClassifier(size.classes, DIMS, softmax, [30.0] * len(DIMS))).to(
            device
        )
        rates = {"backbone": 1e-5, "head": 1e-4, "classifier": 1e-4}
        stage = StageConfig(
            name="full", train=("backbone", "head"), epochs=1, batch_size=size.batch, learning_rate=rates,  # type: ignore[arg-type]
        )  # fmt: skip
        enter_stage(self._encoder, self._criterion, stage)
        self._peak = PrefixSettings((0.2,) * len(DIMS), (1.0,) * len(DIMS))
        plan = StagePlan(stage, 0, 1_000_000, DIMS, self._peak)
        self._precision = "bf16" if on_gpu else "float32"
        runtime = RuntimeConfig(precision=self._precision, compile=on_gpu)  # type: ignore[arg-type]
        self._updater = Updater(self._encoder, self._criterion, plan, runtime, 0)
        self._augmenter = Augmenter(_AUGMENTATION, seed=0, banks=ClipBanks())
        epochs = EpochBatches(_Shuffled(len(corpus)), size.batch)  # type: ignore[arg-type]
        loader = make_loader(
            CropDataset(corpus, size.num_samples, 0),
            epochs,
            workers,
            pin_memory=on_gpu,
            augmenter=self._augmenter,
        )
        self._loaded = _endless(WaveformBatches(loader, epochs, self._augmenter, size.classes, device))
        self._batch = next(self._loaded)
        self._device = device
        self._numbers = itertools.count()

    def loaded_step(self) -> None:
        self._updater.update(next(self._loaded), stage_step=0, run_step=next(self._numbers))

    def synthetic_step(self) -> None:
        self._updater.update(self._batch, stage_step=0, run_step=next(self._numbers))

    def parts(self, rounds: int) -> dict[str, Timing]:
        """Seconds of the parts of a step, each run by itself."""
        waveforms, trunk = self._batch.inputs, self._encoder.backbone
        utterances = self._batch.utterances
        plan = self._augmenter.plan(utterances, utterances % 7, epoch=1, num_samples=waveforms.shape[1])
        with autocast(self._device, self._precision):
            embeddings = self._encoder(waveforms).detach().requires_grad_()

        def network() -> None:
            with autocast(self._device, self._precision):
                self._encoder(waveforms)

        contenders: dict[str, Callable[[], object]] = {
            "augmentation on the device": lambda: self._augmenter.apply(waveforms, plan),
            "front end (log-mel)": lambda: trunk.mel(waveforms),
            "network, forward (front end included)": network,
            "loss, with its gradient": lambda: self._criterion(embeddings, self._batch.targets, self._peak),
            "optimizer": self._updater.optimizer.step,
            "whole step, without loading and augmentation": self.synthetic_step,
        }
        return alternate(contenders, rounds=rounds)


def _repeated(step: Callable[[], None], count: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(count):
            step()

    return repeated


def _endless(source: WaveformBatches) -> Iterator[StepBatch]:
    for epoch in itertools.count(1):
        source.set_epoch(epoch)
        yield from source


def _where(device: torch.device) -> str:
    return "GPU, bf16, compiled" if device.type == "cuda" else "CPU, float32"


def _speed_table(timings: dict[str, Timing], size: _Size, device: torch.device) -> Table:
    rows = []
    for name, title in _TITLES.items():
        seconds = timings[name].median / size.steps
        speedup = ratio(timings["plain"], timings[name])
        rows.append([title, f"{size.batch / seconds:,.1f}", f"{1e3 * seconds:,.1f}", f"{speedup:.2f}"])
    claims = []
    if device.type == "cuda":
        claims = [
            Claim(
                "utterances/s with loading over without", ratio(timings["synthetic"], timings["loaded"]), 0.95
            ),
            Claim("times as fast as the plain loop", ratio(timings["plain"], timings["loaded"]), 3.0),
        ]
    return Table(
        f"A step of stage 2 (b2, {size.batch} crops of 3 s, {size.classes:,} speakers, {_where(device)})",
        COMMAND,
        ["", "utterances/s", "ms a step", "times as fast as plain"],
        rows,
        claims,
    )


def _parts_table(parts: dict[str, Timing], size: _Size, device: torch.device) -> Table:
    whole = parts["whole step, without loading and augmentation"].median
    rows = [
        [name, timing.milliseconds, f"{100 * timing.median / whole:.1f} %"] for name, timing in parts.items()
    ]
    return Table(
        f"Where the time of a step goes (b2, {size.batch} crops, {_where(device)})",
        COMMAND,
        ["part, run by itself", "ms (range)", "share of the step"],
        rows,
        notes="What is left of the whole step is the backward pass of the network.",
    )


if __name__ == "__main__":
    for table in run():
        table.show()
