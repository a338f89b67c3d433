from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from mrl.config import AugmentationConfig, DataConfig
from mrl.data.augment import Augmenter
from mrl.data.clips import ClipBanks
from mrl.data.noise import white_noise

CPU = torch.device("cpu")
NUM_CLIPS = 12


@pytest.fixture
def banks(tmp_path: Path) -> ClipBanks:
    """Music and babble of a tone each, at the frequency 500 (1 + index) Hz and ever louder."""
    for kind in ("music", "babble"):
        (tmp_path / kind).mkdir()
        for index in range(NUM_CLIPS):
            samples = 0.01 * (index + 1) * np.sin(np.pi * (index + 1) * np.arange(16000) / 16)
            soundfile.write(tmp_path / kind / f"{index:02}.wav", samples, 16000, subtype="FLOAT")
    data = {"train": tmp_path, "music": tmp_path / "music", "babble": tmp_path / "babble"}
    return ClipBanks.of(DataConfig.model_validate(data))


def added(banks: ClipBanks, num_items: int = 20, **keys: object) -> Tensor:
    """What is added to noise: ``[B, 8000]``."""
    waveforms = white_noise(range(num_items), 8000, CPU) * 0.1
    augment = Augmenter(AugmentationConfig.model_validate(keys), seed=1, banks=banks)
    return augment(waveforms, range(num_items), range(num_items), epoch=1) - waveforms


def levels(waveforms: Tensor) -> Tensor:
    """RMS of each clip's tone in each row: ``[B, NUM_CLIPS]``."""
    spectrum = torch.fft.rfft(waveforms.double()).abs() / waveforms.shape[1]
    return spectrum[:, 250 : 250 * (NUM_CLIPS + 1) : 250] * 2**0.5


def test_banks_are_those_of_the_configuration(banks: ClipBanks, tmp_path: Path) -> None:
    assert banks.noise is None
    assert banks.rooms is None
    assert banks.music is not None
    assert (banks.music.kind, len(banks.music)) == ("music", NUM_CLIPS)
    assert banks.babble is not None
    assert banks.babble.folder == tmp_path / "babble"


@pytest.mark.parametrize("snr_db", [0.0, 12.0])
def test_music_is_one_clip_at_the_ratio_asked_for(banks: ClipBanks, snr_db: float) -> None:
    heard = levels(added(banks, music_probability=1.0, music_snr_db=(snr_db, snr_db)))
    assert ((heard > 1e-4).sum(dim=1) == 1).all()
    assert len(heard.argmax(dim=1).unique()) > 6
    torch.testing.assert_close(
        heard.amax(dim=1), torch.full((20,), 0.1 * 10 ** (-snr_db / 20)).double(), rtol=0.05, atol=0
    )


def test_babble_is_several_different_clips_equally_loud(banks: ClipBanks) -> None:
    heard = levels(added(banks, num_items=60, babble_probability=1.0, babble_snr_db=(6.0, 6.0)))
    counts = (heard > 1e-4).sum(dim=1)
    assert counts.unique().tolist() == [3, 4, 5, 6, 7, 8]
    power = (0.1 * 10 ** (-6 / 20)) ** 2
    for row, count in zip(heard, counts.tolist(), strict=True):
        loud = row[row > 1e-4]
        torch.testing.assert_close(loud, torch.full_like(loud, (power / count) ** 0.5), rtol=0.06, atol=0)


def test_babble_of_more_talkers_than_clips_is_all_clips(banks: ClipBanks) -> None:
    heard = levels(added(banks, babble_probability=1.0, babble_speakers=(40, 50)))
    assert (heard > 1e-5).all()


def test_clips_of_babble_do_not_depend_on_the_batch(banks: ClipBanks) -> None:
    many = added(banks, num_items=20, babble_probability=1.0, music_probability=1.0)
    few = added(banks, num_items=2, babble_probability=1.0, music_probability=1.0)
    torch.testing.assert_close(many[:2], few)
