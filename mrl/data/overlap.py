"""Who speaks in a trial list, and whether training knows them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from mrl.data.corpus import Corpus
from mrl.data.trial_list import TrialList, speaker_depth
from mrl.errors import DataError

_SPEAKERS_NAMED = 5
_MODEL_SUFFIX = "-enroll"  # CN-Celeb calls the model of speaker id00800 so


@dataclass(frozen=True)
class ListSpeakers:
    """Speakers of a trial list: of files that lie in a training corpus, and of those that lie elsewhere."""

    inside: frozenset[tuple[int, str]]
    """(number of the corpus, speaker's folder), as the corpus itself tells speakers."""
    outside: frozenset[str]
    """Speakers' folders."""

    def __len__(self) -> int:
        return len(self.inside) + len(self.outside)


def speakers_of(trials: TrialList, train: Corpus) -> ListSpeakers:
    """The speakers of ``trials``, told as ``train`` tells them wherever the list's files lie in its folders.

    Whether the list's root is the corpus's, lies above it or below it: the speaker is the folder directly in the
    corpus. Of files elsewhere it is the first folder in which the list's paths differ.
    """
    top = os.path.realpath(trials.root)
    corpora = [os.path.join(os.path.realpath(train.root / folder), "") for folder in train.folders]
    depth = speaker_depth(trials.utterances)
    inside: set[tuple[int, str]] = set()
    outside: set[str] = set()
    for utterance in trials.utterances:
        path = os.path.join(top, utterance)
        number = next((n for n, corpus in enumerate(corpora) if path.startswith(corpus)), None)
        if number is None:
            outside.add(utterance.split("/")[depth])
        else:
            inside.add((number, path[len(corpora[number]) :].partition("/")[0]))
    return ListSpeakers(frozenset(inside), frozenset(outside))


def shared_speakers(train: Corpus, trials: TrialList) -> list[str]:
    """Names of the speakers of ``train`` who are also in ``trials``, sorted.

    Within the folders of ``train`` they are the same where corpus and folder are; a file from elsewhere is held
    to be of a training speaker whose folder, in whichever corpus, has the same name, and an enrolment model to be of
    one whose folder is called like it.
    """
    speakers = speakers_of(trials, train)
    elsewhere = speakers.outside
    if elsewhere and trials.models is not None:
        elsewhere |= {name.removesuffix(_MODEL_SUFFIX) for name in trials.models.names}
    return sorted(
        name
        for number, name in enumerate(train.speakers)
        if (int(train.corpus_of_speaker[number]), train.speaker_folder(number)) in speakers.inside
        or train.speaker_folder(number) in elsewhere
    )


def require_unheard(train: Corpus, lists: Iterable[TrialList], purpose: str) -> None:
    """Raise DataError, naming some, where speakers of ``train`` are in one of ``lists``; ``purpose`` says what for."""
    for trials in lists:
        if shared := shared_speakers(train, trials):
            named = ", ".join(shared[:_SPEAKERS_NAMED]) + (", ..." if len(shared) > _SPEAKERS_NAMED else "")
            raise DataError(
                f"speakers of data.train ({train.root}) are in the trial list {trials.name} too: {len(shared)}, "
                f"{named}; {purpose}"
            )
