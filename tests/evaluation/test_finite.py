"""Embeddings that cannot be scored are named, with how many there are, and blamed on weights where it is they."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.errors import TrainingError
from mrl.evaluation.embedding import embed_utterances, pool_utterances, project
from mrl.evaluation.finite import EmbeddingError, require_usable, usable_rows
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from tests.evaluation.test_embedding import paths  # noqa: F401  files of several lengths


@pytest.fixture
def encoder(released):
    torch.manual_seed(0)
    return SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 32), [8, 32]).eval()


def test_usable_rows_by_hand():
    nan, inf = float("nan"), float("inf")
    rows = torch.tensor([[1.0, 2.0], [nan, 0.0], [0.0, inf], [0.0, 0.0], [2e19, 2e19], [1e18, -1e18]])
    assert usable_rows(rows).tolist() == [
        True,
        False,
        False,
        True,
        False,
        True,
    ]  # 2e19 has no length in float32


def test_several_are_counted_and_the_first_are_named():
    rows, names = torch.zeros(6, 2), list("abcdef")
    rows[[0, 2, 3, 5]] = float("nan")
    head = torch.nn.Linear(2, 2)
    with pytest.raises(
        EmbeddingError, match=r"^4 of 6 embeddings are not finite, .*listen to a, c, d, \.\.\.$"
    ):
        require_usable(rows, names, head)
    rows[[0, 2, 3]] = 0.0
    with pytest.raises(EmbeddingError, match=r"^f: its embedding is not finite, and the weights are"):
        require_usable(rows, names, head)
    with torch.no_grad():
        head.bias[1] = float("inf")
    with pytest.raises(EmbeddingError, match=r"^f: .*the weights are not either, in bias \(1 of 2 numbers"):
        require_usable(rows, names, head)
    rows[5] = 0.0
    require_usable(rows, names, head)


@pytest.mark.parametrize("embed", ["pool", "embed"])
def test_all_files_that_cannot_be_embedded_are_counted(encoder, paths, monkeypatch, embed):  # noqa: F811
    features = encoder.backbone.pool_features

    def damaged(maps):
        pooled = features(maps).clone()
        pooled[0, 3] = float("nan")
        return pooled

    monkeypatch.setattr(encoder.backbone, "pool_features", damaged)
    batches: list[int] = []
    options = {"batch_size": 2, "advance": batches.append}
    with pytest.raises(EmbeddingError) as caught:
        _ = (
            embed_utterances(encoder, paths, **options)
            if embed == "embed"
            else pool_utterances(encoder.backbone, paths, **options)
        )
    assert sum(batches) == len(paths)  # to the end, so that all are counted
    assert str(caught.value).startswith(f"{len(batches)} of {len(paths)} embeddings are not finite")


def test_broken_weights_stop_it_at_the_first_batch(encoder, paths):  # noqa: F811
    encoder.backbone.backbone.stem[0].weight.data[0] = float("nan")
    batches: list[int] = []
    with pytest.raises(
        TrainingError, match=r"\.wav: .*the weights are not either, in backbone\.stem\.0\.weight"
    ):
        pool_utterances(encoder.backbone, paths, batch_size=2, advance=batches.append)
    assert not batches


def test_the_head_names_its_recordings(encoder):
    pooled = torch.randn(3, encoder.backbone.pooled_dim)
    assert np.isfinite(project(encoder.head, pooled)).all()
    pooled[1] = 1e38
    with pytest.raises(EmbeddingError, match=r"^b: its embedding"):
        project(encoder.head, pooled, ["a", "b", "c"])
    with pytest.raises(EmbeddingError, match=r"^utterance 2: its embedding"):
        project(encoder.head, pooled)
