"""Fixtures for the models: the folder of reference tensors, and speech-like waveforms."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of outputs of the authors' code."""
    folder = os.environ.get("MRL_PARITY")
    if not folder:
        pytest.skip("MRL_PARITY is not set: it names the folder of outputs of the authors' code")
    return Path(folder)


@pytest.fixture(scope="session")
def waveforms() -> Tensor:
    """Three different waveforms [3, 8000]: harmonics that come and go, over noise."""
    rng = np.random.Generator(np.random.Philox(7))
    time = np.arange(8000) / 16_000
    voices = []
    for pitch in (110.0, 180.0, 235.0):
        harmonics = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 20))
        loudness = 0.5 + 0.5 * np.sin(2 * np.pi * 3.0 * time + pitch)
        voices.append(0.1 * harmonics * loudness + 0.003 * rng.standard_normal(time.size))
    return torch.tensor(np.stack(voices), dtype=torch.float32)
