"""The training loop as it is usually written: files decoded whole, augmentation by item on the CPU, float32, a full
loss for each prefix, and ``.item()`` after each step. B batch, T samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import soundfile
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.b2 import DIMS
from benchmarks.loss import plain_loss
from benchmarks.plain_redimnet import PlainReDimNet
from mrl.data.corpus import Corpus

_SNR_DB = (0.0, 15.0)


class PlainCrops(Dataset[tuple[Tensor, int]]):
    """A random crop of each utterance, half of them with white noise."""

    def __init__(self, corpus: Corpus, num_samples: int) -> None:
        self._corpus, self._num_samples = corpus, num_samples

    def __len__(self) -> int:
        return len(self._corpus)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        samples, _ = soundfile.read(self._corpus.path(item), dtype="float32")
        start = np.random.randint(0, len(samples) - self._num_samples + 1)
        crop = samples[start : start + self._num_samples]
        if np.random.rand() < 0.5:
            noise = np.random.randn(self._num_samples).astype(np.float32)
            ratio = 10 ** (np.random.uniform(*_SNR_DB) / 20)
            crop = crop + noise * (np.sqrt(np.mean(crop**2)) / (ratio * np.sqrt(np.mean(noise**2)) + 1e-12))
        return torch.from_numpy(np.ascontiguousarray(crop)), int(self._corpus.speaker_ids[item])


class PlainLoop:
    """:meth:`step` loads a batch and learns from it."""

    def __init__(
        self,
        options: dict[str, object],
        corpus: Corpus,
        classes: int,
        batch: int,
        num_samples: int,
        workers: int,
        device: torch.device,
    ) -> None:
        torch.manual_seed(0)
        self._device = device
        self._network = PlainReDimNet({**options, "embed_dim": DIMS[-1]}).to(device).train()
        self._vectors = nn.Parameter(torch.randn(classes, DIMS[-1], device=device))
        parameters = [*self._network.parameters(), self._vectors]
        self._optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        crops = PlainCrops(corpus, num_samples)
        self._batches = endless(DataLoader(crops, batch, shuffle=True, drop_last=True, num_workers=workers))
        self.losses: list[float] = []

    def step(self) -> None:
        waveforms, speakers = next(self._batches)
        waveforms, speakers = waveforms.to(self._device), speakers.to(self._device)
        self._optimizer.zero_grad()
        loss = plain_loss(self._network(waveforms), self._vectors, speakers, DIMS)
        loss.backward()
        self._optimizer.step()
        self.losses.append(loss.item())


def endless(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch."""
    for _ in itertools.count():
        yield from loader
