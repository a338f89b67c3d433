"""Adapters change nothing at first, learn alone, merge into plain weights, and go without a trace."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

from mrl.config import LoraConfig, StageConfig
from mrl.errors import TrainingError
from mrl.models.encoder import evaluating
from mrl.models.temporal import SelfAttention
from mrl.training.lora import adapted_layers, add_adapters, merged_state, remove_adapters
from mrl.training.optimizer import build_optimizer
from mrl.training.stages import enter_stage

CROPS = torch.randn(4, 8_000, generator=torch.Generator().manual_seed(0)) * 0.1
KINDS = ("attention", "linear", "all")


def adapt(parts, stage, seed=3, **options) -> StageConfig:
    config = StageConfig(**{**stage, "lora": {"rank": 2, **options}, "norm_statistics": "batch"})
    enter_stage(*parts, config)
    add_adapters(parts[0].backbone, config.lora, seed)
    return config


def train(parts, stage, steps=3) -> None:
    """A few steps that need no labels; rates large enough to move the outputs."""
    encoder, classifier = parts
    optimizer = build_optimizer(encoder, classifier, stage)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        outputs = encoder(CROPS)
        (outputs * torch.randn(outputs.shape, generator=generator)).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("layers", KINDS)
def test_merged_weights_in_a_plain_encoder_give_the_same_outputs(either, full_stage, layers):
    encoder, _ = either
    plain = copy.deepcopy(encoder).eval()
    stage = adapt(either, full_stage, layers=layers)
    with torch.no_grad(), evaluating(encoder):
        torch.testing.assert_close(encoder(CROPS), plain(CROPS))  # B starts at 0
    train(either, stage)
    encoder.eval()
    before = copy.deepcopy(encoder.state_dict())
    with torch.no_grad():
        untrained = plain(CROPS)
        merged = merged_state(encoder)
        assert list(merged) == list(plain.state_dict())
        plain.load_state_dict(merged, strict=True)
        torch.testing.assert_close(plain(CROPS), encoder(CROPS), atol=1e-5, rtol=1e-4)
        assert (plain(CROPS) - untrained).abs().max() > 1e-2
    after = encoder.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)  # merging changed nothing


def test_only_adapters_learn_and_the_backbone_is_restored(either, full_stage):
    encoder, _ = either
    before = copy.deepcopy(encoder.backbone.state_dict())
    kinds = [type(module) for module in encoder.backbone.modules()]
    stage = adapt(either, full_stage)
    learning = [name for name, p in encoder.backbone.named_parameters() if p.requires_grad]
    assert learning
    assert all(".lora_" in name for name in learning)
    assert all(parameter.requires_grad for parameter in encoder.head.parameters())
    train(either, stage)
    remove_adapters(encoder.backbone)
    after = encoder.backbone.state_dict()
    assert list(after) == list(before)
    # BatchNorm statistics are among them.
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert [type(module) for module in encoder.backbone.modules()] == kinds
    adapt(either, full_stage)  # and it can be adapted again


@pytest.mark.parametrize("layers", KINDS)
def test_every_adapter_gets_a_gradient(either, full_stage, layers):
    """Which an adapter would not where a layer's weights are read and the layer is not called."""
    encoder, _ = either
    adapt(either, full_stage, layers=layers)
    encoder(CROPS).square().sum().backward()
    named = [(n, p) for n, p in encoder.backbone.named_parameters() if ".lora_B." in n]
    assert len(named) == len({name.split(".lora_B.")[0] for name, _ in named}) > 0
    dead = [name for name, p in named if p.grad is None or not p.grad.any()]
    assert dead == []


def test_which_layers_get_adapters(parts):
    backbone = parts[0].backbone
    attention, linear, every = (set(adapted_layers(backbone, kind)) for kind in KINDS)
    modules = dict(backbone.named_modules())
    inner = [name for name, module in modules.items() if isinstance(module, SelfAttention)]
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    assert attention == {f"{name}.{projection}" for name in inner for projection in projections}
    assert attention < linear < every
    assert "pool.linear2" in linear
    assert "pool.linear1" not in every  # read, not called, with global context
    assert "backbone.stem.0" in every - linear  # 3x3
    assert not any(modules[name].groups > 1 for name in every if isinstance(modules[name], nn.Conv1d))
    assert "backbone.stage1.3.conv_block.dwconvs.0" not in every  # depthwise groups of four channels


def test_the_start_depends_on_the_seed_alone(parts, full_stage):
    def start(seed: int) -> dict[str, torch.Tensor]:
        encoder = copy.deepcopy(parts[0])
        torch.manual_seed(seed * 7)
        state = torch.get_rng_state()
        adapt((encoder, parts[1]), full_stage, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return {key: value for key, value in encoder.state_dict().items() if ".lora_A." in key}

    first, again, other = start(1), start(1), start(2)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not any(torch.equal(value, other[key]) for key, value in first.items())


def test_the_state_of_an_adapted_encoder_goes_round(parts, full_stage):
    encoder, classifier = parts
    fresh = copy.deepcopy(encoder)
    stage = adapt(parts, full_stage)
    train(parts, stage)
    adapt((fresh, classifier), full_stage, seed=99)
    fresh.load_state_dict(encoder.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(CROPS), encoder.eval()(CROPS))


def test_dropout_is_on_the_adapters_input(parts, full_stage):
    stage = adapt(parts, full_stage, dropout=0.5)
    train(parts, stage)
    encoder = parts[0]
    torch.manual_seed(0)
    with torch.no_grad():
        assert not torch.equal(encoder.backbone(CROPS), encoder.backbone(CROPS))
        encoder.eval()
        assert torch.equal(encoder.backbone(CROPS), encoder.backbone(CROPS))


def test_the_update_is_scaled_by_alpha_over_rank():
    """W = 1, A = 3, B = 5 and alpha / rank = 6 / 2: 1 + 3 * (3 * 5 + 0)."""
    module = nn.Sequential(nn.Linear(1, 1, bias=False))
    nn.init.ones_(module[0].weight)
    add_adapters(module, LoraConfig(rank=2, alpha=6.0, layers="linear"), seed=0)
    with torch.no_grad():
        module[0].lora_A["default"].weight.copy_(torch.tensor([[3.0], [0.0]]))
        module[0].lora_B["default"].weight.copy_(torch.tensor([[5.0, 7.0]]))
    assert {key: value.item() for key, value in merged_state(module).items()} == {"0.weight": 46.0}
    assert module(torch.ones(1, 1)).item() == 46.0


def test_a_backbone_without_such_layers_is_an_error():
    with pytest.raises(TrainingError, match=r"lora\.layers: attention finds no such layer"):
        add_adapters(nn.Sequential(nn.Linear(2, 2)), LoraConfig(layers="attention"), seed=0)


def test_a_missing_library_is_an_error_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(TrainingError, match="uv sync --extra lora"):
        add_adapters(nn.Sequential(nn.Linear(2, 2)), LoraConfig(layers="linear"), seed=0)
