"""Utterances of the training speakers that are kept from training, so that its loss can be checked on them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mrl.data.corpus import Corpus
from mrl.errors import DataError
from mrl.randomness import numpy_generator


def split_utterances(corpus: Corpus, share: float, seed: int) -> tuple[Corpus, Corpus]:
    """``corpus`` without ``share`` of each speaker's utterances, and these alone; speaker numbers stay.

    A speaker with n utterances gives floor(share * n) at most. Whole sessions are held out as far as they fit
    into that, for an utterance is hardly new where others of its session were trained on; where not even the
    shortest session fits, so many utterances of one session, whose rest stays in training. Speakers too small
    for a single utterance give none, and nobody gives all: ``share`` is 0.5 at most. Which ones are drawn
    depends on ``seed`` and the speaker's files alone.

    Raises DataError where no speaker is large enough to give one.
    """
    assert 0.0 < share <= 0.5
    is_out = np.zeros(len(corpus), dtype=bool)
    for speaker_id, speaker in enumerate(corpus.speakers):
        utterances = corpus.utterances_of(speaker_id)
        most = int(share * len(utterances))
        if most:
            names = [corpus.session_of(int(utterance)) for utterance in utterances]
            sessions = np.unique(names, return_inverse=True)[1]
            generator = numpy_generator(seed, "held out", ascii(speaker))
            is_out[utterances[_chosen(sessions, most, generator)]] = True
    if not is_out.any():
        raise DataError(
            f"data.held_out_share {share:g}: of no speaker can an utterance be held out, which takes "
            f"{int(np.ceil(1 / share))} utterances of one; raise it, or leave it out"
        )
    return corpus.subset(~is_out), corpus.subset(is_out)


def _chosen(sessions: NDArray[np.intp], most: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Places of ``most`` utterances or fewer, given the session number of each."""
    counts = np.bincount(sessions)
    order = generator.permutation(len(counts))
    whole: list[int] = []
    left = most
    for session in order:
        if counts[session] <= left:
            whole.append(int(session))
            left -= int(counts[session])
    if whole:
        return np.flatnonzero(np.isin(sessions, whole))
    return generator.permutation(np.flatnonzero(sessions == order[0]))[:most]
