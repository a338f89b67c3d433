"""The two views of a feature map, and the weighted sum of stage outputs."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.models.layout import StageSum, To1d, To2d

small = st.integers(min_value=1, max_value=5)


def test_the_sequence_is_frequency_major():
    maps = torch.zeros(1, 3, 4, 2)  # three channels, four rows
    maps[0, 2, 1] = 7.0
    sequence = To1d()(maps)
    assert sequence.shape == (1, 12, 2)
    assert sequence[0, :, 0].nonzero().tolist() == [[1 * 3 + 2]]  # f * C + c


@settings(deadline=None)
@given(small, small, small, small)
def test_the_views_are_inverse(batch, channels, rows, frames):
    maps = torch.randn(batch, channels, rows, frames)
    assert torch.equal(To2d(channels, rows)(To1d()(maps)), maps)


def test_stage_sum_by_hand():
    stage_sum = StageSum(2, 2)
    with torch.no_grad():
        stage_sum.w[0, :, 0, 0] = torch.log(torch.tensor([1.0, 3.0]))  # weights 1/4 and 3/4 for channel 0
    first, second = torch.tensor([[[4.0], [2.0]]]), torch.tensor([[[8.0], [6.0]]])
    torch.testing.assert_close(stage_sum([first, second]), torch.tensor([[[7.0], [4.0]]]))


def test_stage_sum_of_one_passes_it_on_and_asks_for_no_gradient():
    stage_sum = StageSum(1, 1)
    with torch.no_grad():
        stage_sum.w.fill_(3.0)
    output = torch.randn(2, 4, 5)
    assert torch.equal(stage_sum([output]), output)
    assert not stage_sum.w.requires_grad


def test_a_fresh_stage_sum_is_the_mean():
    outputs = list(torch.randn(3, 2, 4, 5))
    torch.testing.assert_close(StageSum(3, 4)(outputs), torch.stack(outputs).mean(dim=0))
