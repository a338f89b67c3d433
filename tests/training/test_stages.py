"""Schedules by hand; frozen means frozen; every trainable tensor in exactly one optimizer group."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from mrl.config import StageConfig
from mrl.loss import SlicedMarginClassifier
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.training.stages import (
    StagePlan,
    enter_stage,
    margin_at,
    parameter_groups,
    plan_stages,
    rate_factor_at,
)

HEAD = {
    "name": "head", "train": ["head"], "epochs": 10, "batch_size": 4,
    "learning_rate": {"head": 0.1, "classifier": 0.2}, "weight_decay": 0.5,
}  # fmt: skip
FULL = {
    **HEAD,
    "name": "full",
    "train": ["backbone", "head"],
    "learning_rate": {"backbone": 0.3, "head": 0.1, "classifier": 0.2},
}


def plan(**changes) -> StagePlan:
    return StagePlan(StageConfig(**{**HEAD, **changes}), index=0, steps_per_epoch=10, peak_margin=0.3)


@pytest.fixture
def parts(released):
    encoder = SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 32), [8, 32])
    return encoder, SlicedMarginClassifier(5, {8: 1.0, 32: 1.0})


def test_warm_up_then_cosine_to_the_final_share():
    stage = plan(warmup_epochs=2, final_rate_share=0.1)
    assert rate_factor_at(0, stage) == pytest.approx(1 / 20)
    assert rate_factor_at(19, stage) == pytest.approx(1.0)
    assert rate_factor_at(20, stage) == pytest.approx(1.0)
    # 100 steps; the cosine runs from step 20 to step 99: half way at 59.5, at the floor at the last step.
    assert (rate_factor_at(59, stage) + rate_factor_at(60, stage)) / 2 == pytest.approx(0.55)
    assert rate_factor_at(99, stage) == pytest.approx(0.1)
    factors = [rate_factor_at(step, stage) for step in range(20, 100)]
    assert factors == sorted(factors, reverse=True)


def test_constant_schedule_and_no_warm_up():
    stage = plan(schedule="constant")
    assert [rate_factor_at(step, stage) for step in (0, 50, 99)] == [1.0, 1.0, 1.0]
    assert rate_factor_at(0, StagePlan(StageConfig(**{**HEAD, "epochs": 1}), 0, 1, 0.2)) == 1.0


def test_margin_rises_from_zero():
    stage = plan(margin_warmup_epochs=3)
    assert margin_at(0, stage) == 0.0
    assert margin_at(15, stage) == pytest.approx(0.15)
    assert margin_at(30, stage) == margin_at(99, stage) == 0.3
    assert margin_at(0, plan()) == 0.3


def test_plans_count_full_batches_and_pick_margins():
    stages = (StageConfig(**HEAD), StageConfig(**{**FULL, "margin": 0.4, "batch_size": 100}))
    first, second = plan_stages(stages, num_utterances=42, default_margin=0.2)
    assert (first.steps_per_epoch, first.total_steps, first.peak_margin) == (10, 100, 0.2)
    assert (second.steps_per_epoch, second.peak_margin) == (1, 0.4)


@pytest.mark.parametrize("stage", [HEAD, FULL])
@pytest.mark.parametrize("norms", ["frozen", "batch"])
def test_each_trainable_tensor_is_in_exactly_one_group(parts, stage, norms):
    encoder, classifier = parts
    config = StageConfig(**{**stage, "norm_statistics": norms})
    enter_stage(encoder, classifier, config)
    groups = parameter_groups(encoder, classifier, config)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = {id(p) for module in parts for p in module.parameters() if p.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trainable
    assert id(classifier.class_vectors) in trainable
    assert {id(p) for p in encoder.head.parameters()} <= trainable
    backbone = {id(p) for p in encoder.backbone.parameters()}
    assert backbone <= trainable if "backbone" in config.train else not backbone & trainable


def test_rates_and_decay_of_groups(parts):
    encoder, classifier = parts
    config = StageConfig(**FULL)
    enter_stage(encoder, classifier, config)
    for group in parameter_groups(encoder, classifier, config):
        assert group["lr"] == group["peak_rate"] == FULL["learning_rate"][group["part"]]
        for parameter in group["params"]:
            assert group["weight_decay"] == (
                0.5 if parameter.ndim > 1 and group["part"] != "classifier" else 0.0
            )


def test_statistics_of_frozen_and_kept_norms_do_not_move(parts):
    encoder, classifier = parts
    crops = torch.randn(4, 16_000)

    def moved(**changes) -> tuple[bool, bool]:
        """Whether BatchNorm statistics of the backbone and of the head move in a training forward."""
        enter_stage(encoder, classifier, StageConfig(**changes))
        before = {key: value.clone() for key, value in encoder.state_dict().items() if "running" in key}
        encoder(crops)
        changed = {key for key, value in before.items() if not torch.equal(value, encoder.state_dict()[key])}
        return any(key.startswith("backbone") for key in changed), any(
            key.startswith("head") for key in changed
        )

    assert moved(**HEAD) == (False, False)
    assert moved(**{**HEAD, "norm_statistics": "batch"}) == (False, True)
    assert moved(**FULL) == (False, False)
    assert moved(**{**FULL, "norm_statistics": "batch"}) == (True, True)


def test_a_frozen_backbone_keeps_no_graph(parts):
    encoder, classifier = parts
    enter_stage(encoder, classifier, StageConfig(**HEAD))
    assert not encoder.backbone(torch.randn(2, 16_000)).requires_grad
    assert encoder(torch.randn(2, 16_000)).requires_grad


def test_stages_are_validated():
    with pytest.raises(ValidationError, match="lacks a rate for backbone"):
        StageConfig(**{**FULL, "learning_rate": {"head": 1.0, "classifier": 1.0}})
