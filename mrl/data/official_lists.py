"""Published trial lists, told by their content. N trials, U utterances, M enrolment models.

Sources of the figures: for VoxCeleb1-O (cleaned) the list itself (``veri_test2.txt`` of
https://www.robots.ox.ac.uk/~vgg/data/voxceleb/); for the other lists of VoxCeleb1 the trials and targets of the
table in ``examples/voxceleb/README.md`` of https://github.com/PaddlePaddle/PaddleSpeech, whose row for that one
agrees with it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from mrl.data.trial_list import TrialList
from mrl.data.trial_pairs import num_repeated, num_with_itself

_KEPT_PARTS = 3  # of a path: speaker, session and file
_LINES_AT_A_TIME = 65_536


class ListDescription(TypedDict):
    """What a trial list is, for tables and files."""

    trials: int
    targets: int
    utterances: int
    models: int  # 0 where each enrolment is one utterance
    repeated: int  # trials whose pair came before
    with_itself: int  # trials of a recording with itself
    sha256: str  # `content_sha256`
    official_name: str | None


class _Published(NamedTuple):
    trials: int
    targets: int
    sha256: str | None = None  # None: there was no file here to hash


_VOXCELEB1 = re.compile(r"id1\d{4}/[\w-]{11}/\d{5}\.\w+")  # speaker, video and file
_PUBLISHED = {
    "VoxCeleb1-O": _Published(37_720, 18_860),
    "VoxCeleb1-O (cleaned)": _Published(
        37_611, 18_802, "b78a1623af3cf506300bd845b19f6646279a1135a2e419aef0df26e26a1f0d93"
    ),
    "VoxCeleb1-E": _Published(581_480, 290_743),
    "VoxCeleb1-E (cleaned)": _Published(579_818, 289_921),
    "VoxCeleb1-H": _Published(552_536, 276_270),
    "VoxCeleb1-H (cleaned)": _Published(550_894, 275_488),
}


def describe_list(trials: TrialList) -> ListDescription:
    """Counts, SHA-256 and published name of ``trials``."""
    digest = content_sha256(trials)
    return ListDescription(
        trials=len(trials),
        targets=trials.num_targets,
        utterances=len(trials.utterances),
        models=0 if trials.models is None else len(trials.models.names),
        repeated=num_repeated(trials),
        with_itself=num_with_itself(trials),
        sha256=digest,
        official_name=_name_of(trials, digest),
    )


def official_name(trials: TrialList) -> str | None:
    """The name of the published list that ``trials`` is, or None.

    VoxCeleb1-O (cleaned) is told by the SHA-256 of its content. Other lists are told by the numbers of their trials
    and targets and by the form of their paths, and the name then says "by its counts": single trials may differ.
    """
    return _name_of(trials, None)


def content_sha256(trials: TrialList) -> str:
    """SHA-256 of what ``trials`` says, however it is written.

    It is that of the lines ``label enrolment test`` with labels 1 and 0 and paths cut to their last three parts, in
    the order of their bytes: of a list with such paths, what ``LC_ALL=C sort LIST | sha256sum`` prints. So the
    order of lines and columns, line ends, words for labels and leading folders play no part. Of a list with models
    the lines ``model utterance`` of the models in use follow, likewise sorted.
    """
    digest = hashlib.sha256()
    for text in _sorted_lines(trials):
        digest.update(text)
    if trials.models is not None:
        members = zip(trials.models.names, trials.models.utterances, strict=True)
        lines = (
            os.fsencode(f"{name} {_short(trials.utterances[row])}\n")
            for name, rows in members
            for row in rows
        )
        digest.update(b"".join(sorted(lines)))
    return digest.hexdigest()


def _name_of(trials: TrialList, digest: str | None) -> str | None:
    counts = (len(trials), trials.num_targets)
    for name, published in _PUBLISHED.items():
        if counts != (published.trials, published.targets) or trials.models is not None:
            continue
        if published.sha256 is not None:
            return name if published.sha256 == (digest or content_sha256(trials)) else None
        if all(_VOXCELEB1.fullmatch(_short(path)) for path in trials.utterances):
            return f"{name}, by its counts"
    return None


def _short(path: str) -> str:
    """The last three parts of ``path``."""
    return "/".join(path.split("/")[-_KEPT_PARTS:])


def _sorted_lines(trials: TrialList) -> Iterator[bytes]:
    """The lines of the trials, sorted, some thousands at a time."""
    tests, test = _ranked([_short(path) for path in trials.utterances], trials.test)
    if trials.models is None:
        enrolments, enrolment = _ranked([_short(path) for path in trials.utterances], trials.enrolment)
    else:
        enrolments, enrolment = _ranked(list(trials.models.names), trials.models.of_trial)
    order = np.lexsort((test, enrolment, trials.labels))
    for start in range(0, len(order), _LINES_AT_A_TIME):
        places = order[start : start + _LINES_AT_A_TIME]
        rows = zip(
            trials.labels[places].tolist(), enrolment[places].tolist(), test[places].tolist(), strict=True
        )
        yield b"".join(b"%d %b %b\n" % (label, enrolments[one], tests[other]) for label, one, other in rows)


def _ranked(names: list[str], places: NDArray[np.int32]) -> tuple[list[bytes], NDArray[np.int64]]:
    """The distinct ``names`` in the order of their bytes, and for each of ``places`` [N] the rank of its name."""
    encoded = [os.fsencode(name) for name in names]
    distinct = sorted(set(encoded))
    rank = {name: number for number, name in enumerate(distinct)}
    ranks = np.array([rank[name] for name in encoded], dtype=np.int64)
    return distinct, ranks[places]
