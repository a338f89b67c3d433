"""The corpus that a run trains on: scanned, and without the speakers that the run holds out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mrl.config import Config, DataConfig, ValidationListConfig
from mrl.data.corpus import Corpus, scan
from mrl.data.joining import join_corpora
from mrl.errors import DataError
from mrl.randomness import numpy_generator

Say = Callable[[str], None]
_SECONDS_BETWEEN_SCAN_LINES = 5.0


def training_corpus(config: Config, say: Say) -> Corpus:
    """The corpora of ``data.train`` as one, without the speakers that ``validation`` holds out.

    Speakers are drawn by ``seed`` and the lists' names, so these are the same as when the run was made, as long as the
    corpora are. Raises DataError for a folder without speech and corpora within each other.
    """
    train = scan_training(config, say)
    for entry in config.validation.lists:
        if entry.hold_out_speakers is not None:
            train, _ = hold_out(train, entry, entry.hold_out_speakers, config)
    return train


def scan_training(config: Config, say: Say) -> Corpus:
    """All of ``data.train`` as one corpus. Raises DataError as `training_corpus` does."""
    return join_corpora(
        {corpus.label: scan_folder(config.data, corpus.path, say) for corpus in config.data.train}
    )


def scan_folder(data: DataConfig, root: Path, say: Say) -> Corpus:
    """The corpus in ``root``, its manifest kept in the cache; long scans and files left out are said."""
    corpus = scan(root, manifest_dir=data.cache / "manifests", progress=ScanReport(root, say))
    if corpus.ignored_files:
        say(f"{root}: {corpus.ignored_files} audio files lie outside a speaker folder and are left out")
    return corpus


class ScanReport:
    """Says how far a long scan is; how much there is to find is not known."""

    def __init__(self, root: Path, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._say, self._clock = root, say, clock
        self._found = 0
        self._started = self._said = clock()

    def __call__(self, found: int) -> None:
        self._found += found
        now = self._clock()
        if now - self._said >= _SECONDS_BETWEEN_SCAN_LINES:
            rate = self._found / (now - self._started)
            self._said = now
            self._say(f"scanning {self._root}: {self._found:,} utterances so far, {rate:,.0f}/s")


def hold_out(train: Corpus, entry: ValidationListConfig, count: int, config: Config) -> tuple[Corpus, Corpus]:
    """``train`` without ``count`` speakers who have at least two utterances, and these alone.

    Raises DataError where there are too few of them, or fewer than two speakers would be left.
    """
    per_speaker = np.bincount(train.speaker_ids, minlength=len(train.speakers))
    may_go = per_speaker > 1
    if entry.hold_out_from is not None and len(config.data.train) > 1:
        labels = [corpus.label for corpus in config.data.train]
        may_go &= train.corpus_of_speaker == labels.index(entry.hold_out_from)
    eligible = [name for name, may in zip(train.speakers, may_go, strict=True) if may]
    if len(eligible) < count or len(train.speakers) - count < 2:
        whose = "" if entry.hold_out_from is None else f"of {entry.hold_out_from} "
        raise DataError(
            f"validation list {entry.name}: hold_out_speakers is {count}, but of the {len(train.speakers)} "
            f"speakers of data.train {len(eligible)} {whose}have two utterances or more, and two must stay to "
            "train on"
        )
    chosen = numpy_generator(config.seed, "hold out", entry.name).choice(eligible, size=count, replace=False)
    return train.split_speakers({str(name) for name in chosen})
