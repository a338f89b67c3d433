"""Schedules by hand, and against PyTorch's schedulers where it has one."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler

from mrl.config import Config, StageConfig
from mrl.errors import TrainingError
from mrl.loss import PrefixSettings
from mrl.training.schedules import (
    StagePlan,
    plan_stages,
    plateau_reductions,
    rate_factor_at,
    settings_at,
)
from tests.data.corpora import counted


@pytest.fixture
def plan(head_stage):
    """Ten epochs of ten steps, with prefixes 8 and 32."""

    def make(**changes) -> StagePlan:
        stage = StageConfig(**{**head_stage, **changes})
        return StagePlan(stage, 0, 10, (8, 32), PrefixSettings((0.2, 0.3), (1.0, 0.5)))

    return make


def rates_of(scheduler_of, steps: int) -> list[float]:
    """Rates of a PyTorch scheduler over an optimizer whose rate is 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = scheduler_of(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def factors_of(plan: StagePlan) -> list[float]:
    return [rate_factor_at(step, plan) for step in range(plan.total_steps)]


def test_warm_up_then_cosine_to_the_final_share(plan):
    stage = plan(warmup_epochs=2, final_rate_share=0.1)
    assert rate_factor_at(0, stage) == pytest.approx(1 / 20)
    assert rate_factor_at(19, stage) == pytest.approx(1.0)
    assert rate_factor_at(20, stage) == pytest.approx(1.0)
    # 100 steps; the cosine runs from step 20 to step 99: half way at 59.5, at the floor at the last step.
    assert (rate_factor_at(59, stage) + rate_factor_at(60, stage)) / 2 == pytest.approx(0.55)
    assert rate_factor_at(99, stage) == pytest.approx(0.1)
    assert rate_factor_at(500, stage) == pytest.approx(0.1)


def test_a_warm_up_in_steps_is_that_in_epochs(plan):
    assert factors_of(plan(warmup_steps=20)) == factors_of(plan(warmup_epochs=2))


def test_cosine_is_that_of_pytorch(plan):
    expected = rates_of(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=99, eta_min=0.01), 100)
    assert factors_of(plan()) == pytest.approx(expected)


def test_each_cycle_falls_from_the_peak_to_the_final_share(plan):
    factors = factors_of(plan(schedule="cosine_restarts", restart_epochs=2.5, warmup_epochs=1))
    one = rates_of(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=24, eta_min=0.01), 25)
    assert factors[10:] == pytest.approx([*one, *one, *one, *one[:15]])
    assert factors[10] == factors[35] == 1.0
    assert factors[34] == pytest.approx(0.01)


def test_one_cycle_as_long_as_the_stage_is_the_cosine(plan):
    assert factors_of(plan(schedule="cosine_restarts", restart_epochs=10)) == factors_of(plan())


def test_exponential_is_that_of_pytorch(plan):
    expected = rates_of(lambda o: lr_scheduler.ExponentialLR(o, gamma=0.001 ** (1 / 99)), 100)
    factors = factors_of(plan(schedule="exponential", final_rate_share=0.001))
    assert factors == pytest.approx(expected)
    assert factors[-1] == pytest.approx(0.001)


def test_one_cycle_is_that_of_pytorch(plan):
    expected = rates_of(
        lambda o: lr_scheduler.OneCycleLR(
            o, max_lr=1.0, total_steps=100, pct_start=0.3, div_factor=25, final_div_factor=4
        ),
        99,
    )
    factors = factors_of(plan(schedule="one_cycle", warmup_epochs=3, final_rate_share=0.01))
    assert factors[:99] == pytest.approx(expected)
    assert factors[0] == pytest.approx(0.04)
    assert factors[29] == 1.0
    assert factors[99] == pytest.approx(0.01)


@pytest.mark.parametrize("warmup", [None, 1])
def test_one_cycle_without_a_rise_starts_at_the_peak(plan, warmup):
    factors = factors_of(plan(schedule="one_cycle", warmup_steps=warmup))
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(0.01)


def test_plateau_multiplies_and_keeps_to_its_floor(plan):
    stage = plan(schedule="plateau", plateau_factor=0.5, final_rate_share=0.2, warmup_epochs=1)
    assert [rate_factor_at(50, stage, n) for n in range(4)] == [1.0, 0.5, 0.25, 0.2]
    assert rate_factor_at(4, stage, 3) == 0.5  # the warm-up


def test_constant_schedule_and_no_warm_up(plan):
    assert set(factors_of(plan(schedule="constant"))) == {1.0}
    assert rate_factor_at(0, StagePlan(plan(epochs=1).stage, 0, 1, (8, 32), plan().peak)) == 1.0


def test_plateau_reductions_by_hand():
    assert plateau_reductions([], 2) == 0
    assert plateau_reductions([0.05, 0.04, 0.04], 2) == 0
    assert plateau_reductions([0.05, 0.04, 0.04, 0.045], 2) == 1
    assert plateau_reductions([0.05, 0.04, 0.04, 0.045, 0.041], 2) == 1  # counts from 0 again
    assert plateau_reductions([0.05, 0.04, 0.04, 0.045, 0.041, 0.05], 2) == 2
    assert plateau_reductions([0.05, 0.06, 0.04, 0.05], 2) == 0
    assert plateau_reductions([0.05, math.nan, 0.05], 2) == 1


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_plateau_reductions_are_those_of_pytorch(patience):
    eers = torch.randint(1, 6, (40,), generator=torch.Generator().manual_seed(patience)).div(100).tolist()
    eers = [eer - 0.0004 * index for index, eer in enumerate(eers)]  # so that new minima keep coming
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience - 1, threshold=0.0, cooldown=0, eps=0.0
    )
    for count, eer in enumerate(eers, start=1):
        scheduler.step(eer)
        assert optimizer.param_groups[0]["lr"] == 0.5 ** plateau_reductions(eers[:count], patience)


def test_margins_rise_from_zero(plan):
    stage = plan(margin_warmup_epochs=3)
    assert settings_at(0, stage).margins == (0.0, 0.0)
    assert settings_at(15, stage).margins == pytest.approx((0.1, 0.15))
    assert settings_at(30, stage).margins == settings_at(99, stage).margins == (0.2, 0.3)
    assert settings_at(0, plan()).margins == (0.2, 0.3)


def test_the_exponential_rise_of_margins_is_fast_at_first(plan):
    stage = plan(margin_warmup_epochs=3, margin_rise="exponential")
    assert settings_at(0, stage).margins == (0.0, 0.0)
    assert settings_at(10, stage).margins == pytest.approx((0.2 * 0.9, 0.3 * 0.9))  # 0.001 ** (1 / 3) is 0.1
    assert settings_at(20, stage).margins == pytest.approx((0.2 * 0.99, 0.3 * 0.99))
    assert settings_at(30, stage).margins == (0.2, 0.3)


def test_a_prefix_joins_the_loss_at_its_epoch(plan):
    stage = plan(prefix_start={32: 3})
    assert [settings_at(step, stage).weights for step in (0, 19, 20, 99)] == [
        (1.0, 0.0), (1.0, 0.0), (1.0, 0.5), (1.0, 0.5),
    ]  # fmt: skip
    assert settings_at(0, plan(prefix_start={32: 1})).weights == (1.0, 0.5)


def config_of(*stages: dict) -> Config:
    return Config(
        model={"pretrained": "released.pt"},
        prefixes=[{"dim": 8, "weight": 1.0}, {"dim": 32, "weight": 2.0, "margin": 0.1}],
        loss={"margin": 0.2},
        data={"train": "speech"},
        validation={"lists": [{"name": "made", "root": "speech"}]},
        stages=stages,
    )


def test_plans_count_full_batches_and_pick_margins(head_stage, full_stage):
    config = config_of(head_stage, full_stage | {"margin": 0.4, "batch_size": 100})
    first, second = plan_stages(config, counted([21, 21]))
    assert (first.steps_per_epoch, first.total_steps) == (10, 100)
    assert first.peak == PrefixSettings((0.2, 0.1), (1.0, 2.0))
    assert (second.index, second.steps_per_epoch, second.peak.margins) == (1, 1, (0.4, 0.1))


def test_a_warm_up_longer_than_the_stage_is_refused(head_stage):
    with pytest.raises(TrainingError, match=r"stages\.head: warmup_steps 101 is more than its 100 updates"):
        plan_stages(config_of(head_stage | {"warmup_steps": 101}), counted([21, 21]))
