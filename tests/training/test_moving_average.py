"""Averages by hand; live weights come back bit for bit; BatchNorm statistics are those of the batches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mrl.config import StageConfig
from mrl.models.encoder import evaluating
from mrl.training.averaging import mean_of_states
from mrl.training.moving_average import MovingAverage, recalibrate_batch_norm
from mrl.training.stages import enter_stage


def one_weight(value: float) -> nn.Linear:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def set_to(module: nn.Linear, value: float) -> None:
    with torch.no_grad():
        module.weight.fill_(value)


def averages(average: MovingAverage) -> list[float]:
    return [tensor.item() for tensor in average.state_dict()["averages"].values()]


def test_the_average_by_hand():
    module = one_weight(1.0)
    average = MovingAverage([module], decay=0.15)
    set_to(module, 2.0)
    average.update()  # decay 1/10: 0.1 * 1 + 0.9 * 2
    assert averages(average) == pytest.approx([1.9])
    set_to(module, 5.0)
    average.update()  # 2/11 is more than 0.15: 0.15 * 1.9 + 0.85 * 5
    assert averages(average) == pytest.approx([4.535])


def test_early_updates_keep_less_than_the_decay():
    module = one_weight(0.0)
    average = MovingAverage([module], decay=0.999)
    expected = 0.0
    for n in range(20):
        set_to(module, float(n))
        average.update()
        decay = (1 + n) / (10 + n)
        expected = decay * expected + (1 - decay) * n
    assert averages(average) == pytest.approx([expected])


def test_live_weights_come_back_bit_for_bit(parts, full_stage):
    encoder, classifier = parts
    enter_stage(encoder, classifier, StageConfig(**full_stage | {"norm_statistics": "batch"}))
    average = MovingAverage([encoder, classifier], decay=0.9)
    start = copy.deepcopy(encoder.state_dict())
    with torch.no_grad():
        for parameter in [*encoder.parameters(), *classifier.parameters()]:
            parameter.add_(torch.randn_like(parameter))
    encoder(torch.randn(4, 8_000))  # moves BatchNorm statistics
    average.update()
    live = copy.deepcopy([encoder.state_dict(), classifier.state_dict()])
    with average.swapped_in():
        swapped = encoder.state_dict()
        for key in ("head.linear.weight", "head.bn.running_mean", "backbone.backbone.stem.0.weight"):
            torch.testing.assert_close(swapped[key], 0.1 * start[key] + 0.9 * live[0][key])
    for before, module in zip(live, parts, strict=True):
        assert all(torch.equal(value, module.state_dict()[key]) for key, value in before.items())


def test_live_weights_come_back_after_an_error():
    module = one_weight(1.0)
    average = MovingAverage([module], 0.9)
    set_to(module, 2.0)

    def fail_with_averages() -> None:
        with average.swapped_in():
            assert module.weight.item() == 1.0
            raise KeyError

    with pytest.raises(KeyError):
        fail_with_averages()
    assert module.weight.item() == 2.0


def test_what_is_frozen_is_not_averaged(parts, head_stage, full_stage):
    encoder, classifier = parts

    def names(stage, **changes) -> set[str]:
        enter_stage(encoder, classifier, StageConfig(**{**stage, **changes}))
        return set(MovingAverage([encoder, classifier], 0.9).state_dict()["averages"])

    head = {f"0.head.{name}" for name in ("bn.weight", "bn.bias", "linear.weight", "linear.bias")}
    assert names(head_stage) == {*head, "1.class_vectors"}
    statistics = {"0.head.bn.running_mean", "0.head.bn.running_var"}
    assert names(head_stage, norm_statistics="batch") == {*head, *statistics, "1.class_vectors"}
    assert not any("running" in name for name in names(full_stage))


def test_a_restored_average_goes_on_as_if_nothing_had_happened():
    modules = [one_weight(1.0) for _ in range(2)]
    straight, resumed = (MovingAverage([module], 0.999) for module in modules)
    for value in (3.0, 5.0):
        set_to(modules[0], value)
        straight.update()
    state = straight.state_dict()
    resumed.load_state_dict(copy.deepcopy(state))
    for module, average in zip(modules, (straight, resumed), strict=True):
        set_to(module, 11.0)
        average.update()
    assert averages(straight) == averages(resumed)
    assert state["updates"] == 2  # a copy, not a view
    assert state["averages"]["0.weight"].item() != averages(straight)[0]


def test_the_state_of_other_weights_is_refused():
    state = MovingAverage([nn.Linear(2, 1)], 0.9).state_dict()
    with pytest.raises(ValueError, match="other weights"):
        MovingAverage([one_weight(1.0)], 0.9).load_state_dict(state)


def test_the_mean_of_states_by_hand():
    states = [
        {"weight": torch.tensor([1.0, 1e8]), "half": torch.tensor([1.0]).bfloat16(), "count": torch.tensor(3)},
        {"weight": torch.tensor([2.0, 1.0]), "half": torch.tensor([2.0]).bfloat16(), "count": torch.tensor(5)},
        {"weight": torch.tensor([6.0, -1e8]), "half": torch.tensor([3.0]).bfloat16(), "count": torch.tensor(4)},
    ]  # fmt: skip
    mean = mean_of_states(states)
    assert mean["weight"].tolist() == pytest.approx([3.0, 1 / 3])  # in float32 the last would be 0
    assert (mean["weight"].dtype, mean["half"].dtype) == (torch.float32, torch.bfloat16)
    assert mean["half"].item() == 2.0
    assert mean["count"].item() == 4
    assert states[2]["count"] is not mean["count"]


def test_recalibrated_statistics_are_the_mean_over_the_batches(parts, head_stage):
    encoder, classifier = parts
    stage = StageConfig(**head_stage | {"norm_statistics": "batch"})
    enter_stage(encoder, classifier, stage)
    backbone = copy.deepcopy(encoder.backbone.state_dict())
    encoder(torch.randn(4, 8_000))  # leaves statistics that must not count
    encoder.head.dropout.p = 0.5
    batches = [torch.randn(rows, 8_000) * 0.1 for rows in (4, 4, 4)]
    with torch.no_grad(), evaluating(encoder):
        pooled = [encoder.backbone(batch) for batch in batches]
    recalibrate_batch_norm(encoder, encoder, iter(batches), stage)
    norm = encoder.head.bn
    torch.testing.assert_close(norm.running_mean, torch.stack([p.mean(0) for p in pooled]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([p.var(0) for p in pooled]).mean(0))
    assert norm.num_batches_tracked == 3
    assert norm.momentum == 0.1
    assert norm.training
    assert encoder.head.dropout.training
    assert all(torch.equal(value, encoder.backbone.state_dict()[key]) for key, value in backbone.items())


def test_norms_of_a_trained_backbone_are_recalibrated_and_modes_kept(parts, full_stage):
    encoder, classifier = parts
    stage = StageConfig(**full_stage | {"norm_statistics": "batch"})
    enter_stage(encoder, classifier, stage)
    encoder.eval()
    batch = torch.randn(4, 8_000) * 0.1
    recalibrate_batch_norm(encoder, encoder, [batch], stage)
    assert not any(module.training for module in encoder.modules())
    # The variance of a batch is biased where it normalises and unbiased where it is kept; close with many numbers.
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    seen = []
    for norm in norms:
        norm.register_forward_hook(lambda norm, inputs, output: seen.append((norm, output)))
    with torch.no_grad():
        encoder(batch)
    for norm, output in seen:
        normed = (output - norm.bias[:, None, None]) / norm.weight[:, None, None]
        torch.testing.assert_close(normed.mean((0, 2, 3)), torch.zeros(len(norm.weight)), atol=1e-3, rtol=0)


def test_frozen_statistics_are_left_alone(parts, full_stage):
    encoder, classifier = parts
    stage = StageConfig(**full_stage)
    enter_stage(encoder, classifier, stage)
    before = copy.deepcopy(encoder.state_dict())
    recalibrate_batch_norm(encoder, encoder, iter([]), stage)
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in before.items())


def test_an_update_that_did_not_happen_does_not_count():
    modules = [one_weight(1.0) for _ in range(2)]
    with_gaps, without = (MovingAverage([module], 0.999) for module in modules)
    for value, applied in ((3.0, True), (3.0, False), (5.0, True), (5.0, False)):
        for module in modules:
            set_to(module, value)
        with_gaps.update(torch.tensor(applied))
        if applied:
            without.update()
        assert averages(with_gaps) == averages(without)
    assert with_gaps.state_dict()["updates"] == 2
