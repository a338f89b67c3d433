"""Fixtures for training: tiny encoders of both families with a classifier, and stages to vary."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mrl.loss import MarginSoftmax, SlicedClassifier
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import build_released

# ReDimNet2 with what ReDimNet has not: stages at lower rates, two outputs per stage, norms of outputs, a head.
TINY2: dict[str, Any] = {
    "F": 24,
    "C": 4,
    "causal": "none",
    "block_1d_type": "conv+att",
    "block_2d_type": "basic_resnet_fwse",
    "stages_setup": [[[1, 1], 1, 2, [[3, 3]], 12], [[2, 2], 1, 1, [[3, 3]], None], [[1, 2], 1, 1, [[3, 3]], 8]],
    "embed_dim": 24,
    "dual_agg": True,
    "agg_gnorm": True,
    "out_channels": 20,
    "pooling_func": "ASTP",
    "global_context_att": True,
    "spec_params": {"norm_signal": True},
}  # fmt: skip

Pair = tuple[SpeakerEncoder, SlicedClassifier]


def pair_of(model_config: dict[str, Any], dropout: float = 0.0, embedding_dim: int = 32) -> Pair:
    """An encoder with prefixes 8 and ``embedding_dim``, and a classifier of 5 speakers; always the same weights."""
    torch.manual_seed(0)
    released = build_released(model_config, seed=1).eval()
    head = MatryoshkaHead(released.pooled_dim, embedding_dim, dropout)
    dims = [8, embedding_dim]
    softmax = MarginSoftmax("aam")
    return SpeakerEncoder(released, head, dims), SlicedClassifier(5, dims, [softmax] * 2, [30.0, 30.0])


@pytest.fixture
def parts(tiny_config) -> Pair:
    return pair_of(tiny_config)


@pytest.fixture(params=["redimnet", "redimnet2"])
def either(request, tiny_config) -> Pair:
    """``parts`` of each family in turn."""
    return pair_of(tiny_config if request.param == "redimnet" else TINY2)


@pytest.fixture
def head_stage() -> dict[str, Any]:
    """Fields of a StageConfig that trains the head; ten epochs."""
    return {
        "name": "head", "train": ["head"], "epochs": 10, "batch_size": 4,
        "learning_rate": {"head": 0.1, "classifier": 0.2}, "weight_decay": 0.5,
    }  # fmt: skip


@pytest.fixture
def full_stage(head_stage) -> dict[str, Any]:
    """Fields of a StageConfig that trains everything."""
    rates = {"backbone": 0.3, "head": 0.1, "classifier": 0.2}
    return {**head_stage, "name": "full", "train": ["backbone", "head"], "learning_rate": rates}
