"""A small corpus; tests that need another one have a fixture of their own by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from mrl.audio import SAMPLE_RATE
from mrl.data.corpus import Corpus, scan
from tests.data.crops import SPEAKERS, UTTERANCES


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    for speaker in range(SPEAKERS):
        (tmp_path / f"id{speaker}").mkdir()
        for utterance in range(UTTERANCES):
            seed = 10 * speaker + utterance
            samples = np.random.default_rng(seed).uniform(-0.5, 0.5, 3000 + 100 * seed).astype(np.float32)
            suffix = "flac" if utterance == 0 else "wav"
            soundfile.write(tmp_path / f"id{speaker}" / f"u{utterance}.{suffix}", samples, SAMPLE_RATE)
    return scan(tmp_path, manifest_dir=None)
