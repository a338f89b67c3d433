"""From audio files to error rates, with an encoder whose embeddings are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from mrl.data.trials import Trial, TrialList
from mrl.errors import AudioError, TrainingError
from mrl.evaluation.report import result_metrics, result_rows
from mrl.evaluation.verification import embed_utterances, verify


class FirstSamples(nn.Module):
    """Embeds a waveform as its first two samples, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))
        self.calls: list[int] = []
        self.modes: list[bool] = []

    def forward(self, waveform):
        self.calls.append(waveform.shape[1])
        self.modes.append(self.training)
        return self.factor * waveform[:, :2]


POINTS = {"a/0.wav": (0.5, 0.0), "a/1.wav": (0.4, 0.1), "b/0.wav": (0.4, 0.4), "b/1.wav": (0.2, 0.5)}
TRIALS = [
    Trial(True, "a/0.wav", "a/1.wav"),
    Trial(True, "b/0.wav", "b/1.wav"),
    Trial(False, "a/0.wav", "b/1.wav"),
    Trial(False, "a/1.wav", "b/0.wav"),
]


@pytest.fixture
def trials(tmp_path: Path) -> TrialList:
    for index, (name, point) in enumerate(POINTS.items()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        samples = np.concatenate([point, np.full(800 + 100 * index, 0.1)])
        soundfile.write(tmp_path / name, samples, 16_000, subtype="FLOAT")
    return TrialList.from_trials("hand", tmp_path, TRIALS)


def test_each_utterance_is_embedded_once_and_whole(trials):
    encoder, done = FirstSamples(), []
    encoder.train()
    embeddings = embed_utterances(encoder, trials, advance=done.append)
    expected = np.array([POINTS[name] for name in trials.utterances], dtype=np.float32)
    np.testing.assert_allclose(embeddings, expected)
    assert sorted(encoder.calls) == [802, 902, 1002, 1102]
    assert encoder.modes == [False] * 4
    assert encoder.training
    assert sum(done) == 4


def test_results_by_hand(trials):
    # One number: all cosines are 1, so nothing can be told apart. Two: targets 0.970 and 0.919 (cosines of the
    # points), non-targets 0.371 and 0.857: separated.
    result = verify(FirstSamples(), trials, [1, 2])
    assert [prefix.dim for prefix in result.prefixes] == [1, 2]
    assert result.at(1).eer == pytest.approx(0.5)
    assert result.full_size.eer == 0.0
    assert result.full_size.threshold == pytest.approx(28 / (np.sqrt(32) * np.sqrt(29)), abs=1e-6)
    assert result.at(1).min_dcf == {0.01: 1.0, 0.05: 1.0}
    assert result.mean_eer == pytest.approx(0.25)
    assert (result.num_trials, result.num_targets, result.num_utterances) == (4, 2, 4)
    assert result_metrics([result])["eer/hand/1"] == pytest.approx(0.5)
    assert result_rows([result])[1][:3] == ["hand", "2", "0.00"]


def test_long_utterances_are_cut_where_asked(trials):
    encoder = FirstSamples()
    embed_utterances(encoder, trials, max_seconds=900 / 16_000)
    assert sorted(encoder.calls) == [802, 900, 900, 900]


def test_a_non_finite_embedding_names_the_file(trials):
    encoder = FirstSamples()
    encoder.factor.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"a/0\.wav: its embedding is not finite"):
        embed_utterances(encoder, trials)


def test_an_unreadable_utterance_is_an_error(trials):
    (trials.root / "b/0.wav").write_bytes(b"not audio")
    with pytest.raises(AudioError, match=r"b/0\.wav"):
        embed_utterances(FirstSamples(), trials)
