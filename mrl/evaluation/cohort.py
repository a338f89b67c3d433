"""The cohort: utterances of training speakers, none of whom is in a scored list.

AS-norm compares each trial's two sides with its speakers, and baselines that are fitted are fitted on it.
Shapes: C utterances, S speakers, P pooled statistics, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl.audio import SAMPLE_RATE, read
from mrl.data.corpus import Corpus
from mrl.data.overlap import require_unheard
from mrl.data.trial_list import TrialList, mean_unit_vectors
from mrl.errors import AudioError, DataError
from mrl.evaluation.embedding import Advance, Pooled, pool_utterances
from mrl.models.encoder_input import naming
from mrl.models.released import Trunk
from mrl.randomness import numpy_generator
from mrl.read_ahead import map_ahead

SECONDS = 10.0
"""Of each utterance, from its beginning: longer ones are cut, which bounds the time that a cohort takes."""
_AT_A_TIME = 1024  # utterances pooled together: one that cannot be read costs so many a second time
_TRIES = 4  # utterances looked into for each one wanted, before a speaker gives fewer


@dataclass(frozen=True)
class Cohort:
    """Pooled statistics of training speakers' utterances, speaker by speaker."""

    pooled: Tensor  # [C, P], float32, on the CPU
    speakers: NDArray[np.int64]  # [C], numbers 0..S - 1, ascending
    unreadable: tuple[str, ...]
    """Why each file that could not be read was replaced by another of its speaker, or left out where there is none."""

    @property
    def num_speakers(self) -> int:
        return int(self.speakers[-1]) + 1


def require_cohort_unheard(corpus: Corpus, lists: Sequence[TrialList]) -> None:
    """Raise DataError where ``corpus``, which the cohort is from, holds speakers of ``lists``: their names."""
    require_unheard(
        corpus,
        lists,
        "a cohort of them would tell the scores who speaks; score a list of others, or do without a cohort",
    )


def candidates(
    corpus: Corpus, num_speakers: int, per_speaker: int, seed: int
) -> list[tuple[int, NDArray[np.int64]]]:
    """Speakers, ascending, with utterances of each in the order in which they are to be taken.

    ``num_speakers`` are drawn, or all where there are fewer. The order goes round a speaker's sessions, so that the
    first ``per_speaker`` are of as many sessions as possible; as many again and more follow as replacements.
    A speaker's order depends on ``seed`` and the speaker's files alone.
    """
    drawn = numpy_generator(seed, "cohort speakers").permutation(len(corpus.speakers))[:num_speakers]
    return [
        (int(speaker), _round_sessions(corpus, int(speaker), seed)[: per_speaker * _TRIES])
        for speaker in np.sort(drawn)
    ]


def embed_cohort(
    trunk: Trunk,
    corpus: Corpus,
    *,
    num_speakers: int,
    per_speaker: int,
    seed: int,
    batch_size: int = 32,
    workers: int = 2,
    advance: Advance | None = None,
) -> Cohort:
    """Pool ``per_speaker`` utterances of each of ``num_speakers`` speakers of ``corpus``; fewer where there are fewer.

    Utterances are whole, or the first `SECONDS` of longer ones. One that cannot be read, or is too short for the
    network, is replaced by the speaker's next; a speaker of whom none can be read is left out.

    Args:
        trunk: is afterwards in the mode that it was in.
        corpus: of speakers that are in no scored list (`require_cohort_unheard`).
        num_speakers: as many as this, drawn at random.
        per_speaker: utterances of each.
        seed: of the draw.
        batch_size: files in a batch, at most.
        workers: threads that read.
        advance: told how many utterances are done.

    Raises:
        DataError: nothing of any speaker can be read.
        TrainingError: pooled statistics that are not finite; names the file.
    """
    chosen = candidates(corpus, num_speakers, per_speaker, seed)
    pool = partial(pool_utterances, trunk, max_seconds=SECONDS, batch_size=batch_size, workers=workers)
    pooled: list[Tensor] = []
    speakers: list[int] = []
    unreadable: list[str] = []
    for group in _groups(chosen, per_speaker):
        queues = [_Queue(utterances.tolist(), per_speaker) for _, utterances in group]
        rows, problems = _pooled(pool, trunk, corpus, queues, workers)
        pooled.append(rows)
        unreadable.extend(problems)
        for (speaker, _), queue in zip(group, queues, strict=True):
            speakers.extend([speaker] * len(queue.taken))
        if advance is not None:
            advance(len(rows))
    if not speakers:
        raise DataError(f"{corpus.root}: none of the cohort's utterances can be read: {unreadable[0]}")
    numbers = np.unique(speakers, return_inverse=True)[1].astype(np.int64)
    return Cohort(torch.cat(pooled), numbers, tuple(unreadable))


def cohort_means(embeddings: NDArray[np.float32], speakers: NDArray[np.int64]) -> NDArray[np.float32]:
    """The cohort's speakers [S, D]: the mean of the unit-length ``embeddings`` [C, D] of each.

    Lengths are those of the full-size embeddings; a prefix of a mean is its slice, normalised by who compares it.
    """
    return mean_unit_vectors(embeddings, speakers)


class _Queue:
    """A speaker's utterances in their order: those taken, and those that may replace them."""

    def __init__(self, utterances: list[int], count: int) -> None:
        self.taken = utterances[:count]
        self._left = utterances[count:]

    def replace(self, unreadable: set[int]) -> None:
        kept = [utterance for utterance in self.taken if utterance not in unreadable]
        missing = len(self.taken) - len(kept)
        self.taken = kept + self._left[:missing]
        self._left = self._left[missing:]


def _pooled(
    pool: Callable[[list[Path]], Pooled], trunk: Trunk, corpus: Corpus, queues: Sequence[_Queue], workers: int
) -> tuple[Tensor, list[str]]:
    """Pooled statistics of what ``queues`` give, queue by queue, and what was wrong with what they had to replace."""
    unreadable: list[str] = []
    while True:
        paths = [corpus.path(utterance) for queue in queues for utterance in queue.taken]
        try:
            return pool(paths).pooled, unreadable
        except AudioError:
            problems = _problems(trunk, paths, workers)
            if not problems:
                raise
        unreadable.extend(problems.values())
        for queue in queues:
            queue.replace({item for item in queue.taken if corpus.path(item) in problems})


def _round_sessions(corpus: Corpus, speaker: int, seed: int) -> NDArray[np.int64]:
    """A speaker's utterances: the first of each session, then the second of each, and so on, at random."""
    utterances = corpus.utterances_of(speaker)
    generator = numpy_generator(seed, "cohort utterances", ascii(corpus.speakers[speaker]))
    shuffled = utterances[generator.permutation(len(utterances))]
    names = [corpus.session_of(int(utterance)) for utterance in shuffled]
    sessions = np.unique(names, return_inverse=True)[1]
    by_session = np.argsort(sessions, kind="stable")
    counts = np.bincount(sessions)
    turn = np.empty(len(shuffled), dtype=np.int64)
    turn[by_session] = np.arange(len(shuffled)) - np.repeat(np.cumsum(counts) - counts, counts)
    return shuffled[np.argsort(turn, kind="stable")]


def _groups(
    chosen: list[tuple[int, NDArray[np.int64]]], per_speaker: int
) -> list[list[tuple[int, NDArray[np.int64]]]]:
    """Speakers in groups of about `_AT_A_TIME` utterances."""
    size = max(1, _AT_A_TIME // per_speaker)
    return [chosen[start : start + size] for start in range(0, len(chosen), size)]


def _problems(trunk: Trunk, paths: Sequence[Path], workers: int) -> dict[Path, str]:
    """What is wrong with each of ``paths`` that cannot be used."""

    def problem(path: Path) -> str | None:
        try:
            with naming(path):
                trunk.require_samples(len(read(path, round(SECONDS * SAMPLE_RATE))))
        except AudioError as error:
            return str(error)
        return None

    found = zip(paths, map_ahead(problem, paths, workers), strict=True)
    return {path: text for path, text in found if text is not None}
