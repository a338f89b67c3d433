"""A list of trials, held as arrays. N trials, U utterances, M enrolment models, V vectors, D embedding."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SMALLEST_NORM = 1e-12


class Trial(NamedTuple):
    """One comparison; ``enrolment`` and ``test`` are paths below the list's root, or ``enrolment`` a model's name."""

    is_target: bool
    enrolment: str
    test: str


class ScoredVectors(NamedTuple):
    """What trials compare: row ``enrolment[n]`` of ``vectors`` with row ``test[n]``."""

    vectors: NDArray[np.float32]  # [V, D]
    enrolment: NDArray[np.int32]  # [N]
    test: NDArray[np.int32]  # [N]


@dataclass(frozen=True, eq=False)
class EnrolmentModels:
    """Speakers enrolled with several utterances each, in the order in which the trials first name them."""

    names: tuple[str, ...]  # [M]
    utterances: tuple[NDArray[np.int32], ...]  # [M], places in the list's utterances, one or more for each
    of_trial: NDArray[np.int32]  # [N], the model of each trial


@dataclass(frozen=True, eq=False)
class TrialList:
    """Trials as arrays over the utterances that they name, which stand in the order of their first use.

    Where ``models`` are enrolled, those utterances that only models are made of come last.
    """

    name: str
    labels: NDArray[np.bool_]  # [N], True for a target trial
    enrolment: NDArray[np.int32]  # [N], places in utterances; of a model, its first utterance
    test: NDArray[np.int32]  # [N], places in utterances
    utterances: tuple[str, ...]  # [U], paths below root with forward slashes
    root: Path
    models: EnrolmentModels | None = None
    """What is enrolled; None: each enrolment is the one utterance of ``enrolment``."""
    lines: NDArray[np.int32] | None = None
    """[N], the line of each trial in the file that it was read from; None: not read from a file."""

    @classmethod
    def from_trials(cls, name: str, root: Path, trials: Iterable[Trial]) -> TrialList:
        table = TrialTable()
        for trial in trials:
            table.add(trial)
        return table.finish(name, root)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_targets(self) -> int:
        return int(self.labels.sum())

    def speakers(self) -> set[str]:
        """The first folder of each utterance's path, below those that all of them lie in."""
        depth = speaker_depth(self.utterances)
        return {utterance.split("/")[depth] for utterance in self.utterances}

    def trials(self) -> Iterator[Trial]:
        """The trials in their order."""
        names, numbers = (
            (self.utterances, self.enrolment)
            if self.models is None
            else (self.models.names, self.models.of_trial)
        )
        for label, enrolment, test in zip(self.labels, numbers, self.test, strict=True):
            yield Trial(bool(label), names[enrolment], self.utterances[test])

    def vectors(self, embeddings: NDArray[np.float32]) -> ScoredVectors:
        """What to score, given raw ``embeddings`` [U, D] of the utterances.

        Without models these are the embeddings as they are. With models: the raw embeddings of the test utterances,
        then for each model the mean of its utterances' unit-length embeddings, which is the simplest of the ways to
        use several enrolment utterances and the best of those compared by Rajan, Afanasyev, Hautamäki and Kinnunen,
        "From single to multiple enrollment i-vectors", Digital Signal Processing 31, 2014. Lengths are those of
        the full-size embeddings, so that a speaker is enrolled once: a prefix of a model is a slice of its mean.
        """
        if self.models is None:
            return ScoredVectors(embeddings, self.enrolment, self.test)
        tested, test = np.unique(self.test, return_inverse=True)
        sizes = [len(utterances) for utterances in self.models.utterances]
        means = mean_unit_vectors(
            embeddings[np.concatenate(self.models.utterances)], np.repeat(np.arange(len(sizes)), sizes)
        )
        return ScoredVectors(
            np.concatenate([embeddings[tested], means]),
            self.models.of_trial + np.int32(len(tested)),
            test.astype(np.int32),
        )

    def fingerprint(self) -> str:
        """SHA-256 over the trials, and the models where there are any; name and root play no part."""
        digest = hashlib.sha256(os.fsencode("\0".join(self.utterances)))
        for column in (self.labels, self.enrolment, self.test):
            digest.update(column.astype("<i4").tobytes())
        if self.models is not None:
            digest.update(os.fsencode("\0".join(self.models.names)))
            sizes = np.array([len(utterances) for utterances in self.models.utterances])
            for column in (sizes, *self.models.utterances, self.models.of_trial):
                digest.update(column.astype("<i4").tobytes())
        return digest.hexdigest()


class TrialTable:
    """Trials as they are gathered, in nine bytes each: a list of millions is never millions of objects."""

    def __init__(self) -> None:
        self.tests: dict[str, int] = {}
        self.enrolments = self.tests
        self._labels = bytearray()
        self._enrolment, self._test, self._lines = array("i"), array("i"), array("i")

    @classmethod
    def of_models(cls) -> TrialTable:
        """A table of trials whose enrolments are models' names, apart from the utterances."""
        table = cls()
        table.enrolments = {}
        return table

    def add(self, trial: Trial, line: int | None = None) -> None:
        self._labels.append(bool(trial.is_target))  # a numpy boolean is no number
        self._enrolment.append(self.enrolments.setdefault(trial.enrolment, len(self.enrolments)))
        self._test.append(self.tests.setdefault(trial.test, len(self.tests)))
        if line is not None:
            self._lines.append(line)

    def first_lines(self) -> NDArray[np.int32]:
        """The line that is the first to name each enrolment."""
        return _ints(self._lines)[np.unique(_ints(self._enrolment), return_index=True)[1]]

    def finish(
        self, name: str, root: Path, utterances_of_models: Sequence[Sequence[str]] | None = None
    ) -> TrialList:
        """The list; ``utterances_of_models`` are paths for each model of a table that was made of models."""
        enrolment, models = _ints(self._enrolment), None
        if utterances_of_models is not None:
            places = tuple(
                np.array([self.tests.setdefault(path, len(self.tests)) for path in paths], dtype=np.int32)
                for paths in utterances_of_models
            )
            models = EnrolmentModels(tuple(self.enrolments), places, enrolment)
            enrolment = np.array([rows[0] for rows in places], dtype=np.int32)[enrolment]
        return TrialList(
            name,
            np.frombuffer(self._labels, dtype=bool).copy(),
            enrolment,
            _ints(self._test),
            tuple(self.tests),
            root,
            models,
            _ints(self._lines) if self._lines else None,
        )


def mean_unit_vectors(embeddings: NDArray[np.float32], groups: NDArray[np.integer]) -> NDArray[np.float32]:
    """Mean of the unit-length ``embeddings`` [C, D] of each group: [M, D], for ``groups`` [C] that ascend from 0."""
    assert (np.diff(groups) >= 0).all()
    wide = embeddings.astype(np.float64)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), _SMALLEST_NORM)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    assert len(starts) == groups[-1] + 1
    sizes = np.diff(starts, append=len(groups))
    means: NDArray[np.float32] = (np.add.reduceat(wide, starts) / sizes[:, None]).astype(np.float32)
    return means


def speaker_depth(paths: Sequence[str]) -> int:
    """At which folder of ``paths`` speakers begin to differ: 1 for ``wav/id1/a.wav`` and ``wav/id2/b.wav``."""
    # What lies between the first and the last in order shares all that these two share.
    first, last = (path.split("/")[:-1] for path in (min(paths), max(paths)))
    pairs = enumerate(zip(first, last, strict=False))
    return next((depth for depth, (one, other) in pairs if one != other), 0)


def _ints(values: array[int]) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)
