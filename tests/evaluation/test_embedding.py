"""Utterances of several lists, embedded once each: batched as alone, shared among processes, mistakes named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mrl.audio import read
from mrl.data.trials import Trial, TrialList
from mrl.errors import AudioError, DataError, TrainingError
from mrl.evaluation.embedding import Utterances, embed_utterances, pool_utterances, project
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.pretrained import build_released
from mrl.models.released import ReleasedModel
from tests.conftest import TINY

# Samples; of nine files several have equally many frames. One is of 8 kHz.
LENGTHS = (9000, 4000, 9010, 9600, 5000, 4000, 12_000, 9100, 4010)

_STRIDED = [[[1, 1], 1, 1, [[3, 3]], None], [[2, 4], 1, 1, [[3, 3]], 12]]
FAMILIES: dict[str, dict[str, Any]] = {
    "conv+att": TINY,
    "att": {**TINY, "block_1d_type": "att", "hop_length": 240},
    "conv, tf": {**TINY, "block_1d_type": "conv", "feat_type": "tf", "block_2d_type": "basic_resnet"},
    "fwse, TSTP": {**TINY, "block_2d_type": "basic_resnet_fwse", "pooling_func": "TSTP", "emb_bn": True},
    "redimnet2": {
        "F": 24, "C": 4, "stages_setup": _STRIDED, "causal": "none", "spec_params": {"norm_signal": True},
    },
    "redimnet2, 2d": {
        "F": 24, "C": 4, "stages_setup": _STRIDED, "causal": "none", "spec_params": {},
        "return_2d_output": True, "agg_gnorm": True, "block_2d_type": "convnext_like",
    },
}  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    files = []
    for number, length in enumerate(LENGTHS):
        rate = 8000 if number == 3 else 16_000
        samples = np.random.default_rng(number).uniform(-0.3, 0.3, length * rate // 16_000)
        files.append(tmp_path / f"{number}.wav")
        soundfile.write(files[-1], samples, rate)
    return files


@pytest.fixture
def encoder(released: ReleasedModel) -> SpeakerEncoder:
    return SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 32, dropout=0.5), [8, 32])


@torch.no_grad()
def alone(model: ReleasedModel, paths: list[Path], max_samples: int | None = None) -> torch.Tensor:
    """Pooled statistics of each file, through the whole network by itself."""
    return torch.cat([model.pooled(torch.from_numpy(read(path, max_samples))[None]) for path in paths])


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES.keys())
def test_batched_equals_one_by_one_for_every_family(config, paths):
    model = build_released(config, seed=1).eval()
    expected = alone(model, paths)
    places, pooled = pool_utterances(model, paths, batch_size=32)
    assert places.tolist() == list(range(len(paths)))
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    gaps = (expected[:, None] - expected[None]).abs().amax(dim=2)
    assert gaps.fill_diagonal_(1.0).min() > 1e-3, "the files must be told apart"
    embeddings = embed_utterances(model, paths)
    with torch.no_grad():
        projected = model.project(expected).numpy()
    np.testing.assert_allclose(embeddings, projected, atol=1e-5)


def test_files_are_cut_where_asked_and_then_share_a_batch(released, paths):
    sizes: list[int] = []
    _, pooled = pool_utterances(released, paths, max_seconds=0.25, batch_size=4, advance=sizes.append)
    torch.testing.assert_close(pooled, alone(released, paths, 4000), atol=1e-5, rtol=1e-5)
    assert sizes == [4, 4, 1]


@pytest.mark.parametrize("world_size", [2, 3, 20])
def test_processes_share_the_files_and_agree_with_one(released, paths, world_size):
    together = pool_utterances(released, paths).pooled
    found = torch.full_like(together, float("nan"))
    for rank in range(world_size):
        places, pooled = pool_utterances(released, paths, rank=rank, world_size=world_size)
        assert found[places].isnan().all(), "no file is done twice"
        assert (np.diff(places) > 0).all()
        found[places] = pooled
    torch.testing.assert_close(found, together, atol=1e-5, rtol=1e-5)


def test_modes_masks_and_gradients_are_left_as_they_were(encoder, paths):
    encoder.eval()
    expected = embed_utterances(encoder, paths)
    encoder.train()
    encoder.backbone.mask.configure(1.0, time_masks=2, max_time_frames=8, band_masks=2, max_bands=8)
    encoder.backbone.backbone.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(embed_utterances(encoder, paths), expected)
        pooled = pool_utterances(encoder.backbone, paths).pooled
    assert encoder.head.training
    assert not encoder.backbone.backbone.training
    encoder.head(pooled).sum().backward()  # they can be what a head is trained on
    assert encoder.head.linear.weight.grad is not None


def test_projecting_in_chunks_is_the_head_in_eval_mode(encoder, paths, monkeypatch):
    monkeypatch.setattr("mrl.evaluation.embedding._PROJECTED_ROWS", 4)
    encoder.train()
    pooled = pool_utterances(encoder.backbone, paths).pooled
    embeddings = project(encoder.head, pooled)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, embed_utterances(encoder, paths), atol=1e-5)
    assert encoder.head.training


def test_lists_share_what_has_one_path_whatever_their_roots(tmp_path):
    a = TrialList.from_trials("a", tmp_path / "wav", [Trial(True, "s/1.wav", "s/2.wav")])
    b = TrialList.from_trials(
        "b", tmp_path, [Trial(True, "wav/s/2.wav", "t/1.wav"), Trial(False, "u", "t/1.wav")]
    )
    c = TrialList.from_trials("c", tmp_path, [Trial(True, "s/1.wav", "wav/s/1.wav")])
    utterances = Utterances.of([a, b, c])
    names = ["wav/s/1.wav", "wav/s/2.wav", "t/1.wav", "u", "s/1.wav"]
    assert utterances.paths == [tmp_path / name for name in names]
    assert [utterances.places(number).tolist() for number in range(3)] == [[0, 1], [1, 2, 3], [4, 0]]
    assert [utterances.newly_named(number) for number in range(3)] == [2, 2, 1]


def test_roots_that_are_written_differently_are_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trials = [Trial(True, "s/1.wav", "s/2.wav")]
    lists = [TrialList.from_trials("x", root, trials) for root in (Path("wav"), tmp_path / "wav")]
    utterances = Utterances.of(lists)
    assert utterances.paths == [Path("wav/s/1.wav"), Path("wav/s/2.wav")]
    assert utterances.newly_named(1) == 0


def test_a_file_that_cannot_be_read_is_named(released, paths):
    paths[4].write_bytes(b"not audio")
    with pytest.raises(AudioError, match=r"4\.wav"):
        pool_utterances(released, paths)


def test_a_file_that_is_too_short_is_named(released, paths):
    soundfile.write(paths[2], np.full(200, 0.1), 16_000)
    with pytest.raises(DataError, match=r"2\.wav: a waveform of 200 samples is too short"):
        pool_utterances(released, paths)


def test_numbers_that_are_not_finite_name_the_file(encoder, paths, monkeypatch):
    features = encoder.backbone.pool_features

    def damaged(maps):
        pooled = features(maps)
        if len(pooled) > 1:
            pooled[1, 3] = float("nan")
        return pooled

    monkeypatch.setattr(encoder.backbone, "pool_features", damaged)
    for attempt in (
        lambda: pool_utterances(encoder.backbone, paths[:3]),
        lambda: embed_utterances(encoder, paths[:3]),
    ):
        with pytest.raises(
            TrainingError, match=r"0\.wav: its embedding is not finite"
        ):  # 2 and 0 share a batch
            attempt()


def test_no_files_give_no_rows(encoder):
    assert pool_utterances(encoder.backbone, []).pooled.shape == (0, encoder.backbone.pooled_dim)
    assert embed_utterances(encoder, []).shape == (0, 32)


def test_real_speech_batched_as_alone(encoder, speech):
    files = sorted((speech / "val").glob("*/*/*.flac"))[:10]
    expected = torch.stack([encoder.embed_file(path) for path in files])
    embeddings = torch.from_numpy(embed_utterances(encoder, files))
    torch.testing.assert_close(torch.nn.functional.normalize(embeddings), expected, atol=1e-5, rtol=0)
