"""Pairs of a trial list that come more than once, or contradict each other. N trials, M models, U utterances.

A pair is the same in either order, for (a, b) scores what (b, a) does; a model and a test utterance have no order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mrl.data.trial_lines import Problems
from mrl.data.trial_list import TrialList


def num_repeated(trials: TrialList) -> int:
    """Trials whose pair stands before them already, in either order: harmless, each counts once more.

    VoxCeleb1-O (cleaned) has 337 of them, all in the other order.
    """
    pairs = _pairs(trials)
    return len(pairs) - len(np.unique(pairs))


def num_with_itself(trials: TrialList) -> int:
    """Trials of a recording with itself, or with a model that it is part of.

    They are kept, for figures on a list are figures on the whole of it; but a recording and itself score 1 whatever
    the encoder, so that each of them lowers the error rate and says nothing.
    """
    return int(_with_itself(trials).sum())


def add_contradictions(trials: TrialList, problems: Problems) -> None:
    """Add each pair that is a target trial here and a non-target trial there, and each recording unlike itself."""
    assert trials.lines is not None
    pairs = _pairs(trials)
    order = np.argsort(pairs, kind="stable")
    follows = np.flatnonzero(
        (np.diff(pairs[order]) == 0) & (trials.labels[order][1:] != trials.labels[order][:-1])
    )
    found = [(int(trials.lines[order[place + 1]]), int(order[place]), "") for place in follows]
    itself = np.flatnonzero(_with_itself(trials) & ~trials.labels)
    found += [(int(trials.lines[trial]), int(trial), "itself") for trial in itself]
    for line, trial, kind in sorted(found):
        if kind:
            problems.add(line, "a recording and itself are a target trial, not a nontarget trial")
        else:
            label = "target" if trials.labels[trial] else "nontarget"
            problems.add(line, f"the same pair is a {label} trial on line {trials.lines[trial]}")


def _pairs(trials: TrialList) -> NDArray[np.int64]:
    """A number for each trial [N], the same where the pair is."""
    test = trials.test.astype(np.int64)
    if trials.models is not None:
        return trials.models.of_trial * np.int64(len(trials.utterances)) + test
    low, high = np.minimum(trials.enrolment, test), np.maximum(trials.enrolment, test)
    return low * np.int64(len(trials.utterances)) + high


def _with_itself(trials: TrialList) -> NDArray[np.bool_]:
    if trials.models is None:
        return trials.enrolment == trials.test
    sizes = [len(utterances) for utterances in trials.models.utterances]
    models = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    members = models * len(trials.utterances) + np.concatenate(trials.models.utterances)
    return np.isin(_pairs(trials), members)
