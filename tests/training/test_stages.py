"""Frozen means frozen."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from mrl.config import StageConfig
from mrl.training.optimizer import parameter_groups
from mrl.training.stages import BATCH_NORMS, enter_stage, moving_norms


def test_statistics_of_frozen_and_kept_norms_do_not_move(parts, head_stage, full_stage):
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

    assert moved(**head_stage) == (False, False)
    assert moved(**head_stage | {"norm_statistics": "batch"}) == (False, True)
    assert moved(**full_stage) == (False, False)
    assert moved(**full_stage | {"norm_statistics": "batch"}) == (True, True)
    assert moved(**full_stage | {"norm_statistics": "batch", "lora": {}}) == (False, True)


def test_moving_norms_are_those_that_train(either, full_stage):
    encoder, classifier = either
    stage = StageConfig(**full_stage | {"norm_statistics": "batch"})
    enter_stage(encoder, classifier, stage)
    found = [module for module in encoder.modules() if isinstance(module, BATCH_NORMS)]
    assert set(moving_norms(encoder, stage)) == set(found)
    assert all(norm.training for norm in found)


def test_a_frozen_backbone_keeps_no_graph(parts, head_stage):
    encoder, classifier = parts
    enter_stage(encoder, classifier, StageConfig(**head_stage))
    assert not encoder.backbone(torch.randn(2, 16_000)).requires_grad
    assert encoder(torch.randn(2, 16_000)).requires_grad


def test_dropout_is_active_where_a_part_learns(parts, full_stage, head_stage):
    encoder, classifier = parts
    enter_stage(encoder, classifier, StageConfig(**head_stage))
    assert encoder.head.dropout.training
    assert not encoder.backbone.training
    enter_stage(encoder, classifier, StageConfig(**full_stage))
    assert encoder.backbone.training


def test_a_classifier_without_a_rate_is_frozen(parts, head_stage):
    """As the map to a teacher is, in a stage that has a pair loss and no teacher."""
    stage = StageConfig(**head_stage | {"learning_rate": {"head": 0.1}})
    enter_stage(*parts, stage)
    assert not parts[1].class_vectors.requires_grad
    assert {group["part"] for group in parameter_groups(*parts, stage)} == {"head"}


def test_stages_are_validated(full_stage):
    with pytest.raises(ValidationError, match="lacks a rate for backbone"):
        StageConfig(**full_stage | {"learning_rate": {"head": 1.0, "classifier": 1.0}})
