"""A list of trials, held as arrays. N trials, U utterances."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Trial(NamedTuple):
    """One comparison; ``enrolment`` and ``test`` are paths below the list's root."""

    is_target: bool
    enrolment: str
    test: str


@dataclass(frozen=True, eq=False)
class TrialList:
    """Trials as arrays over the utterances that they name, which stand in the order of their first use."""

    name: str
    labels: NDArray[np.bool_]  # [N], True for a target trial
    enrolment: NDArray[np.int32]  # [N], places in utterances
    test: NDArray[np.int32]  # [N], places in utterances
    utterances: tuple[str, ...]  # [U], paths below root with forward slashes
    root: Path

    @classmethod
    def from_trials(cls, name: str, root: Path, trials: Iterable[Trial]) -> TrialList:
        places: dict[str, int] = {}
        labels, enrolment, test = [], [], []
        for trial in trials:
            labels.append(trial.is_target)
            enrolment.append(places.setdefault(trial.enrolment, len(places)))
            test.append(places.setdefault(trial.test, len(places)))
        return cls(
            name,
            np.array(labels, dtype=bool),
            np.array(enrolment, dtype=np.int32),
            np.array(test, dtype=np.int32),
            tuple(places),
            root,
        )

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
        for label, enrolment, test in zip(self.labels, self.enrolment, self.test, strict=True):
            yield Trial(bool(label), self.utterances[enrolment], self.utterances[test])

    def fingerprint(self) -> str:
        """SHA-256 over the trials; name and root play no part."""
        digest = hashlib.sha256(os.fsencode("\0".join(self.utterances)))
        for column in (self.labels, self.enrolment, self.test):
            digest.update(column.astype("<i4").tobytes())
        return digest.hexdigest()


def speaker_depth(paths: Sequence[str]) -> int:
    """At which folder of ``paths`` speakers begin to differ: 1 for ``wav/id1/a.wav`` and ``wav/id2/b.wav``."""
    # What lies between the first and the last in order shares all that these two share.
    first, last = (path.split("/")[:-1] for path in (min(paths), max(paths)))
    pairs = enumerate(zip(first, last, strict=False))
    return next((depth for depth, (one, other) in pairs if one != other), 0)
