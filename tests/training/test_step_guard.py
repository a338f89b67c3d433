"""What an update that does not happen leaves as it was, decided without the host, and how many may be left out."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mrl.training.step_guard import SkipCounts, StepGuard

NAN, INF = float("nan"), float("inf")
CPU = torch.device("cpu")


class Trained:
    """A linear layer behind a BatchNorm, one step of which is ``step``."""

    def __init__(self, limit: int, scaler: torch.amp.GradScaler | None = None) -> None:
        torch.manual_seed(0)
        self.norm, self.linear = nn.BatchNorm1d(3), nn.Linear(3, 1)
        self.parameters = [*self.norm.parameters(), *self.linear.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.1, fused=True)
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.guard = StepGuard(self.optimizer, self.scaler, [self.norm], limit, CPU)

    def step(self, factor: float = 1.0, epoch: int = 0) -> bool:
        self.optimizer.zero_grad(set_to_none=True)
        self.guard.begin(epoch)
        loss = self.linear(self.norm(torch.randn(4, 3))).square().mean() * factor * self.guard.sound
        self.scaler.scale(loss).backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.guard.taint(gradients, loss.detach())
        self.scaler.unscale_(self.optimizer)
        self.guard.step(loss.detach(), nn.utils.get_total_norm(gradients))
        return bool(self.guard.applied)

    def numbers(self) -> list[torch.Tensor]:
        tensors = [*self.norm.state_dict().values(), *self.linear.state_dict().values()]
        for values in self.optimizer.state.values():
            tensors += values.values()
        return copy.deepcopy(tensors)


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("factor", [NAN, INF])
def test_weights_moments_and_statistics_stay_bit_for_bit(factor):
    trained = Trained(limit=3)
    assert trained.step()
    before = trained.numbers()
    assert not trained.step(factor)
    assert equal(trained.numbers(), before)
    assert trained.step()
    assert not equal(trained.numbers(), before)


def test_a_limit_of_0_stops_all_later_updates():
    trained = Trained(limit=0)
    assert trained.step()
    before = trained.numbers()
    assert not trained.step(NAN)
    assert not trained.step()
    assert equal(trained.numbers(), before)


def test_beyond_the_limit_in_a_row_nothing_moves_any_more():
    trained = Trained(limit=2)
    assert [trained.step(factor) for factor in (NAN, NAN, 1.0)] == [False, False, True]
    assert [trained.step(factor, epoch=1) for factor in (NAN, 1.0, NAN)] == [False, True, False]
    assert [trained.step(factor, epoch=2) for factor in (1.0, NAN)] == [True, False]
    assert not trained.step(NAN, epoch=3)
    assert trained.guard.sound.item() == 1.0
    before = trained.numbers()
    assert not trained.step(NAN, epoch=4)  # the third in a row, whatever the epoch
    assert not trained.step(epoch=4)
    assert equal(trained.numbers(), before)


def test_beyond_the_limit_in_one_epoch_nothing_moves_any_more():
    trained = Trained(limit=2)
    assert [trained.step(factor) for factor in (NAN, 1.0, NAN, 1.0)] == [False, True, False, True]
    before = trained.numbers()
    assert not trained.step(NAN)
    assert not trained.step()
    assert equal(trained.numbers(), before)


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(
        st.tuples(st.sampled_from(["good", "good", "faulty"]), st.sampled_from([0, 0, 0, 1])), max_size=25
    ),
    limit=st.integers(0, 4),
    cut=st.integers(0, 25),
)
def test_device_and_host_stop_at_the_same_update_and_after_a_restart_too(events, limit, cut):
    """The device's verdict beside the host's, and beside that of both after they were saved and loaded."""
    trained, counts, epoch = Trained(limit), SkipCounts(), 0
    for number, (event, advance) in enumerate(events):
        if number == cut:
            counts = SkipCounts(**counts.state_dict())
            trained = Trained(limit)
            trained.guard.load(counts)
        epoch += advance
        trained.step(NAN if event == "faulty" else 1.0, epoch)
        counts.note(epoch, is_faulty=event == "faulty", is_overflow=False)
        assert bool(trained.guard.sound.isnan()) is counts.exceed(limit)
        if counts.exceed(limit):
            break


def test_counts_by_hand():
    counts = SkipCounts()
    for epoch, faulty, overflow in ((0, True, False), (0, False, True), (0, True, False), (1, True, False)):
        counts.note(epoch, is_faulty=faulty, is_overflow=overflow)
    assert (counts.in_a_row, counts.in_epoch, counts.overflows) == (3, 1, 1)
    counts.note(1, is_faulty=False, is_overflow=False)
    assert (counts.in_a_row, counts.in_epoch, counts.overflows) == (0, 1, 0)
    assert counts.exceed(0)
    assert not counts.exceed(1)


def test_an_overflow_is_left_out_lowers_the_scale_and_does_not_count():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    trained = Trained(limit=0, scaler=scaler)
    before = trained.numbers()
    assert not trained.step(1e4)  # 2^120 times its gradient is beyond float32
    assert equal(trained.numbers()[:7], before[:7])
    assert scaler.get_scale() == 2.0**119
    assert trained.guard.sound.item() == 1.0
    while not trained.step(1e4):
        assert scaler.get_scale() > 1.0
    assert not equal(trained.numbers()[:7], before[:7])


def test_a_loss_that_is_not_finite_is_left_out_with_a_scaler_too_although_its_gradient_is_finite():
    trained = Trained(limit=1, scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    assert trained.step()
    before = trained.numbers()
    trained.optimizer.zero_grad()
    trained.guard.begin(0)
    trained.scaler.scale(trained.linear(trained.norm(torch.randn(4, 3))).mean()).backward()
    gradients = [p.grad for p in trained.parameters]
    assert all(gradient.isfinite().all() for gradient in gradients)
    trained.guard.taint(gradients, torch.tensor(INF))
    trained.scaler.unscale_(trained.optimizer)
    trained.guard.step(torch.tensor(INF), nn.utils.get_total_norm(gradients))
    assert equal(trained.numbers(), before)
