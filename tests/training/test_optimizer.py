"""Every trainable tensor in exactly one optimizer group, with the rate and the decay that it should have."""

from __future__ import annotations

import pytest
import torch

from mrl.config import StageConfig
from mrl.training.lora import add_adapters
from mrl.training.network_blocks import block_of, distances_to_head
from mrl.training.optimizer import NORMS, build_optimizer, load_optimizer_state, parameter_groups
from mrl.training.stages import enter_stage


def entered(parts, stage, **changes) -> StageConfig:
    config = StageConfig(**{**stage, **changes})
    enter_stage(*parts, config)
    return config


@pytest.mark.parametrize(
    "changes",
    [
        {"train": ["head"], "learning_rate": {"head": 0.1, "classifier": 0.2}},
        {},
        {"depth_decay": 0.8},
        {"lora": {"rank": 2}},
        {"norm_statistics": "batch"},
    ],
    ids=["head", "full", "depth_decay", "lora", "batch"],
)
def test_each_trainable_tensor_is_in_exactly_one_group(either, full_stage, changes):
    encoder, classifier = either
    stage = entered(either, full_stage, **changes)
    if stage.lora is not None:
        add_adapters(encoder.backbone, stage.lora, seed=1)
    groups = parameter_groups(encoder, classifier, stage)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = {id(p) for module in either for p in module.parameters() if p.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trainable
    assert id(classifier.class_vectors) in trainable
    assert {id(p) for p in encoder.head.parameters()} <= trainable
    assert {group["part"] for group in groups} == {*stage.train, "classifier"}


def test_rates_and_decay_of_groups(either, full_stage):
    encoder, classifier = either
    config = entered(either, full_stage)
    norms = {id(p) for m in encoder.modules() if isinstance(m, NORMS) for p in m.parameters()}
    for group in parameter_groups(encoder, classifier, config):
        assert group["lr"] == group["peak_rate"] == full_stage["learning_rate"][group["part"]]
        for parameter in group["params"]:
            may_decay = parameter.ndim > 1 and id(parameter) not in norms
            assert group["weight_decay"] == (0.5 if may_decay and group["part"] != "classifier" else 0.0)


def test_nothing_of_the_classifier_decays(parts, head_stage):
    encoder, classifier = parts
    classifier.to_a_teacher = torch.nn.Linear(3, 4)
    stage = entered((encoder, classifier), head_stage)
    groups = [g for g in parameter_groups(encoder, classifier, stage) if g["part"] == "classifier"]
    assert len(groups) == 1
    assert len(groups[0]["params"]) == 3
    assert groups[0]["weight_decay"] == 0.0


def test_blocks_of_parameters():
    assert block_of("backbone.stem.0.weight") == block_of("backbone.stem_gnorm.weight") == "stem"
    assert block_of("backbone.stage0.2.weight") == "stage0"
    assert block_of("backbone.stage11.5.tcm.4.attention.q_proj.lora_A.default.weight") == "stage11"
    assert block_of("backbone.stage1_up_2d.1.weight") == block_of("backbone.stage1_pre.0.w") == "stage1"
    names = ("backbone.fin_wght1d.w", "backbone.mfa.0.weight", "backbone.head.weight", "pool.linear1.bias")
    assert {block_of(name) for name in names} == {"pooling"}


def test_distances_count_blocks_to_the_head_in_numeric_order():
    blocks = ["stem", "stage2", "stage10", "stage9", "pooling"]
    assert distances_to_head(blocks) == {"pooling": 0, "stage10": 1, "stage9": 2, "stage2": 3, "stem": 4}


def test_the_rate_decays_with_the_distance_to_the_head(either, full_stage):
    encoder, classifier = either
    stage = entered(either, full_stage, depth_decay=0.5)
    names = {id(parameter): name for name, parameter in encoder.backbone.named_parameters()}
    last = max(int(block[5:]) for block in map(block_of, names.values()) if block.startswith("stage"))
    expected = {"pooling": 0.3, "stem": 0.3 * 0.5 ** (last + 2)}
    expected |= {f"stage{index}": 0.3 * 0.5 ** (last + 1 - index) for index in range(last + 1)}
    seen = set()
    for group in parameter_groups(encoder, classifier, stage):
        if group["part"] != "backbone":
            assert group["peak_rate"] == full_stage["learning_rate"][group["part"]]
            continue
        for parameter in group["params"]:
            block = block_of(names[id(parameter)])
            seen.add(block)
            assert group["peak_rate"] == group["lr"] == pytest.approx(expected[block])
    assert seen == set(expected)


def test_adamw_takes_its_first_beta_from_momentum(parts, head_stage):
    stage = entered(parts, head_stage, momentum=0.8)
    optimizer = build_optimizer(*parts, stage)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.999)}


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_steps_by_hand(parts, head_stage, nesterov):
    """Two steps with gradients of 1: d = 1 + wd w, v = m v + d, and the step is v, or d + m v with Nesterov."""
    encoder, _ = parts
    stage = entered(parts, head_stage, optimizer="sgd", momentum=0.5, nesterov=nesterov)
    optimizer = build_optimizer(*parts, stage)
    weight = encoder.head.linear.weight
    expected, velocity = weight.detach().clone(), torch.zeros_like(weight)
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        gradient = 1.0 + 0.5 * expected
        velocity = 0.5 * velocity + gradient
        expected = expected - 0.1 * (gradient + 0.5 * velocity if nesterov else velocity)
        torch.testing.assert_close(weight.detach(), expected)


def after_a_step(parts, stage) -> torch.optim.Optimizer:
    """An optimizer that has moved all tensors but one, which had no gradient."""
    optimizer = build_optimizer(*parts, stage)
    _, *moved = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in moved:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_state_comes_back_and_the_options_stay(parts, head_stage, kind):
    earlier = after_a_step(parts, entered(parts, head_stage, optimizer=kind, momentum=0.5))
    for group in earlier.param_groups:
        group["lr"] = 0.03  # as of its last step: part of what a checkpoint holds
    before = earlier.state_dict()
    optimizer = build_optimizer(*parts, entered(parts, head_stage, optimizer=kind, momentum=0.8))
    options = [{**group, "params": None, "lr": 0.03} for group in optimizer.param_groups]
    load_optimizer_state(optimizer, before)
    assert [{**group, "params": None} for group in optimizer.param_groups] == options
    after = optimizer.state_dict()["state"]
    assert after.keys() == before["state"].keys()
    for index, kept in before["state"].items():
        for name, value in kept.items():
            assert torch.equal(after[index][name], value)
    load_optimizer_state(optimizer, optimizer.state_dict())


@pytest.mark.parametrize(("one", "other"), [("adamw", "sgd"), ("sgd", "adamw")])
def test_the_state_of_another_optimizer_is_refused(parts, head_stage, one, other):
    state = after_a_step(parts, entered(parts, head_stage, optimizer=one, momentum=0.5)).state_dict()
    optimizer = build_optimizer(*parts, entered(parts, head_stage, optimizer=other, momentum=0.5))
    with pytest.raises(ValueError, match=r"the optimizer keeps .* of each tensor, that of the checkpoint"):
        load_optimizer_state(optimizer, state)


def test_momentum_that_comes_later_begins_at_zero(parts, head_stage):
    """A first step that overflowed leaves no uninitialised memory behind."""
    stage = entered(parts, head_stage, optimizer="sgd", momentum=0.0, nesterov=False)
    state = after_a_step(parts, stage).state_dict()
    optimizer = build_optimizer(*parts, entered(parts, head_stage, optimizer="sgd", momentum=0.5))
    load_optimizer_state(optimizer, state)
    tensors = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert all(not optimizer.state[parameter]["momentum_buffer"].any() for parameter in tensors)


def test_moments_of_another_shape_are_refused(parts, head_stage):
    optimizer = after_a_step(parts, entered(parts, head_stage))
    state = optimizer.state_dict()
    index = next(index for index, kept in state["state"].items() if kept["exp_avg"].ndim == 2)
    state["state"][index]["exp_avg"] = state["state"][index]["exp_avg"][:1]
    with pytest.raises(ValueError, match=r"exp_avg is \[1, \d+\] for a tensor of"):
        load_optimizer_state(optimizer, state)
