"""What an epoch is: plain, weighted, capped, balanced, in batches of speakers; even over epochs, and pure."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mrl.config import DataConfig
from mrl.data.corpus import Corpus
from mrl.data.joining import join_corpora
from mrl.data.sampling import Sampling
from mrl.errors import DataError
from mrl.randomness import numpy_generator
from tests.data.corpora import counted

COUNTS = st.lists(st.integers(1, 9), min_size=2, max_size=8)


def data(**options) -> DataConfig:
    return DataConfig(**{"train": "root", **options})


def joined(*counts: list[int]) -> Corpus:
    return join_corpora({f"c{place}": counted(of, f"/d/c{place}") for place, of in enumerate(counts)})


def weighted(*weights: float, **options) -> DataConfig:
    train = [{"path": f"/d/c{place}", "weight": weight} for place, weight in enumerate(weights)]
    return DataConfig(train=train, **options)


def times(sampling: Sampling, corpus: Corpus, epochs: range) -> np.ndarray:
    """How often each utterance comes."""
    order = np.concatenate([sampling.order(epoch) for epoch in epochs])
    return np.bincount(order, minlength=len(corpus))


def per_speaker(order: np.ndarray, corpus: Corpus) -> np.ndarray:
    return np.bincount(corpus.speaker_ids[order], minlength=len(corpus.speakers))


def test_a_plain_epoch_is_the_permutation_it_always_was() -> None:
    corpus = counted([3, 1, 7])
    sampling = Sampling(corpus, data(), 5)
    assert sampling.size == 11
    for epoch in range(4):
        expected = numpy_generator(5, "order", epoch).permutation(11)
        np.testing.assert_array_equal(sampling.order(epoch), expected)


def test_corpora_without_weights_are_one() -> None:
    corpus = joined([2, 3], [4])
    sampling = Sampling(corpus, DataConfig(train=[{"path": "/d/c0"}, {"path": "/d/c1"}]), 5)
    np.testing.assert_array_equal(sampling.order(2), numpy_generator(5, "order", 2).permutation(9))


def test_weights_are_shares_of_the_epoch_by_hand() -> None:
    corpus = joined([30, 30], [10], [10, 20])
    sampling = Sampling(corpus, weighted(2.0, 1.0, 1.0), 1)
    assert sampling.size == 100
    for epoch in range(3):
        of_corpus = corpus.corpus_of_speaker[corpus.speaker_ids[sampling.order(epoch)]]
        assert np.bincount(of_corpus).tolist() == [50, 25, 25]


def test_a_replayed_corpus_goes_on_where_the_last_epoch_stopped() -> None:
    corpus = joined([40, 60], [10, 10])  # 120: 12 and 108 an epoch
    sampling = Sampling(corpus, weighted(1.0, 9.0), 1)
    seen: list[int] = []
    for epoch in range(8):
        order = sampling.order(epoch)
        seen += order[order < 100].tolist()
    assert len(seen) == len(set(seen)) == 96
    large_and_small = np.split(times(sampling, corpus, range(25)), [100])
    assert large_and_small[0].tolist() == [3] * 100
    assert large_and_small[1].tolist() == [135] * 20


@settings(deadline=None, max_examples=50)
@given(counts=st.lists(COUNTS, min_size=2, max_size=3), data_=st.data(), epochs=st.integers(1, 6))
def test_weighted_utterances_of_a_corpus_come_equally_often(
    counts: list[list[int]], data_: st.DataObject, epochs: int
) -> None:
    corpus = joined(*counts)
    weights = data_.draw(
        st.lists(st.floats(0.5, 2.0), min_size=len(counts), max_size=len(counts)), label="weights"
    )
    sampling = Sampling(corpus, weighted(*weights), 1)
    often = times(sampling, corpus, range(epochs))
    assert often.sum() == epochs * sampling.size == epochs * len(corpus)
    for number in range(len(counts)):
        of_corpus = often[corpus.corpus_of_speaker[corpus.speaker_ids] == number]
        assert of_corpus.max() - of_corpus.min() <= 1


@settings(deadline=None, max_examples=50)
@given(counts=COUNTS, most=st.integers(1, 10), epochs=st.integers(1, 6))
def test_a_cap_takes_turns(counts: list[int], most: int, epochs: int) -> None:
    corpus = counted(counts)
    sampling = Sampling(corpus, data(max_utterances_per_speaker=most), 1)
    expected = np.minimum(counts, most)
    assert sampling.size == expected.sum()
    for epoch in range(epochs):
        order = sampling.order(epoch)
        assert len(set(order.tolist())) == len(order)
        assert per_speaker(order, corpus).tolist() == expected.tolist()
    often = times(sampling, corpus, range(epochs))
    for speaker in range(len(counts)):
        of_speaker = often[corpus.utterances_of(speaker)]
        assert of_speaker.max() - of_speaker.min() <= 1


@settings(deadline=None, max_examples=50)
@given(counts=COUNTS, most=st.none() | st.integers(1, 10), epochs=st.integers(1, 6))
def test_balanced_speakers_come_equally_often(counts: list[int], most: int | None, epochs: int) -> None:
    corpus = counted(counts)
    sampling = Sampling(corpus, data(balance="speakers", max_utterances_per_speaker=most), 1)
    assert sampling.size == sum(min(count, most or count) for count in counts)
    for epoch in range(epochs):
        of_speaker = per_speaker(sampling.order(epoch), corpus)
        assert of_speaker.max() - of_speaker.min() <= 1
        assert most is None or of_speaker.max() <= most
    often = times(sampling, corpus, range(epochs))
    totals = np.bincount(corpus.speaker_ids, often)
    assert totals.max() - totals.min() <= 1
    for speaker in range(len(counts)):
        of_one = often[corpus.utterances_of(speaker)]
        assert of_one.max() - of_one.min() <= 1


def test_balance_holds_within_the_share_of_a_corpus() -> None:
    corpus = joined([1, 17, 2], [5, 15])  # 40: 30 over three speakers, 10 over two
    sampling = Sampling(corpus, weighted(3.0, 1.0, balance="speakers"), 1)
    for epoch in range(3):
        assert per_speaker(sampling.order(epoch), corpus).tolist() == [10, 10, 10, 5, 5]


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    corpus = joined([5, 9], [4, 4])
    for options in ({}, {"utterances_per_speaker": 2, "batch_size": 6}):
        one, other = (Sampling(corpus, weighted(1.0, 2.0), 3, **options) for _ in range(2))
        late = one.order(7)
        one.order(2)
        np.testing.assert_array_equal(late, other.order(7))
        assert late.tolist() != one.order(8).tolist()
        assert late.tolist() != Sampling(corpus, weighted(1.0, 2.0), 4, **options).order(7).tolist()


OPTIONS = [{}, {"max_utterances_per_speaker": 3}, {"balance": "speakers"}]


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 30), min_size=3, max_size=12),
    options=st.sampled_from(OPTIONS),
    each=st.integers(2, 4),
    speakers=st.integers(1, 3),
    epoch=st.integers(0, 5),
)
def test_batches_of_speakers_hold_different_ones(
    counts: list[int], options: dict, each: int, speakers: int, epoch: int
) -> None:
    corpus, batch_size = counted(counts), each * speakers
    plain = Sampling(corpus, data(**options), 1).size
    sampling = Sampling(corpus, data(**options), 1, utterances_per_speaker=each, batch_size=batch_size)
    assert sampling.size == max(1, plain // batch_size) * batch_size
    order = sampling.order(epoch)
    assert order.shape == (sampling.size,)
    for groups in order.reshape(-1, speakers, each):
        named = corpus.speaker_ids[groups]
        assert all(len(set(group)) == 1 for group in named.tolist())
        assert len(set(named[:, 0].tolist())) == speakers
        for group, speaker in zip(groups.tolist(), named[:, 0], strict=True):
            assert max(Counter(group).values()) == -(-each // counts[speaker])


def test_batches_of_speakers_cover_utterances_evenly() -> None:
    corpus = counted([1, 2, 3, 4, 5, 6, 7, 8, 9, 35])
    sampling = Sampling(corpus, data(), 1, utterances_per_speaker=4, batch_size=8)
    epochs = range(1, 61)
    often = times(sampling, corpus, epochs)
    assert often.sum() == 60 * 80
    assert often.min() > 0.85 * 60
    assert often.max() < 1.15 * 60
    for speaker in range(10):
        of_speaker = often[corpus.utterances_of(speaker)]
        assert of_speaker.max() - of_speaker.min() <= 1


def test_a_dominant_speaker_is_once_in_each_batch_and_others_fill_it() -> None:
    corpus = counted([100, 1, 2, 3])
    sampling = Sampling(corpus, data(), 1, utterances_per_speaker=2, batch_size=4)
    totals = np.zeros(4)
    for epoch in range(20):
        of_speaker = per_speaker(sampling.order(epoch), corpus)
        assert of_speaker[0] == sampling.size // 2 == 52
        totals += of_speaker
    np.testing.assert_allclose(totals[1:] / totals[1:].sum(), [1 / 6, 2 / 6, 3 / 6], atol=0.01)


def test_batches_of_speakers_are_not_the_same_ones_each_epoch() -> None:
    corpus = counted([4] * 12)
    sampling = Sampling(corpus, data(), 1, utterances_per_speaker=2, batch_size=6)

    def companies(epoch: int) -> set[frozenset[int]]:
        speakers = corpus.speaker_ids[sampling.order(epoch)].reshape(-1, 6)
        return {frozenset(batch.tolist()) for batch in speakers}

    assert len(companies(1) & companies(2)) <= 2


def test_too_few_speakers_for_a_batch_are_an_error() -> None:
    with pytest.raises(
        DataError, match=r"batch of 8 with utterances_per_speaker 2 needs 4 speakers, .* has 3"
    ):
        Sampling(counted([9, 9, 9]), data(), 1, utterances_per_speaker=2, batch_size=8)


def test_a_weight_that_gives_nothing_is_an_error() -> None:
    corpus = joined([5, 5], [1, 1])
    with pytest.raises(DataError, match=r"the weight 0\.001 of c1 gives it none of the 12"):
        Sampling(corpus, weighted(1.0, 0.001), 1)
    gone, _ = corpus.split_speakers({"c1/s000", "c1/s001"})
    with pytest.raises(DataError, match="no speaker of c1 is left"):
        Sampling(gone, weighted(1.0, 1.0), 1)


def test_combinations_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="give one of them"):
        weighted(1.0, 2.0, max_utterances_per_speaker=3)
    with pytest.raises(ValidationError, match="does nothing where there is one corpus"):
        weighted(1.0)
