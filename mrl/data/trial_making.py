"""Trial lists made from a corpus: seeded, balanced over the speakers, across sessions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrl.data.corpus import Corpus
from mrl.data.trial_list import Trial, TrialList
from mrl.errors import DataError
from mrl.randomness import numpy_generator

_MOST_UTTERANCES = (
    1000  # of one speaker; they give half a million pairs, and all pairs are listed to draw from
)
_DRAWS_PER_TRIAL = 8  # before giving up on pairs that are not yet in the list
_FEWEST_DRAWS = 64

Pair = tuple[int, int]


def generate_trials(
    corpus: Corpus, *, seed: int, name: str, targets_per_speaker: int, nontargets_per_target: int
) -> TrialList:
    """A list of target and non-target trials over ``corpus``.

    Each speaker gives ``targets_per_speaker`` target trials, and as enrolment ``nontargets_per_target`` times
    as many non-target trials, whose tests go round the other speakers; fewer where the recordings give fewer.
    Target trials join two sessions where the speaker has several. No pair stands in the list twice, in either
    order. A speaker's target trials depend on ``seed``, ``name`` and the speaker's files alone.

    Raises DataError where there are fewer than two speakers, or none of them has two utterances.
    """
    if len(corpus.speakers) < 2:
        raise DataError(
            f"{corpus.root}: trials need two speakers or more, and there are {len(corpus.speakers)}"
        )
    pools = []
    targets: list[list[Pair]] = []
    for speaker_id, speaker in enumerate(corpus.speakers):
        generator = numpy_generator(seed, "target trials", name, ascii(speaker))
        utterances, sessions = _pool(corpus, speaker_id, generator)
        pools.append(utterances)
        targets.append(_target_pairs(utterances, sessions, targets_per_speaker, generator))
    if not any(targets):
        raise DataError(f"{corpus.root}: no speaker has two utterances, so there can be no target trial")
    nontargets = _nontarget_pairs(
        corpus, pools, [len(pairs) * nontargets_per_target for pairs in targets], seed, name
    )
    return TrialList.from_trials(
        name,
        corpus.root,
        (
            Trial(is_target, corpus.relative_path(enrolment), corpus.relative_path(test))
            for of_speaker in zip(targets, nontargets, strict=True)
            for is_target, pairs in zip((True, False), of_speaker, strict=True)
            for enrolment, test in pairs
        ),
    )


def target_speakers_of_one_session(corpus: Corpus) -> tuple[int, int]:
    """How many speakers give target trials within their only session, and how many give target trials at all."""
    speakers = [corpus.utterances_of(speaker_id) for speaker_id in range(len(corpus.speakers))]
    several = [utterances for utterances in speakers if len(utterances) > 1]
    within = sum(len({corpus.session_of(int(item)) for item in utterances}) == 1 for utterances in several)
    return within, len(several)


def _pool(
    corpus: Corpus, speaker_id: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Utterances of a speaker and their session numbers; too many are thinned evenly over the sessions."""
    utterances = corpus.utterances_of(speaker_id)
    names = [corpus.session_of(int(utterance)) for utterance in utterances]
    sessions: NDArray[np.int64] = np.unique(names, return_inverse=True)[1].astype(np.int64)
    if len(utterances) <= _MOST_UTTERANCES:
        return utterances, sessions
    order = generator.permutation(len(utterances))
    order = order[np.argsort(sessions[order], kind="stable")]
    counts = np.bincount(sessions)
    turn = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.sort(order[np.argsort(turn, kind="stable")][:_MOST_UTTERANCES])
    return utterances[kept], sessions[kept]


def _target_pairs(
    utterances: NDArray[np.int64], sessions: NDArray[np.int64], wanted: int, generator: np.random.Generator
) -> list[Pair]:
    first, second = np.triu_indices(len(utterances), k=1)
    across = sessions[first] != sessions[second]
    if across.any():
        first, second = first[across], second[across]
    chosen = generator.permutation(len(first))[:wanted]
    return [(int(utterances[first[pair]]), int(utterances[second[pair]])) for pair in chosen]


def _nontarget_pairs(
    corpus: Corpus, pools: Sequence[NDArray[np.int64]], wanted: Sequence[int], seed: int, name: str
) -> list[list[Pair]]:
    """For each speaker as enrolment, ``wanted`` pairs with the others."""
    taken: set[Pair] = set()
    pairs = []
    for speaker_id, speaker in enumerate(corpus.speakers):
        generator = numpy_generator(seed, "nontarget trials", name, ascii(speaker))
        others = generator.permutation(np.delete(np.arange(len(pools)), speaker_id))
        draws = generator.random((max(_FEWEST_DRAWS, _DRAWS_PER_TRIAL * wanted[speaker_id]), 2))
        found: list[Pair] = []
        for draw, (for_enrolment, for_test) in enumerate(draws):
            if len(found) == wanted[speaker_id]:
                break
            enrolment = _pick(pools[speaker_id], for_enrolment)
            test = _pick(pools[others[draw % len(others)]], for_test)
            pair = (min(enrolment, test), max(enrolment, test))
            if pair not in taken:
                taken.add(pair)
                found.append((enrolment, test))
        pairs.append(found)
    return pairs


def _pick(pool: NDArray[np.int64], share: float) -> int:
    return int(pool[int(share * len(pool))])
