"""Live and exported weights: what is scored fits a plain encoder, and training goes on untouched."""

from __future__ import annotations

import copy

import pytest
import torch

from mrl.config import Config, StageConfig
from mrl.training.criterion import Criterion
from mrl.training.live_weights import LiveWeights, class_blocks, load_weights, weights_of

WAVEFORMS = torch.randn(2, 6_000, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.fixture
def live(parts, full_stage):
    """``live(**changes)``: the modules in a stage with these changes."""
    encoder, classifier = parts
    criterion = Criterion(classifier)

    def enter(**changes):
        stage = StageConfig(**{**full_stage, **changes})
        return LiveWeights(config_of(stage), stage, encoder, criterion), encoder, criterion

    return enter


def config_of(*stages: StageConfig) -> Config:
    return Config(
        model={"pretrained": "x.pt"},
        prefixes=[{"dim": 8}, {"dim": 32}],
        data={"train": "speech"},
        validation={"lists": [{"name": "v", "root": "v"}]},
        stages=[stage.model_dump() for stage in stages],
    )


def nudge(encoder, criterion):
    """A stand-in for an update: everything that learns moves."""
    with torch.no_grad():
        for parameter in [*encoder.parameters(), *criterion.parameters()]:
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn(parameter.shape))


def test_a_plain_stage_exports_what_it_has(live):
    weights, encoder, criterion = live()
    nudge(encoder, criterion)
    exported = weights.export()
    for key, value in encoder.state_dict().items():
        assert torch.equal(exported["encoder"][key], value)
    assert weights.state_dict() == {"is_adapted": False, "live": None, "average": None}


@pytest.mark.parametrize(
    "changes", [{"lora": {"rank": 2}}, {"ema_decay": 0.5}, {"lora": {"rank": 2}, "ema_decay": 0.5}]
)
def test_exported_weights_in_a_plain_encoder_score_what_was_scored(live, changes):
    weights, encoder, criterion = live()
    weights.leave()
    plain, plain_criterion = copy.deepcopy(encoder), copy.deepcopy(criterion)
    weights, encoder, criterion = live(**changes)
    torch.manual_seed(1)
    for _ in range(3):
        nudge(encoder, criterion)
        weights.updated()
    encoder.eval(), plain.eval()
    with torch.no_grad():
        trained = encoder(WAVEFORMS)
        with weights.exported():
            scored = encoder(WAVEFORMS)
        assert torch.equal(encoder(WAVEFORMS), trained)
        load_weights(plain, plain_criterion, weights.export())
        torch.testing.assert_close(plain(WAVEFORMS), scored, atol=1e-5, rtol=1e-5)
    if "ema_decay" in changes:
        assert not torch.allclose(scored, trained, atol=1e-4)


@pytest.mark.parametrize("changes", [{"lora": {"rank": 2}}, {"ema_decay": 0.5}])
def test_the_state_restores_live_weights_and_averages(live, changes):
    weights, encoder, criterion = live(**changes)
    nudge(encoder, criterion)
    weights.updated()
    state, exported = copy.deepcopy(weights.state_dict()), weights.export()
    before = copy.deepcopy(encoder.state_dict())
    nudge(encoder, criterion)
    weights.updated()
    weights.load_state_dict(state)
    for key, value in before.items():
        assert torch.equal(encoder.state_dict()[key], value)
    for key, value in weights.export()["encoder"].items():
        assert torch.equal(exported["encoder"][key], value)


def test_a_state_of_another_kind_of_stage_is_refused(live):
    weights, *_ = live(ema_decay=0.5)
    averaged = weights.state_dict()
    weights, *_ = live()
    plain = weights.state_dict()
    with pytest.raises(ValueError, match="moving average"):
        weights.load_state_dict(averaged)
    weights, *_ = live(lora={"rank": 2})
    with pytest.raises(ValueError, match="adapters"):
        weights.load_state_dict(plain)
    weights.leave()


def test_after_leaving_the_encoder_is_plain(live):
    weights, encoder, criterion = live()
    before = weights_of(encoder, criterion)
    weights, *_ = live(lora={"rank": 2})
    weights.leave()
    after = weights_of(encoder, criterion)
    assert before["encoder"].keys() == after["encoder"].keys()
    assert all(torch.equal(before["encoder"][key], value) for key, value in after["encoder"].items())


def test_a_stage_uses_the_classes_of_its_own_speeds(full_stage):
    stages = [
        StageConfig(**{**full_stage, "name": name, "augmentation": augmentation})
        for name, augmentation in (
            ("both", {"speed_probability": 0.5, "speed_factors": [1.1, 0.9]}),
            ("one", {"speed_probability": 0.5, "speed_factors": [1.2]}),
            ("same", {"speed_probability": 0.5, "speed_labels": "same"}),
            ("none", {}),
        )
    ]
    config = config_of(*stages)  # blocks: 1, 0.9, 1.1, 1.2
    assert [class_blocks(config, stage) for stage in config.stages] == [[0, 2, 1], [0, 3], [0], [0]]
