"""Fixtures that several parts share: the folders of reference data, and a tiny released model."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mrl.models.pretrained import build_released
from mrl.models.released import ReleasedModel

# The architecture of the released models in miniature: 24 bands, 4 channels, two stages.
TINY = {
    "F": 24,
    "C": 4,
    "block_1d_type": "conv+att",
    "block_2d_type": "convnext_like",
    "stages_setup": [[1, 1, 1, [[3, 3]], 12], [2, 1, 1, [[3, 3]], 12]],
    "group_divisor": 4,
    "out_channels": None,
    "embed_dim": 24,
    "hop_length": 160,
    "pooling_func": "ASTP",
    "global_context_att": True,
}


@pytest.fixture(autouse=True)
def no_handler_of_children() -> Iterator[None]:
    """Once a test has iterated a DataLoader in this thread, torch raises here whenever any child dies."""
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@pytest.fixture
def tiny_config() -> dict[str, Any]:
    return dict(TINY)


@pytest.fixture
def released() -> ReleasedModel:
    """A tiny released model with random weights, in eval mode."""
    return build_released(TINY, seed=1).eval()


@pytest.fixture(scope="session")
def speech() -> Path:
    """The folder of real speech."""
    folder = os.environ.get("MRL_SPEECH")
    if not folder:
        pytest.skip("MRL_SPEECH is not set: it names a folder with train/, val/, trials/ of real speech")
    return Path(folder)
