"""The data of a run: the training corpus, and the trial lists that validate it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrl.config import Config, DataConfig, ValidationListConfig
from mrl.data.clips import ClipBank
from mrl.data.corpus import Corpus, scan
from mrl.data.trials import TrialList, check_audio_exists, generate_trials, read_trials, write_trials
from mrl.errors import DataError
from mrl.randomness import numpy_generator

Say = Callable[[str], None]
_SPEAKERS_NAMED = 5
_SECONDS_BETWEEN_SCAN_LINES = 5.0


@dataclass(frozen=True)
class RunData:
    """``train`` holds none of the speakers of ``validation``."""

    train: Corpus
    validation: tuple[TrialList, ...]
    noise: ClipBank | None = None
    rooms: ClipBank | None = None


def assemble(config: Config, say: Say, *, write_lists: bool = True) -> RunData:
    """Scan the corpora, hold speakers out, read or make the trial lists, and check what must hold.

    Made lists are written to the log folder, so that they can be read and cited,
    unless ``write_lists`` is false. Raises DataError for a
    folder without speech, a bad list, a missing audio file, and a speaker both in training and in validation.
    """
    train = _scan(config.data, config.data.train[0].path, say)
    lists: list[TrialList] = []
    for entry in config.validation.lists:
        if entry.hold_out_speakers is not None:
            train, trials = _hold_out(train, entry, entry.hold_out_speakers, config.seed)
        elif entry.trials is not None:
            assert entry.root is not None  # held by the configuration
            trials = read_trials(entry.trials, entry.root, entry.name)
            check_audio_exists(trials)
        else:
            assert entry.root is not None
            trials = _make_list(_scan(config.data, entry.root, say), entry, config.seed)
        if entry.trials is None and write_lists:
            write_trials(trials, made_list_path(config, entry.name))
        lists.append(trials)
    for trials in lists:
        _require_disjoint(train, trials)
    _say_what_there_is(train, lists, say)
    noise, rooms = config.data.noise, config.data.room_responses
    return RunData(
        train,
        tuple(lists),
        None if noise is None else ClipBank.from_folder(noise, "noise"),
        None if rooms is None else ClipBank.from_folder(rooms, "room_responses"),
    )


def configured_lists(config: Config, fingerprints: Mapping[str, str]) -> tuple[TrialList, ...]:
    """The validation lists of a run that has been made before: those that it made are read where it wrote them.

    Raises DataError for a list or an audio file that is missing, and for a list that is not the one of that run
    (by its name's fingerprint): another list may hold speakers that the run trained on.
    """
    lists = []
    for entry in config.validation.lists:
        root = config.data.train[0].path if entry.root is None else entry.root
        path = made_list_path(config, entry.name) if entry.trials is None else entry.trials
        trials = read_trials(path, root, entry.name)
        if trials.fingerprint() != fingerprints.get(entry.name):
            raise DataError(
                f"{path}: not the list {entry.name} that this checkpoint was validated on, another run has "
                "written it since; score the list that you mean with --trials and --root"
            )
        check_audio_exists(trials)
        lists.append(trials)
    return tuple(lists)


def made_list_path(config: Config, name: str) -> Path:
    """Where the list called ``name`` that a run makes is written."""
    return config.logging.directory / "trials" / f"{name}.txt"


def _scan(data: DataConfig, root: Path, say: Say) -> Corpus:
    corpus = scan(root, manifest_dir=data.cache / "manifests", progress=_ScanReport(root, say))
    if corpus.ignored_files:
        say(f"{root}: {corpus.ignored_files} audio files lie outside a speaker folder and are left out")
    return corpus


class _ScanReport:
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


def _hold_out(train: Corpus, entry: ValidationListConfig, count: int, seed: int) -> tuple[Corpus, TrialList]:
    """Take ``count`` speakers with at least two utterances out of ``train`` and make a list of them."""
    per_speaker = np.bincount(train.speaker_ids, minlength=len(train.speakers))
    eligible = [name for name, utterances in zip(train.speakers, per_speaker, strict=True) if utterances > 1]
    if len(eligible) < count or len(train.speakers) - count < 2:
        raise DataError(
            f"validation list {entry.name}: hold_out_speakers is {count}, but of the {len(train.speakers)} "
            f"speakers of data.train {len(eligible)} have two utterances or more, and two must stay to train on"
        )
    chosen = numpy_generator(seed, "hold out", entry.name).choice(eligible, size=count, replace=False)
    train, held_out = train.split_speakers({str(name) for name in chosen})
    return train, _make_list(held_out, entry, seed)


def _make_list(corpus: Corpus, entry: ValidationListConfig, seed: int) -> TrialList:
    return generate_trials(
        corpus,
        seed=seed,
        name=entry.name,
        targets_per_speaker=entry.targets_per_speaker,
        nontargets_per_target=entry.nontargets_per_target,
    )


def _require_disjoint(train: Corpus, trials: TrialList) -> None:
    if shared := sorted(set(train.speakers) & trials.speakers()):
        named = ", ".join(shared[:_SPEAKERS_NAMED]) + (", ..." if len(shared) > _SPEAKERS_NAMED else "")
        raise DataError(
            f"{len(shared)} speakers are in data.train ({train.root}) and in the validation list "
            f"{trials.name} ({named}); an EER on speakers seen in training means nothing: remove them from one"
        )


def _say_what_there_is(train: Corpus, lists: list[TrialList], say: Say) -> None:
    say(f"training: {len(train)} utterances of {len(train.speakers)} speakers in {train.root}")
    for trials in lists:
        say(
            f"validation {trials.name}: {len(trials.labels)} trials ({trials.num_targets} target), "
            f"{len(trials.utterances)} utterances of {len(trials.speakers())} speakers in {trials.root}"
        )
