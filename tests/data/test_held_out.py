"""Utterances of training speakers held out: how many, whole sessions where they fit, the same numbering."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data.corpus import Corpus
from mrl.data.held_out import split_utterances
from mrl.errors import DataError
from tests.data.corpora import corpus_of, counted


def paths(corpus: Corpus) -> list[str]:
    return [corpus.relative_path(item) for item in range(len(corpus))]


@settings(deadline=None, max_examples=60)
@given(
    tree=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=1, max_size=5),
    share=st.floats(0.05, 0.5),
    seed=st.integers(0, 3),
)
def test_the_parts_are_sound(tree: list[list[int]], share: float, seed: int) -> None:
    corpus = corpus_of(
        [
            f"p{speaker}/s{session}/{item}.wav"
            for speaker, sessions in enumerate(tree)
            for session, count in enumerate(sessions)
            for item in range(count)
        ]
    )
    most = [int(share * sum(sessions)) for sessions in tree]
    if not any(most):
        with pytest.raises(DataError, match=r"held_out_share .* takes \d+ utterances"):
            split_utterances(corpus, share, seed)
        return
    training, held_out = split_utterances(corpus, share, seed)
    assert training.speakers == held_out.speakers == corpus.speakers
    assert sorted(paths(training) + paths(held_out)) == sorted(paths(corpus))
    for speaker, sessions in enumerate(tree):
        mine = held_out.utterances_of(speaker)
        assert min(1, most[speaker]) <= len(mine) <= most[speaker]
        kept = {training.session_of(int(item)) for item in training.utterances_of(speaker)}
        out = {held_out.session_of(int(item)) for item in mine}
        if min(sessions) <= most[speaker]:
            assert not kept & out
        else:
            assert len(out) <= 1
            assert len(mine) == most[speaker]
    assert paths(split_utterances(corpus, share, seed)[1]) == paths(held_out)


def test_sessions_are_held_out_whole_by_hand() -> None:
    corpus = corpus_of([f"a/s{session}/{item}.wav" for session in range(5) for item in range(4)])
    training, held_out = split_utterances(corpus, 0.25, 1)  # 5 utterances at most: one session of 4
    assert len(held_out) == 4
    assert len({held_out.session_of(item) for item in range(4)}) == 1
    assert len(training) == 16


def test_a_speaker_too_small_gives_none_and_keeps_the_number() -> None:
    corpus = counted([10, 1, 10])
    training, held_out = split_utterances(corpus, 0.3, 1)
    assert np.bincount(held_out.speaker_ids, minlength=3).tolist() == [3, 0, 3]
    assert np.bincount(training.speaker_ids, minlength=3).tolist() == [7, 1, 7]
    assert held_out.relative_path(3).startswith("s002/")
