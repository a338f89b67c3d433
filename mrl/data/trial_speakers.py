"""Who speaks in each utterance of a trial list. N trials, U utterances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mrl.data.trial_list import TrialList, speaker_depth
from mrl.errors import DataError


def speaker_numbers(trials: TrialList) -> NDArray[np.int64]:
    """The speaker of each utterance [U], as a number 0..S - 1.

    Speakers are the first folders in which the paths differ. Where these contradict the labels of a list with
    enrolment models, as in CN-Celeb, whose test utterances lie in one folder, the labels tell: what target trials
    join is one speaker. That is exact where each model meets each test utterance; otherwise a speaker may count
    as several.

    Raises DataError where the labels are contradicted: a target trial of two speakers, a non-target trial of one.
    """
    by_folder = _by_folder(trials)
    wrong = _contradictions(trials, by_folder)
    if not len(wrong):
        return by_folder
    if trials.models is not None:
        by_labels = _by_labels(trials)
        if not len(_contradictions(trials, by_labels)):
            return by_labels
    first = wrong[0]
    kind = "target" if trials.labels[first] else "non-target"
    pair = [trials.utterances[places[first]] for places in (trials.enrolment, trials.test)]
    raise DataError(
        f"{trials.name}: {pair[0]} and {pair[1]} are a {kind} trial, so their folders do not name their "
        "speakers; intervals over speakers need paths <speaker>/.../<file>, or do without: "
        "--set evaluation.bootstrap=0"
    )


def _by_folder(trials: TrialList) -> NDArray[np.int64]:
    depth = speaker_depth(trials.utterances)
    names = [utterance.split("/")[depth] for utterance in trials.utterances]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def _by_labels(trials: TrialList) -> NDArray[np.int64]:
    """The connected parts of the graph whose edges are target trials and utterances of one model."""
    assert trials.models is not None
    firsts = [rows[0] for rows in trials.models.utterances for _ in rows]
    ends = np.concatenate([trials.enrolment[trials.labels], firsts])
    others = np.concatenate([trials.test[trials.labels], *trials.models.utterances])
    count = len(trials.utterances)
    graph = coo_array((np.ones(len(ends), dtype=bool), (ends, others)), shape=(count, count))
    numbers: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return numbers


def _contradictions(trials: TrialList, speakers: NDArray[np.int64]) -> NDArray[np.intp]:
    """Trials whose label says other than ``speakers`` [U]; all that name a model of several speakers, if any does."""
    wrong = (speakers[trials.enrolment] == speakers[trials.test]) != trials.labels
    if trials.models is not None:
        mixed = [(speakers[rows] != speakers[rows[0]]).any() for rows in trials.models.utterances]
        wrong |= np.array(mixed, dtype=bool)[trials.models.of_trial]
    return np.flatnonzero(wrong)
