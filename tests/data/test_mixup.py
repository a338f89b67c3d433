from __future__ import annotations

import numpy as np
import torch

from mrl.config import AugmentationConfig
from mrl.data.augment import AugmentationPlan, Augmenter
from mrl.data.clips import ClipBanks
from mrl.data.mixup import MixupPlan


def augmenter(**keys: float) -> Augmenter:
    return Augmenter(AugmentationConfig(mixup_probability=1.0, **keys), seed=1, banks=ClipBanks())


def test_items_are_mixed_by_their_shares_as_they_were_before_any_mixing() -> None:
    waveforms = torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    plan = AugmentationPlan(
        mixup=MixupPlan(torch.tensor([1, 2, 2]), torch.tensor([0.75, 0.5, 1.0])),
    )
    mixed = augmenter().apply(waveforms, plan)
    assert mixed.tolist() == [[3.25, 6.5], [55.0, 110.0], [100.0, 200.0]]


def test_partners_are_all_the_others_evenly() -> None:
    plans = [augmenter().plan(range(5), range(5), epoch=e, num_samples=4).mixup for e in range(400)]
    partners = np.stack([plan.partners.numpy() for plan in plans])
    for row in range(5):
        counts = np.bincount(partners[:, row], minlength=5)
        assert counts[row] == 0
        assert np.delete(counts, row).min() > 65  # of 100; four standard deviations


def test_shares_are_those_of_a_beta_distribution() -> None:
    for alpha in (0.5, 4.0):
        plan = augmenter(mixup_alpha=alpha).plan(range(3000), range(3000), epoch=1, num_samples=4).mixup
        assert abs(plan.shares.mean() - 0.5) < 0.03
        variance = 1 / (4 * (2 * alpha + 1))
        assert abs(plan.shares.var() / variance - 1) < 0.1


def test_an_item_keeps_its_share_in_another_batch() -> None:
    one = augmenter().plan([3, 5, 8], [0, 1, 2], epoch=1, num_samples=4).mixup
    other = augmenter().plan([8, 9, 3, 10], [0, 1, 2, 3], epoch=1, num_samples=4).mixup
    assert one.shares[0] == other.shares[2]
    assert one.shares[2] == other.shares[0]


def test_a_batch_of_one_is_left_alone() -> None:
    assert augmenter().plan([3], [0], epoch=1, num_samples=4).mixup is None
