"""From embeddings to error rates by hand, and from audio files to scores with a tiny network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mrl.data.trials import Trial, TrialList
from mrl.errors import AudioError, TrainingError
from mrl.evaluation import verification
from mrl.evaluation.metrics import equal_error_rate, min_dcf
from mrl.evaluation.report import result_metrics, result_rows
from mrl.evaluation.verification import score_list, verify, verify_lists
from mrl.models.encoder import SpeakerEncoder
from mrl.models.head import MatryoshkaHead
from mrl.models.released import ReleasedModel

POINTS = {"a/0.wav": (0.5, 0.0), "a/1.wav": (0.4, 0.1), "b/0.wav": (0.4, 0.4), "b/1.wav": (0.2, 0.5)}
TRIALS = [
    Trial(True, "a/0.wav", "a/1.wav"),
    Trial(True, "b/0.wav", "b/1.wav"),
    Trial(False, "a/0.wav", "b/1.wav"),
    Trial(False, "a/1.wav", "b/0.wav"),
]


@pytest.fixture
def trials(tmp_path: Path) -> TrialList:
    for number, name in enumerate(POINTS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        samples = np.random.default_rng(number).uniform(-0.3, 0.3, 4000 + 300 * number)
        soundfile.write(tmp_path / name, samples, 16_000)
    return TrialList.from_trials("hand", tmp_path, TRIALS)


@pytest.fixture
def encoder(released: ReleasedModel) -> SpeakerEncoder:
    torch.manual_seed(0)
    return SpeakerEncoder(released, MatryoshkaHead(released.pooled_dim, 32), [8, 32])


def test_results_by_hand(trials):
    # One number: all cosines are 1, so nothing can be told apart. Two: targets 0.970 and 0.919 (cosines of the
    # points), non-targets 0.371 and 0.857: separated.
    embeddings = np.array([POINTS[name] for name in trials.utterances], dtype=np.float32)
    result = score_list(embeddings, trials, [1, 2])
    assert [prefix.dim for prefix in result.prefixes] == [1, 2]
    assert result.at(1).eer == pytest.approx(0.5)
    assert result.full_size.eer == 0.0
    assert result.full_size.threshold == pytest.approx(28 / (np.sqrt(32) * np.sqrt(29)), abs=1e-6)
    assert result.at(1).min_dcf == {0.01: 1.0, 0.05: 1.0}
    assert result.mean_eer == pytest.approx(0.25)
    assert (result.num_trials, result.num_targets, result.num_utterances) == (4, 2, 4)
    assert result_metrics([result])["eer/hand/1"] == pytest.approx(0.5)
    assert result_rows([result])[1][:3] == ["hand", "2", "0.00"]


def test_each_list_scores_as_by_itself_and_as_files_embedded_one_by_one(encoder, trials):
    other = TrialList.from_trials(
        "other", trials.root, [Trial(False, "b/1.wav", "a/1.wav"), Trial(True, "a/1.wav", "a/0.wav")]
    )
    for trials_list, result in zip(
        (trials, other), verify_lists(encoder, [trials, other], [8, 32]), strict=True
    ):
        assert result.name == trials_list.name
        single = verify(encoder, trials_list, [8, 32])
        for dim, prefix, same in zip([8, 32], result.prefixes, single.prefixes, strict=True):
            files = [trials_list.root / name for name in trials_list.utterances]
            units = torch.stack([encoder.embed_file(file, dim=dim) for file in files])
            scores = (units[trials_list.enrolment] * units[trials_list.test]).sum(dim=1).numpy()
            rate, threshold = equal_error_rate(scores, trials_list.labels)
            assert prefix.eer == same.eer == pytest.approx(rate)
            assert prefix.threshold == pytest.approx(threshold, abs=1e-5)
            assert prefix.min_dcf[0.05] == pytest.approx(min_dcf(scores, trials_list.labels, 0.05))


def test_utterances_that_lists_share_are_embedded_once(encoder, trials, monkeypatch):
    embedded: list[Path] = []
    original = verification.embed_utterances

    def watched(model, paths, **options):
        embedded.extend(paths)
        return original(model, paths, **options)

    monkeypatch.setattr(verification, "embed_utterances", watched)
    part = TrialList.from_trials("part", trials.root, TRIALS[1:3])
    done: list[int] = []
    results = verify_lists(encoder, [trials, part], [32], advance=done.append)
    assert embedded == [trials.root / name for name in trials.utterances]
    assert sum(done) == 4
    assert [result.num_utterances for result in results] == [4, 3]


def test_seconds_of_embedding_belong_to_the_list_that_names_an_utterance_first(encoder, trials):
    first, second = verify_lists(encoder, [trials, trials], [32])
    assert 0 < first.embedding_seconds < first.seconds
    assert second.embedding_seconds == 0 < second.seconds


def test_a_released_model_is_verified_as_it_is(released, trials):
    result = verify(released, trials, [released.embedding_dim])
    with torch.no_grad():
        files = [soundfile.read(trials.root / name, dtype="float32")[0] for name in trials.utterances]
        units = torch.nn.functional.normalize(torch.cat([released(torch.from_numpy(f)[None]) for f in files]))
    scores = (units[trials.enrolment] * units[trials.test]).sum(dim=1).numpy()
    assert result.full_size.eer == equal_error_rate(scores, trials.labels).rate
    assert result.full_size.threshold == pytest.approx(
        equal_error_rate(scores, trials.labels).threshold, abs=1e-5
    )


def test_long_utterances_are_cut_where_asked(encoder, trials):
    cut = verify(encoder, trials, [32], max_seconds=0.2)
    for name in trials.utterances:
        samples, rate = soundfile.read(trials.root / name)
        soundfile.write(trials.root / name, samples[:3200], rate)
    assert verify(encoder, trials, [32]).full_size.threshold == pytest.approx(
        cut.full_size.threshold, abs=1e-5
    )


def test_damaged_weights_stop_it_and_name_the_file(encoder, trials):
    encoder.head.linear.weight.data[3, 5] = float("nan")
    with pytest.raises(TrainingError, match=r"b/1\.wav: its embedding is not finite"):
        verify(encoder, trials, [32])


def test_an_unreadable_utterance_is_an_error(encoder, trials):
    (trials.root / "b/0.wav").write_bytes(b"not audio")
    with pytest.raises(AudioError, match=r"b/0\.wav"):
        verify(encoder, trials, [32])
