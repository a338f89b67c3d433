"""The cohort: who is drawn, what replaces what cannot be read, and whom it must not hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mrl.config import Config
from mrl.data.corpus import Corpus, scan
from mrl.data.training_corpus import training_corpus
from mrl.data.trials import Trial, TrialList
from mrl.errors import DataError
from mrl.evaluation import cohort
from mrl.evaluation.cohort import candidates, cohort_means, embed_cohort, require_cohort_unheard
from mrl.evaluation.embedding import pool_utterances
from tests.data.corpora import corpus_of, counted


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Four speakers with 4 utterances each in two sessions."""
    for number, name in enumerate(
        f"{speaker}/s{session}/{item}.wav" for speaker in "abcd" for session in range(2) for item in range(2)
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(number).uniform(-0.3, 0.3, 4000 + 160 * (number % 3))
        soundfile.write(tmp_path / name, samples, 16_000)
    return scan(tmp_path, manifest_dir=None)


def test_the_draw_is_a_function_of_seed_and_files():
    whole = counted([5] * 30)
    drawn = candidates(whole, 10, 2, seed=1)
    speakers = [speaker for speaker, _ in drawn]
    assert speakers == sorted(set(speakers))
    assert len(speakers) == 10
    assert all((whole.speaker_ids[utterances] == speaker).all() for speaker, utterances in drawn)
    again = candidates(whole, 10, 2, seed=1)
    assert [utterances.tolist() for _, utterances in drawn] == [u.tolist() for _, u in again]
    assert speakers != [speaker for speaker, _ in candidates(whole, 10, 2, seed=2)]
    everyone = dict(candidates(whole, 99, 2, seed=1))
    assert sorted(everyone) == list(range(30))
    assert all(everyone[speaker].tolist() == utterances.tolist() for speaker, utterances in drawn)


def test_utterances_go_round_the_sessions():
    paths = [f"a/s{session}/{item}.wav" for session, count in enumerate([9, 2, 1]) for item in range(count)]
    whole = corpus_of([*paths, "b/1.wav"])
    for seed in range(5):
        utterances = dict(candidates(whole, 2, 4, seed))[0]
        sessions = [whole.session_of(int(utterance)) for utterance in utterances]
        assert sorted(sessions[:3]) == ["s0", "s1", "s2"]
        assert sorted(sessions[3:5]) == ["s0", "s1"]
        assert set(sessions[5:]) == {"s0"}
        assert len(set(utterances.tolist())) == len(paths)


def test_rows_are_the_pooled_statistics_of_the_drawn_files(corpus, released, monkeypatch):
    monkeypatch.setattr(cohort, "_AT_A_TIME", 4)
    done: list[int] = []
    found = embed_cohort(released, corpus, num_speakers=3, per_speaker=2, seed=5, advance=done.append)
    drawn = candidates(corpus, 3, 2, 5)
    paths = [corpus.path(int(utterance)) for _, utterances in drawn for utterance in utterances[:2]]
    torch.testing.assert_close(found.pooled, pool_utterances(released, paths).pooled, atol=1e-5, rtol=1e-5)
    assert found.speakers.tolist() == [0, 0, 1, 1, 2, 2]
    assert (found.unreadable, found.num_speakers, sum(done), len(done)) == ((), 3, 6, 2)


def test_long_utterances_are_cut(corpus, released, monkeypatch):
    monkeypatch.setattr(cohort, "SECONDS", 0.25)
    found = embed_cohort(released, corpus, num_speakers=4, per_speaker=4, seed=0)
    paths = [corpus.path(int(item)) for _, utterances in candidates(corpus, 4, 4, 0) for item in utterances]
    cut = pool_utterances(released, paths, max_seconds=0.25).pooled
    torch.testing.assert_close(found.pooled, cut, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found.pooled, pool_utterances(released, paths).pooled, atol=1e-3)


def test_what_cannot_be_read_is_replaced_by_the_speakers_next(corpus, released):
    (speaker, order), *_ = candidates(corpus, 4, 2, 3)
    damaged, silent, short = (corpus.path(int(utterance)) for utterance in order[:3])
    damaged.write_bytes(b"not audio")
    soundfile.write(silent, np.zeros(4000), 16_000)
    soundfile.write(short, np.full(100, 0.1), 16_000)
    found = embed_cohort(released, corpus, num_speakers=4, per_speaker=2, seed=3)
    assert speaker == 0
    assert found.speakers.tolist() == [0, 1, 1, 2, 2, 3, 3], "one utterance of the first speaker is left"
    last = pool_utterances(released, [corpus.path(int(order[3]))]).pooled
    torch.testing.assert_close(found.pooled[:1], last, atol=1e-5, rtol=1e-5)
    assert len(found.unreadable) == 3
    for path, why in ((damaged, "damaged"), (silent, "silent"), (short, "too short")):
        assert any(str(path) in text and why in text for text in found.unreadable)


def test_a_speaker_of_whom_nothing_can_be_read_is_left_out(corpus, released):
    for utterance in corpus.utterances_of(1):
        corpus.path(int(utterance)).unlink()
    found = embed_cohort(released, corpus, num_speakers=4, per_speaker=2, seed=0)
    assert found.speakers.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(found.unreadable) == 4
    for utterance in range(len(corpus)):
        corpus.path(utterance).unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"none of the cohort's utterances can be read: .*no such file"):
        embed_cohort(released, corpus, num_speakers=4, per_speaker=2, seed=0)


def test_means_by_hand():
    embeddings = np.array([[2, 0], [0, 3], [0, 5]], dtype=np.float32)
    means = cohort_means(embeddings, np.array([0, 0, 1]))
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, [[0.5, 0.5], [0, 1]], atol=1e-7)


def test_means_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(40, 7)).astype(np.float32)
    speakers = np.sort(np.concatenate([np.arange(9), rng.integers(0, 9, 31)]))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    expected = [unit[speakers == speaker].mean(axis=0) for speaker in range(9)]
    np.testing.assert_allclose(cohort_means(embeddings, speakers), expected, atol=1e-6)


def test_speakers_of_a_scored_list_are_refused(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    config = Config.model_validate(
        {
            "model": {"pretrained": "released.pt"},
            "prefixes": [{"dim": 8, "weight": 1.0}],
            "data": {"train": str(tmp_path), "cache": str(tmp_path.parent / "cache")},
            "validation": {"lists": [{"name": "held", "hold_out_speakers": 1}]},
            "stages": [],
        }
    )
    others = TrialList.from_trials("others", Path("/x"), [Trial(False, "e/1.wav", "f/1.wav")])
    kept = training_corpus(config, lambda _: None)
    require_cohort_unheard(kept, [others])
    assert len(kept.speakers) == 3
    (held,) = set(corpus.speakers) - set(kept.speakers)
    of_held = TrialList.from_trials("held", tmp_path, [Trial(False, f"{held}/1.wav", "z/1.wav")])
    require_cohort_unheard(kept, [others, of_held])
    known = TrialList.from_trials("known", Path("/x"), [Trial(False, f"{kept.speakers[0]}/1.wav", "z/1.wav")])
    with pytest.raises(
        DataError, match=rf"^speakers of data\.train .* list known too: 1, {kept.speakers[0]};"
    ):
        require_cohort_unheard(kept, [others, known])
