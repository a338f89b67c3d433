from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchaudio.functional import resample

from mrl.config import AugmentationConfig
from mrl.data.augment import Augmenter
from mrl.data.clips import ClipBanks
from mrl.data.noise import white_noise
from mrl.data.speed import at_speed, crop_samples, source_samples

CPU = torch.device("cpu")


def tone(hz: float, num_samples: int) -> torch.Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(num_samples) / 16000)[None]


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.037, 1.1, 2.0])
def test_a_tone_played_faster_is_higher(factor: float) -> None:
    played = at_speed(tone(400.0, source_samples(8000, [factor])), factor, 8000)
    assert played.shape == (1, 8000)
    torch.testing.assert_close(
        played[:, 200:-200], tone(400.0 * factor, 8000)[:, 200:-200], atol=0.02, rtol=0
    )


def test_at_speed_equals_resampling_from_a_higher_rate() -> None:
    waveforms = white_noise([1, 2], 5000, CPU)
    expected = resample(waveforms[:, :3300], 17600, 16000)
    torch.testing.assert_close(at_speed(waveforms, 1.1, 3000), expected, atol=1e-5, rtol=0)
    assert torch.equal(at_speed(waveforms, 1.0, 3000), waveforms[:, :3000])


@given(
    num_samples=st.integers(1, 100_000),
    factors=st.lists(st.floats(0.5, 2.0), max_size=3),
)
def test_what_is_read_gives_the_crop_and_is_just_enough(num_samples: int, factors: list[float]) -> None:
    read = source_samples(num_samples, factors)
    assert crop_samples(read, factors) == num_samples
    assert num_samples <= read <= 1 + math.ceil(num_samples * max([1.0, *factors]) * 1.001)


def planned(labels: str, num_items: int = 200) -> tuple[Augmenter, torch.Tensor]:
    config = AugmentationConfig(speed_probability=0.6, speed_factors=(1.1, 0.8, 0.9), speed_labels=labels)
    augment = Augmenter(config, seed=1, banks=ClipBanks())
    return augment, white_noise(range(num_items), augment.source_samples(100), CPU)


def test_each_block_has_its_speed_and_the_others_their_first_samples() -> None:
    augment, waveforms = planned("new")
    plan = augment.plan(range(200), range(200), epoch=1, num_samples=110)
    augmented = augment.apply(waveforms, plan)
    blocks = plan.speed.blocks.numpy()
    assert np.all(np.bincount(blocks) > 20)
    for block, factor in enumerate((1.0, 1.1, 0.8, 0.9)):
        rows = np.flatnonzero(blocks == block)
        torch.testing.assert_close(augmented[rows], at_speed(waveforms[rows], factor, 100))
    speakers = torch.arange(200)
    assert torch.equal(plan.targets(speakers, 200).speakers, plan.speed.blocks * 200 + speakers)


def test_the_same_speaker_at_another_speed_has_the_same_class() -> None:
    augment, waveforms = planned("same")
    new, _ = planned("new")
    plan = augment.plan(range(200), range(200), epoch=1, num_samples=110)
    other = new.plan(range(200), range(200), epoch=1, num_samples=110)
    assert plan.speed.blocks is None
    assert torch.equal(augment.apply(waveforms, plan), new.apply(waveforms, other))
    assert torch.equal(plan.targets(torch.arange(200), 200).speakers, torch.arange(200))
