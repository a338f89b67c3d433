from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mrl.models.released import ReleasedModel
from mrl.models.spec_augment import SpecAugment

SHAPE = (400, 20, 50)


def masked(seed: int = 0, **changes: float) -> Tensor:
    """Where a mask lies, bool ``[B, F, frames]``."""
    settings = {"probability": 1.0, "time_masks": 1, "max_time_frames": 8, "band_masks": 1, "max_bands": 5}
    mask = SpecAugment()
    mask.configure(**(settings | changes))
    torch.manual_seed(seed)
    return mask(torch.ones(SHAPE)) == 0.0


def widths(lines: Tensor) -> Tensor:
    """How many places of each row are masked, having checked that they are one stretch: ``[B]``."""
    edges = torch.diff(lines.int(), dim=1, prepend=torch.zeros(len(lines), 1, dtype=torch.int))
    assert ((edges == 1).sum(dim=1) <= 1).all()
    return lines.sum(dim=1)


def test_one_time_mask_covers_all_bands_of_a_stretch_of_frames() -> None:
    cells = masked(band_masks=0)
    assert torch.equal(cells, cells[:, :1].expand(SHAPE))
    assert widths(cells[:, 0]).unique().tolist() == list(range(9))  # 0 to 8 frames
    assert cells[:, 0].any(dim=0).all()  # anywhere, the ends included


def test_one_band_mask_covers_all_frames_of_a_stretch_of_bands() -> None:
    cells = masked(time_masks=0)
    assert torch.equal(cells, cells[:, :, :1].expand(SHAPE))
    assert widths(cells[:, :, 0]).unique().tolist() == list(range(6))
    assert cells[:, :, 0].any(dim=0).all()


def test_several_masks_of_both_kinds() -> None:
    cells = masked(time_masks=3, band_masks=2)
    over_frames, over_bands = cells.all(dim=1), cells.all(dim=2)
    assert torch.equal(cells, over_frames[:, None, :] | over_bands[:, :, None])
    assert 8 < over_frames.sum(dim=1).max() <= 24
    assert 5 < over_bands.sum(dim=1).max() <= 10


def test_masks_wider_than_the_image_may_cover_it_and_no_more() -> None:
    cells = masked(max_time_frames=1000, band_masks=0)
    assert widths(cells[:, 0]).max() == 50


def test_a_probability_is_the_share_of_items() -> None:
    items = masked(probability=0.25, time_masks=4).any(dim=(1, 2)).sum()
    assert 66 <= items <= 134  # of 100; four standard deviations


def test_the_default_generator_draws() -> None:
    assert torch.equal(masked(seed=3), masked(seed=3))
    assert not torch.equal(masked(seed=3), masked(seed=4))


def test_it_is_off_until_configured_and_in_eval_mode_and_draws_nothing_then() -> None:
    mask, mel = SpecAugment(), torch.ones(SHAPE)
    state = torch.get_rng_state()
    assert mask(mel) is mel
    mask.configure(1.0, 1, 8, 1, 5)
    assert mask.eval()(mel) is mel
    mask.train().off()
    assert mask(mel) is mel
    mask.configure(0.0, 1, 8, 1, 5)
    assert mask(mel) is mel
    assert torch.equal(torch.get_rng_state(), state)


def test_a_trunk_masks_what_it_pools_and_nothing_else(released: ReleasedModel) -> None:
    waveforms = torch.randn(4, 8000)
    trunk = released.trunk().eval()
    plain, features = trunk.pooled(waveforms), trunk.frame_features(trunk.mel(waveforms))
    trunk.mask.configure(1.0, 2, trunk.frames_in(0.1), 2, 8)
    assert torch.equal(trunk.pooled(waveforms), plain)  # eval mode
    trunk.mask.train()  # and the backbone stays in eval mode
    changed = trunk.pooled(waveforms)
    assert (changed != plain).any(dim=1).all()
    assert torch.equal(trunk.frame_features(trunk.mel(waveforms)), features)
    assert torch.equal(released.pooled(waveforms), plain)  # has a mask of its own


def test_a_mask_is_no_part_of_the_weights(released: ReleasedModel) -> None:
    assert not [name for name in released.state_dict() if "mask" in name]
    assert not list(released.mask.parameters())


@pytest.mark.parametrize(("seconds", "frames"), [(0.1, 10), (0.001, 1), (3.0, 300)])
def test_seconds_are_counted_in_frames(released: ReleasedModel, seconds: float, frames: int) -> None:
    assert released.frames_in(seconds) == frames  # 160 samples each
