"""What an epoch is: which utterances, how often, in which order. A pure function of (seed, epoch).

Utterances are dealt from pools (the whole corpus, one of several corpora, or a speaker). A pool is a fixed
random circle of its utterances, and each epoch goes on where the one before stopped, so that within a pool no
utterance comes a second time more often than another. N utterances, S speakers, C corpora, P pools.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mrl.config import Config, DataConfig, StageConfig
from mrl.data.corpus import Corpus
from mrl.data.speaker_batches import SpeakerBatches
from mrl.errors import DataError
from mrl.randomness import numpy_generator

Counts = NDArray[np.int64]


class Sampling:
    """The epochs of a corpus, as ``data_config`` wants them.

    Plain: a permutation of all utterances. With weights, each corpus gives its share of N utterances. With
    ``max_utterances_per_speaker`` an epoch is shorter, and the others come next time. With ``balance: speakers``
    each speaker gives the same number (of the epoch, or of its corpus's share), give or take one.

    Args:
        corpus: joined from the corpora of ``data_config.train``, in that order.
        data_config: how to draw from it.
        seed: of the run.
        utterances_per_speaker: K; batches are then of batch_size / K different speakers with K utterances each.
            A speaker with fewer repeats some. How often speakers come is as above, as near as such batches allow:
            nobody is twice in a batch.
        batch_size: of the run, all processes together; only read with ``utterances_per_speaker``.

    Attributes:
        size: utterances in an epoch, the same in each.

    Raises:
        DataError: a weight leaves a corpus without any utterance; fewer speakers than a batch of different
            speakers needs.
    """

    def __init__(
        self,
        corpus: Corpus,
        data_config: DataConfig,
        seed: int,
        *,
        utterances_per_speaker: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        self._speaker_ids = corpus.speaker_ids
        self._seed = seed
        pools = _pools(corpus, data_config)
        self._batches: SpeakerBatches | None = None
        if utterances_per_speaker is not None:
            assert batch_size is not None
            self._batches = SpeakerBatches(
                pools.per_speaker, round(pools.per_speaker.sum()), utterances_per_speaker, batch_size, seed
            )
            pools = _by_speaker(corpus, self._batches.taken)
        self._pools = pools
        self.size = int(pools.taken(1).sum())

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The utterances of ``epoch`` (0 or later), in order: [size]."""
        first, end = self._pools.taken(epoch), self._pools.taken(epoch + 1)
        dealt = self._deal(first, end - first)
        if self._batches is not None:
            return dealt[self._batches.places(epoch)]
        # Sorted, an epoch that holds each utterance once is arange(N), and its order the plain permutation.
        return np.sort(dealt)[numpy_generator(self._seed, "order", epoch).permutation(self.size)]

    def _deal(self, first: Counts, counts: Counts) -> NDArray[np.int64]:
        """``counts`` [P] utterances of each pool, pool by pool, from place ``first`` [P] of its circle on."""
        pool = np.repeat(np.arange(len(counts)), counts)
        turn = np.arange(len(pool)) - np.repeat(np.cumsum(counts) - counts, counts)
        sizes = self._pools.sizes
        starts = np.cumsum(sizes) - sizes
        return self._circles[starts[pool] + (first[pool] + turn) % sizes[pool]]

    @cached_property
    def _circles(self) -> NDArray[np.int64]:
        """Utterances, pool by pool, in a fixed random order within each: [N]."""
        order = numpy_generator(self._seed, "circle").permutation(len(self._speaker_ids))
        return order[np.argsort(self._pools.of_speaker[self._speaker_ids[order]], kind="stable")]


def stage_sampling(config: Config, stage: StageConfig, corpus: Corpus) -> Sampling:
    """The epochs of ``stage`` over ``corpus``. Raises DataError as :class:`Sampling` does, naming the stage."""
    try:
        return Sampling(
            corpus,
            config.data,
            config.seed,
            utterances_per_speaker=stage.utterances_per_speaker,
            batch_size=stage.batch_size,
        )
    except DataError as error:
        raise DataError(f"stages.{stage.name}: {error}") from None


def balanced_sample(corpus: Corpus, size: int, seed: int) -> NDArray[np.int64]:
    """``size`` utterance numbers, spread over the speakers as evenly as the corpus allows."""
    order = numpy_generator(seed, "warm start").permutation(len(corpus))
    by_speaker = order[np.argsort(corpus.speaker_ids[order], kind="stable")]
    counts = np.bincount(corpus.speaker_ids, minlength=len(corpus.speakers))
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    turn = np.arange(len(corpus)) - starts  # the first of each speaker, then the second of each, ...
    return by_speaker[np.argsort(turn, kind="stable")][:size]


@dataclass(frozen=True)
class _Pools:
    of_speaker: Counts  # [S], the pool that a speaker's utterances are in
    sizes: Counts  # [P], utterances in each
    taken: Callable[[int], Counts]
    """How many each pool has given before an epoch: [P]. Its sum grows by the same from epoch to epoch."""
    per_speaker: NDArray[np.float64]  # [S], how many a speaker gives on average


def _pools(corpus: Corpus, config: DataConfig) -> _Pools:
    of_speaker = np.bincount(corpus.speaker_ids, minlength=len(corpus.speakers))
    most = config.max_utterances_per_speaker
    total = int(np.sum(of_speaker if most is None else np.minimum(of_speaker, most)))
    corpora = corpus.corpus_of_speaker.astype(np.int64)
    if config.train[0].weight is None:
        corpora = np.zeros_like(corpora)
        quotas = np.array([total])
    else:
        quotas = _quotas(config, total, np.bincount(corpora, minlength=len(config.train)))
    if config.balance == "speakers":
        shares = quotas / np.bincount(corpora, minlength=len(quotas))
        return _by_speaker(corpus, lambda epoch: _dealt_round(epoch * quotas, corpora), shares[corpora])
    if most is not None:
        capped = np.minimum(of_speaker, most)
        return _by_speaker(corpus, lambda epoch: epoch * capped, capped.astype(np.float64))
    sizes = np.bincount(corpora, of_speaker, minlength=len(quotas)).astype(np.int64)
    per_speaker = of_speaker * (quotas / sizes)[corpora]
    return _Pools(corpora, sizes, lambda epoch: epoch * quotas, per_speaker)


def _by_speaker(
    corpus: Corpus, taken: Callable[[int], Counts], per_speaker: NDArray[np.float64] | None = None
) -> _Pools:
    """Each speaker a pool."""
    num_speakers = len(corpus.speakers)
    sizes = np.bincount(corpus.speaker_ids, minlength=num_speakers)
    average = np.zeros(num_speakers) if per_speaker is None else per_speaker
    return _Pools(np.arange(num_speakers), sizes, taken, average)


def _quotas(config: DataConfig, total: int, speakers: Counts) -> Counts:
    """``total`` cut by the weights of the corpora, to whole utterances by largest remainders: [C].

    ``speakers`` [C] are how many each corpus has, those held out aside.
    """
    weights = np.array([corpus.weight for corpus in config.train], dtype=np.float64)
    exact = total * weights / weights.sum()
    quotas = np.floor(exact).astype(np.int64)
    largest = np.argsort(quotas - exact, kind="stable")
    quotas[largest[: total - int(quotas.sum())]] += 1
    for corpus, quota, left in zip(config.train, quotas, speakers, strict=True):
        if left == 0:
            raise DataError(
                f"data.train: no speaker of {corpus.label} is left to train on; hold fewer out, or leave it out"
            )
        if quota == 0:
            raise DataError(
                f"data.train: the weight {corpus.weight:g} of {corpus.label} gives it none of the {total} "
                "utterances of an epoch; raise it, or leave the corpus out"
            )
    return quotas


def _dealt_round(totals: Counts, group_of: Counts) -> Counts:
    """What each member has, where ``totals`` [C] are dealt one by one round the members of each group: [S]."""
    sizes = np.bincount(group_of, minlength=len(totals))
    order = np.argsort(group_of, kind="stable")
    place = np.empty_like(group_of)
    place[order] = np.arange(len(group_of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return (totals[group_of] - place + sizes[group_of] - 1) // sizes[group_of]
