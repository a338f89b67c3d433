"""The size of the gradient in each block, by hand; dead and exploding blocks are named."""

from __future__ import annotations

import pytest
import torch

from mrl.config import StageConfig
from mrl.loss import PrefixSettings, Targets
from mrl.training.gradient_flow import measure_flow_of
from mrl.training.network_blocks import block_of
from mrl.training.stages import enter_stage

CROPS = torch.randn(4, 8_000, generator=torch.Generator().manual_seed(0)) * 0.1
TARGETS = Targets(torch.tensor([0, 1, 2, 3]))


def backward(encoder, classifier, stage) -> None:
    enter_stage(encoder, classifier, StageConfig(**stage))
    classifier(encoder(CROPS), TARGETS, PrefixSettings((0.1, 0.1), (1.0, 1.0))).total.backward()


def test_each_block_has_its_norm_over_that_of_its_weights(either, full_stage):
    encoder, classifier = either
    backward(encoder, classifier, full_stage)
    flow = measure_flow_of(encoder, classifier)
    stages = sorted({block_of(name) for name, _ in encoder.backbone.named_parameters()})
    assert sorted(flow.metrics) == sorted(f"gradient/{block}" for block in [*stages, "head", "classifier"])
    named = encoder.backbone.named_parameters()
    stage = [parameter for name, parameter in named if name.startswith("backbone.stage1")]
    gradient = sum(p.grad.double().square().sum() for p in stage if p.grad is not None).sqrt()
    weight = sum(p.detach().double().square().sum() for p in stage).sqrt()
    assert flow.metrics["gradient/stage1"] == pytest.approx((gradient / weight).item(), rel=1e-5)
    vectors = classifier.class_vectors
    ratio = vectors.grad.norm() / vectors.detach().norm()
    assert flow.metrics["gradient/classifier"] == pytest.approx(ratio.item(), rel=1e-5)


def test_a_healthy_network_has_no_messages(parts, full_stage):
    backward(*parts, full_stage)
    flow = measure_flow_of(*parts)
    assert flow.messages == []
    assert all(value > 0.0 for value in flow.metrics.values())


@pytest.mark.parametrize("how", ["zero", "none", "rounding"])
def test_a_dead_block_is_named(parts, full_stage, how):
    backward(*parts, full_stage)
    for name, parameter in parts[0].backbone.named_parameters():
        if name.startswith("backbone.stage0"):
            parameter.grad = {
                "zero": torch.zeros_like(parameter),
                "none": None,
                "rounding": 1e-16 * torch.ones_like(parameter),
            }[how]
    flow = measure_flow_of(*parts)
    assert flow.messages == ["no gradient reaches stage0"]
    assert flow.metrics["gradient/stage0"] < 1e-12


def test_an_exploding_block_is_named_with_its_size(parts, full_stage):
    encoder, classifier = parts
    enter_stage(encoder, classifier, StageConfig(**full_stage))
    for module in parts:
        for parameter in module.parameters():
            parameter.grad = parameter.detach().clone()  # relative norm 1
    for parameter in encoder.head.parameters():
        parameter.grad *= 99.0
    assert measure_flow_of(encoder, classifier).messages == []
    for parameter in encoder.head.parameters():
        parameter.grad *= 2.0
    assert measure_flow_of(encoder, classifier).messages == [
        "the gradient, relative to the weights, is far above the median block's in head (198 times)"
    ]


def test_a_gradient_that_is_not_finite_is_named(parts, full_stage):
    encoder, classifier = parts
    backward(encoder, classifier, full_stage)
    encoder.head.linear.weight.grad[0, 0] = float("nan")
    classifier.class_vectors.grad[0, 0] = float("inf")
    assert measure_flow_of(encoder, classifier).messages == ["the gradient is not finite in head, classifier"]


def test_frozen_parts_are_not_measured(parts, head_stage):
    backward(*parts, head_stage)
    flow = measure_flow_of(*parts)
    assert set(flow.metrics) == {"gradient/head", "gradient/classifier"}
    assert flow.messages == []
