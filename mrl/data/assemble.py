"""The data of a run: the training corpus, and the trial lists that validate it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrl.config import Config, DataConfig, ValidationListConfig
from mrl.data.clips import ClipBanks
from mrl.data.corpus import Corpus
from mrl.data.held_out import split_utterances
from mrl.data.joining import common_root
from mrl.data.overlap import shared_speakers, speakers_of
from mrl.data.readable import RequireSamples, check_audio_readable
from mrl.data.sampling import stage_sampling
from mrl.data.training_corpus import Say, hold_out, scan_folder, scan_training
from mrl.data.trial_making import generate_trials, target_speakers_of_one_session
from mrl.data.trials import TrialList, check_audio_exists, read_trials, write_trials
from mrl.errors import DataError

_SPEAKERS_NAMED = 5


@dataclass(frozen=True)
class RunData:
    """``train`` holds none of the speakers of ``validation``, unless the run is a diagnosis."""

    train: Corpus
    validation: tuple[TrialList, ...]
    banks: ClipBanks
    held_out: Corpus | None = None
    """Utterances of the speakers of ``train``, with the same speaker numbers, that it is not trained on."""
    diagnostic: bool = False
    """Validation speakers are trained on too: the scores say nothing of new speakers."""


def assemble(
    config: Config, say: Say, *, require_samples: RequireSamples | None = None, write_lists: bool = True
) -> RunData:
    """Scan the corpora, hold speakers and utterances out, read or make the trial lists, and check what must hold.

    Made lists are written to the log folder, so that they can be read and cited,
    unless ``write_lists`` is false. Raises DataError for a folder without speech, corpora within each other, a bad
    list, audio files of a list that are missing, cannot be read, or are too short for ``require_samples`` (see
    :func:`check_audio_readable`), a speaker both in training and in validation, and speakers too few for the
    batches of a stage.
    """
    whole = scan_training(config, say)
    train = whole
    lists: list[TrialList] = []
    for entry in config.validation.lists:
        if entry.hold_out_speakers is not None:
            train, held_out = hold_out(train, entry, entry.hold_out_speakers, config)
            trials = _make_list(held_out, entry, config.seed, say)
        elif entry.trials is not None:
            assert entry.root is not None  # held by the configuration
            trials = read_trials(entry.trials, entry.root, entry.name)
            check_audio_exists(trials)
        else:
            assert entry.root is not None
            trials = _make_list(scan_folder(config.data, entry.root, say), entry, config.seed, say)
        lists.append(trials)
    if config.data.include_validation_speakers:
        train = whole
        _say_diagnosis(train, lists, say)
    else:
        for trials in lists:
            _require_disjoint(train, trials)
    check_audio_readable(lists, require_samples)
    utterances_held_out = None
    if config.data.held_out_share:
        train, utterances_held_out = split_utterances(train, config.data.held_out_share, config.seed)
    for stage in config.stages:
        stage_sampling(config, stage, train)
    for entry, trials in zip(config.validation.lists, lists, strict=True):
        if entry.trials is None and write_lists:
            _write_made(trials, made_list_path(config, entry.name), say)
    _say_what_there_is(config.data, train, utterances_held_out, lists, say)
    diagnostic = config.data.include_validation_speakers
    return RunData(train, tuple(lists), ClipBanks.of(config.data), utterances_held_out, diagnostic)


def configured_lists(config: Config, fingerprints: Mapping[str, str]) -> tuple[TrialList, ...]:
    """The validation lists of a run that has been made before: those that it made are read where it wrote them.

    Raises DataError for a list or an audio file that is missing, and for a list that is not the one of that run
    (by its name's fingerprint): another list may hold speakers that the run trained on.
    """
    lists = []
    for entry in config.validation.lists:
        train = [corpus.path for corpus in config.data.train]
        root = common_root(train) if entry.root is None else entry.root
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


def _write_made(trials: TrialList, path: Path, say: Say) -> None:
    """Write a list that was made; on a full or read-only disk that is said, for it is made again in each run."""
    try:
        write_trials(trials, path)
    except DataError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        say(f"{error}; the run goes on, evaluate.py will need the list by --trials and --root")


def _make_list(corpus: Corpus, entry: ValidationListConfig, seed: int, say: Say) -> TrialList:
    trials = generate_trials(
        corpus,
        seed=seed,
        name=entry.name,
        targets_per_speaker=entry.targets_per_speaker,
        nontargets_per_target=entry.nontargets_per_target,
    )
    within, speakers = target_speakers_of_one_session(corpus)
    if within:
        say(
            f"validation {entry.name}: {within} of {speakers} speakers with target trials have one session, so "
            "their trials stay within it: its EER is optimistic; put each session in a folder of its own"
        )
    return trials


def _require_disjoint(train: Corpus, trials: TrialList) -> None:
    if shared := shared_speakers(train, trials):
        named = ", ".join(shared[:_SPEAKERS_NAMED]) + (", ..." if len(shared) > _SPEAKERS_NAMED else "")
        raise DataError(
            f"{len(shared)} speakers are in data.train ({train.root}) and in the validation list "
            f"{trials.name} ({named}); an EER on speakers seen in training means nothing: remove them from one"
        )


def _say_diagnosis(train: Corpus, lists: list[TrialList], say: Say) -> None:
    shared = {trials.name: len(shared_speakers(train, trials)) for trials in lists}
    if not any(shared.values()):
        raise DataError(
            "data.include_validation_speakers: no speaker of a validation list is in data.train, so it does "
            "nothing; leave it out, or add the folder of these speakers to data.train"
        )
    counts = ", ".join(
        f"{shared[trials.name]} of {len(speakers_of(trials, train))} speakers of {trials.name}"
        for trials in lists
    )
    say(
        f"DIAGNOSIS ONLY (data.include_validation_speakers): {counts} are trained on; no EER of this run says "
        "anything of new speakers"
    )


def _say_what_there_is(
    data: DataConfig, train: Corpus, held_out: Corpus | None, lists: list[TrialList], say: Say
) -> None:
    say(f"training: {len(train)} utterances of {len(train.speakers)} speakers in {train.root}")
    if len(data.train) > 1:
        corpora = train.corpus_of_speaker
        speakers = np.bincount(corpora, minlength=len(data.train))
        utterances = np.bincount(corpora[train.speaker_ids], minlength=len(data.train))
        for number, corpus in enumerate(data.train):
            share = "" if corpus.weight is None else f", weight {corpus.weight:g}"
            say(f"  {corpus.label}: {utterances[number]} utterances of {speakers[number]} speakers{share}")
    if held_out is not None:
        speakers_held = len(np.unique(held_out.speaker_ids))
        say(f"held out: {len(held_out)} more utterances of {speakers_held} of these speakers")
    for trials in lists:
        say(
            f"validation {trials.name}: {len(trials.labels)} trials ({trials.num_targets} target), "
            f"{len(trials.utterances)} utterances of {len(speakers_of(trials, train))} speakers in {trials.root}"
        )
