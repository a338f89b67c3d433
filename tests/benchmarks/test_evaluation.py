"""The plain path and ours give the same scores and rates; the benchmark runs."""

import numpy as np
import pytest
import torch

from benchmarks import evaluation
from benchmarks.plain_evaluation import eer_by_roc, prefix_by_prefix, two_forwards_per_trial
from mrl.audio import read
from mrl.evaluation.embedding import embed_utterances
from mrl.evaluation.scoring import eer_curve, prefix_scores
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead


def test_it_runs_and_promises_nothing_of_small_sizes():
    tables = evaluation.run(quick=True)
    assert len(tables) == 3
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    assert not any(table.claims for table in tables)


def test_two_forwards_per_trial_give_the_same_scores(released, tmp_path):
    torch.manual_seed(1)
    encoder = SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 32), [8, 32]).eval()
    trials = evaluation.written_list(tmp_path, 12, 40)
    assert len(trials.utterances) == 12
    assert 15 <= trials.num_targets <= 25
    waveforms = [torch.from_numpy(read(trials.root / name)) for name in trials.utterances]
    plain = two_forwards_per_trial(encoder, waveforms, trials, [8, 32])
    embeddings = embed_utterances(encoder, [trials.root / name for name in trials.utterances])
    scores = prefix_scores(embeddings, trials.enrolment, trials.test, [8, 32])
    np.testing.assert_allclose(scores, plain, atol=1e-5)
    assert np.ptp(plain) > 1e-3, "the trials must be told apart"


def test_prefix_by_prefix_gives_the_same_rates():
    trials, _ = evaluation._voxceleb_list(quick=True)
    embeddings = evaluation.speaker_embeddings(trials)
    curve = eer_curve(embeddings, trials.enrolment, trials.test, trials.labels)
    plain = prefix_by_prefix(embeddings, trials, range(1, 257))
    np.testing.assert_allclose(curve.rates, plain, atol=1e-12)
    assert plain[-1] < plain[0] - 0.1


def test_eer_by_roc_by_hand():
    scores, labels = np.array([0.9, 0.8, 0.3, 0.6, 0.2, 0.1]), np.array([1, 1, 1, 0, 0, 0], dtype=bool)
    assert eer_by_roc(scores, labels) == pytest.approx(1 / 3)
